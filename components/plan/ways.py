"""List the ways to share a training among the devices of one node, or of several."""

from typing import TYPE_CHECKING

from deepcuts.components.core.nodepools import NodePool

if TYPE_CHECKING:
    from deepcuts.components.plan.choice import PlanTask

ALONE = [("single", 1, 1)]


def of(task: "PlanTask", pool: NodePool) -> list[tuple[str, int, int]]:
    """Return (strategy, devices per node, nodes) that pool and Recipe allow.

    All devices of a node are used if they are connected, else one. Numbers of nodes are powers of 2 and the
    pool's ``max_nodes``, as long as each process gets a row of every step.
    """
    if task.single:
        return ALONE
    recipe, connected = task.recipe, pool.interconnect_bytes_per_second is not None
    many = pool.accelerator_count if pool.accelerator_count > 1 and connected else 1
    unsharded = recipe.base_precision == "nf4" or recipe.compile == "on"  # Recipe refuses them with shards
    found = [("ddp", many, 1)] if many > 1 else []
    found += [("fsdp", many, 1)] if many > 1 and not unsharded else []
    for nodes in _several(task, pool, many):
        found.append(("ddp", many, nodes))
        found += [] if unsharded else [("fsdp", many, nodes)]
        found += [] if unsharded or many == 1 else [("hsdp", many, nodes)]
    return ALONE + [way for way in found if recipe.strategy in ("auto", way[0])]


def _several(task: "PlanTask", pool: NodePool, devices: int) -> list[int]:
    """Return the numbers of nodes above 1 that the training may take."""
    if task.one_node or task.copies > 1:
        return []
    rows = task.recipe.tokens_per_step // task.recipe.seq_len
    counts = {2**power for power in range(1, pool.max_nodes.bit_length())} | {pool.max_nodes}
    return [nodes for nodes in sorted(counts) if 1 < nodes <= pool.max_nodes and nodes * devices <= rows]
