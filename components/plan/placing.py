"""Where training goes: which pools may take it, and what its pod and those that score it ask for."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from deepcuts.components.core import files, pods
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.plan.architecture import Architecture
from deepcuts.components.plan.memory import CPU_PROCESS_BYTES, FP32, Memory

AUTO = "auto"
Spot = Literal["never", "allowed"]
MARGIN = 1.2
"""Of a request over the predicted bytes: pages of files that a container reads count as its memory, too."""
MIN_BYTES = 2 * 2**30
"""Of a request: the tokenised data, and compile workers, of which the prediction knows nothing."""
CORES_OF_DEVICE = 4
"""One feeds an accelerator, one packs the next batch, two compile or write checkpoints meanwhile."""
SCORED_TOKENS = 16_384
"""Of one forward pass of scoring, ``training/scoring.py``'s BATCH_TOKENS."""
NO_ACCELERATOR = "nvidia.com/gpu"
"""Named with the count 0 on a CPU pool: KFP sets a type in any case, and Kubernetes takes 0 of an unknown."""
HALF = ("bfloat16", "float16")


class Wish(NamedTuple):
    """What is asked of the place, before any price is looked at."""

    pool: str = AUTO
    """Name of the pool to train on; ``auto`` leaves the choice free."""
    spot: Spot = "allowed"
    queue: str | None = None
    """Kueue queue that the task is labelled for; None where it is not compiled yet."""
    watcher: str = ""
    """Pool of its watcher, which runs as long as training; empty for none."""


def barred(pools: Mapping[str, NodePool], wish: Wish) -> dict[str, str]:
    """Return why a pool cannot take the training, by name; pools that can are not in it.

    Raises:
        ValueError: there is no pool of the name that is wished for, or that very pool is barred.
    """
    if wish.pool != AUTO and wish.pool not in pools:
        raise ValueError(
            f"no node pool {wish.pool!r} to plan for: give auto, or one of {', '.join(pools)} in nodepools"
        )
    found: dict[str, str] = {}
    for name, pool in pools.items():
        if wish.queue is not None and pool.queue != wish.queue:
            found[name] = (
                f"its queue is {pool.queue!r} and the task is labelled for {wish.queue!r}: give both pools "
                "one queue in nodepools.yaml and compile again"
            )
        if pool.spot and wish.spot == "never":
            found[name] = "it is a spot pool and spot is never: set spot to allowed"
    if wish.pool in found:
        raise ValueError(f"pool {wish.pool!r} cannot take the training: {found[wish.pool]}, or name another")
    if wish.pool != AUTO:
        found |= {name: f"training is placed on {wish.pool}" for name in pools if name != wish.pool}
    return found


def share(pool: NodePool, watcher: NodePool | None) -> float:
    """Return the part of a node of ``pool`` that training gets: less where it meets its watcher there."""
    return pods.TRAINING_SHARE if _meet(pool, watcher) else pods.NODE_SHARE


def room_bytes(pool: NodePool, watcher: NodePool | None) -> int:
    """Return the memory for training tensors: an accelerator's, or the task's part of a CPU node."""
    if pool.accelerator:
        return pool.accelerator_memory_bytes
    return round(share(pool, watcher) * pool.memory_bytes)


def outputs(
    pool: NodePool,
    watcher: NodePool | None,
    devices: int,
    memory: Memory,
    shapes: Architecture,
    recipe: Recipe,
    answer_share: float,
) -> dict[str, Any]:
    """Return what a training of ``memory`` on ``devices`` of ``pool`` asks for, by output of the component.

    KFP's driver puts them into the pods; all but selector and tolerations are text to it.
    """
    part, cores = share(pool, watcher), pods.cores(pool, share(pool, watcher))
    wanted = host_bytes(shapes, recipe, memory, devices) if pool.accelerator else memory.total
    other = watcher or pool
    their_part = pods.SCORING_SHARE if _meet(pool, other) else pods.NODE_SHARE
    return {
        "train_pool": pool.name,
        "train_selector": pool.selector,
        "train_taints": [pods.toleration(one) for one in pool.tolerations],
        "train_cpu": f"{min(cores, CORES_OF_DEVICE * devices) if pool.accelerator else cores:g}",
        "train_memory": _quantity(wanted, part * pool.memory_bytes),
        "train_device": pool.accelerator or NO_ACCELERATOR,
        "train_devices": str(devices if pool.accelerator else 0),
        "scoring_cpu": f"{pods.cores(other, their_part):g}",
        "scoring_memory": _quantity(scoring_bytes(shapes, answer_share), their_part * other.memory_bytes),
    }


def leave(files_of: Mapping[str, Path], values: Mapping[str, Any]) -> None:
    """Write output parameters as KFP's launcher reads them: text as it is, everything else as JSON."""
    for name, path in files_of.items():
        value = values[name]
        with files.staged(path) as staging:
            staging.write_text(value if isinstance(value, str) else json.dumps(value))


def host_bytes(shapes: Architecture, recipe: Recipe, memory: Memory, devices: int) -> float:
    """Return the memory of the node itself where training is on accelerators.

    Each process loads the weights as they are stored before it moves them; a checkpoint brings what is
    trained back, once, with two moments.
    """
    half = json.loads(shapes.config).get("dtype", json.loads(shapes.config).get("torch_dtype")) in HALF
    stored = (2 if half and recipe.method == "lora" else FP32) * shapes.tree.weights
    shards = devices if recipe.strategy == "fsdp" else 1
    return devices * (CPU_PROCESS_BYTES + stored) + shards * (memory.gradients + memory.optimizer)


def scoring_bytes(shapes: Architecture, answer_share: float) -> float:
    """Return the memory that scoring takes on a CPU: weights, a block's results, logits and a copy."""
    tree = shapes.tree
    block = SCORED_TOKENS * tree.block_weights / tree.width
    logits = 2 * SCORED_TOKENS * answer_share * tree.vocabulary
    return CPU_PROCESS_BYTES + FP32 * (tree.weights + block + logits)


def _meet(pool: NodePool, watcher: NodePool | None) -> bool:
    return watcher is not None and pool.selector == watcher.selector


def _quantity(wanted: float, most: float) -> str:
    """Return a request in MiB: with its margin, but no more than the node's part has."""
    return f"{math.floor(min(max(MARGIN * wanted, MIN_BYTES), most) / 2**20)}Mi"
