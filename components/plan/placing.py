"""Work out the requests of pods, and which pools may run training."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from deepcuts.components.core import files, pods
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.core.spread import Spread
from deepcuts.components.plan.architecture import Architecture
from deepcuts.components.plan.memory import CPU_PROCESS_BYTES, FP32, Memory, shards


class OnPool(Protocol):
    """An option of a plan."""

    @property
    def pool(self) -> str:
        """Return the name of its node pool."""


T = TypeVar("T", bound=OnPool)
AUTO = "auto"
Spot = Literal["never", "allowed"]
MARGIN = 1.2
"""Request / predicted bytes: file pages that a container reads count as its memory, too."""
MIN_BYTES = 2 * 2**30
"""Minimum request: room for tokenised data and compile workers, which are not predicted."""
CORES_OF_DEVICE = 4
"""One feeds an accelerator, one packs the next batch, two compile or write checkpoints."""
FOLLOWING_CORES = 0.5
"""For the task that starts a training over several nodes: it asks, waits and copies."""
NO_ACCELERATOR = "nvidia.com/gpu"
"""Used with count 0 on a CPU pool: KFP always sets a type, and Kubernetes accepts 0 of an unknown one."""


class CompiledFor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings that KFP's driver takes only from the compiled file."""

    device: str
    """Resource name of accelerators."""
    training_queue: str = ""
    """Kueue queue in training's label; empty for none."""
    scoring_queue: str = ""
    """Kueue queue of the tasks that score models."""


class Wish(NamedTuple):
    """Requirements on the place, regardless of price."""

    pool: str = AUTO
    """Name of the pool to train on; ``auto`` to choose."""
    spot: Spot = "allowed"
    compiled_for: CompiledFor | None = None
    """Fixed settings of the tasks; None if they are not compiled yet."""
    watched: bool = False
    """Whether a watcher scores checkpoints during training."""


def barred(pools: Mapping[str, NodePool], wish: Wish) -> dict[str, str]:
    """Return, by name, why pools cannot run the training; pools that can are left out.

    Raises:
        ValueError: the requested pool does not exist or is barred.
    """
    if wish.pool != AUTO and wish.pool not in pools:
        raise ValueError(
            f"no node pool {wish.pool!r} to plan for: give auto, or one of {', '.join(pools)} in nodepools"
        )
    found = _not_for(pools, wish, "training_queue")
    if wish.pool in found:
        raise ValueError(f"pool {wish.pool!r} cannot run the training: {found[wish.pool]}, or name another")
    if wish.pool != AUTO:
        found |= {name: f"training is placed on {wish.pool}" for name in pools if name != wish.pool}
    return found


def allowed(found: Sequence[T], barred: Mapping[str, str], what: str) -> list[T]:
    """Return the options on pools that may run ``what``.

    Raises:
        ValueError: all pools are ``barred``; says why for each.
    """
    options = [option for option in found if option.pool not in barred]
    if not options:
        reasons = "; ".join(f"{name}: {why}" for name, why in barred.items())
        raise ValueError(f"no node pool may run {what} ({reasons})")
    return options


def barred_scoring(pools: Mapping[str, NodePool], wish: Wish) -> dict[str, str]:
    """Return, by name, why pools cannot run the tasks that score models."""
    return _not_for(pools, wish, "scoring_queue")


def _not_for(pools: Mapping[str, NodePool], wish: Wish, kind: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, pool in pools.items():
        if wish.compiled_for and pool.queue != (queue := getattr(wish.compiled_for, kind)):
            found[name] = (
                f"its queue is {pool.queue!r} and the task is labelled for {queue!r}: give both pools "
                "one queue in nodepools.yaml and compile again"
            )
        if wish.compiled_for and pool.accelerator not in ("", wish.compiled_for.device):
            found[name] = (
                f"its accelerator is {pool.accelerator} and the task is compiled for "
                f"{wish.compiled_for.device}: compile again with this nodepools.yaml"
            )
        if pool.closed:
            found[name] = "it is closed in nodepools"
        if pool.spot and wish.spot == "never":
            found[name] = "it is a spot pool and spot is never: set spot to allowed"
    return found


def share(pool: NodePool, alongside: Iterable[NodePool]) -> float:
    """Return training's share of a node, which is smaller if scoring may run ``alongside``."""
    return pods.TRAINING_SHARE if meets(pool, alongside) else pods.NODE_SHARE


def room_bytes(pool: NodePool, alongside: Iterable[NodePool]) -> int:
    """Return the memory for training's tensors: an accelerator's, or its share of a CPU node."""
    if pool.accelerator:
        return pool.accelerator_memory_bytes
    return round(share(pool, alongside) * pool.memory_bytes)


def pod(place: str, pool: NodePool, cpu: float, memory: str, devices: int) -> dict[str, Any]:
    """Return the requests of a pod on ``pool``, by output of the component; ``place`` prefixes the names.

    KFP's driver puts them into the pods; it takes all but selector and tolerations as text.
    """
    return {
        f"{place}_pool": pool.name,
        f"{place}_selector": pool.selector,
        f"{place}_taints": [pods.toleration(one) for one in pool.tolerations],
        f"{place}_cpu": f"{cpu:g}",
        f"{place}_memory": memory,
        f"{place}_devices": str(devices if pool.accelerator else 0),
    }


def quantity(wanted: float, most: float) -> str:
    """Return a request in MiB, with a margin but no larger than the node's share."""
    return f"{math.floor(min(max(MARGIN * wanted, MIN_BYTES), most) / 2**20)}Mi"


def meets(pool: NodePool, alongside: Iterable[NodePool]) -> bool:
    """Tell whether a pod of ``pool`` may share a CPU node with pods that run ``alongside`` it."""
    return not pool.accelerator and any(pool.selector == other.selector for other in alongside)


def leave(files_of: Mapping[str, Path], values: Mapping[str, Any]) -> None:
    """Write output parameters for KFP's launcher: text as it is, everything else as JSON."""
    for name, path in files_of.items():
        value = values[name]
        with files.staged(path) as staging:
            staging.write_text(value if isinstance(value, str) else json.dumps(value))


def spread(
    pool: NodePool, nodes: int, cpu: float, memory: str, devices: int, pools: Mapping[str, NodePool]
) -> dict[str, Any]:
    """Return the requests of a training over ``nodes``: its pods', and those of the task that follows."""
    asked = Spread(
        nodes=nodes,
        pool=pool.name,
        selector=pool.selector,
        taints=[pods.toleration(one) for one in pool.tolerations],
        queue=pool.queue,
        cpu=f"{cpu:g}",
        memory=memory,
        accelerator=pool.accelerator,
        devices=devices if pool.accelerator else 0,
    )
    where = follower(pool, pools)
    own = pod("train", where, min(FOLLOWING_CORES, where.cpu_cores), quantity(0, where.memory_bytes), 0)
    return own | {"train_nodes": msgspec.to_builtins(asked)}


def follower(pool: NodePool, pools: Mapping[str, NodePool]) -> NodePool:
    """Return the pool of the task that starts a training over nodes of ``pool`` and follows it.

    It is the cheapest CPU pool with the queue for which the task is labelled, else ``pool``.
    """
    able = [each for each in pools.values() if not (each.accelerator or each.closed or each.spot)]
    able = [each for each in able if each.queue == pool.queue] or [pool]
    return min(able, key=lambda each: float("inf") if each.usd_per_hour is None else each.usd_per_hour)


def host_bytes(shapes: Architecture, recipe: Recipe, memory: Memory, devices: int, nodes: int = 1) -> float:
    """Return the memory of a node itself for training on accelerators.

    Each process loads the weights as stored before moving them; a checkpoint copies the trained ones back
    once, with two moments.
    """
    stored = (2 if shapes.stored_half and recipe.method == "lora" else FP32) * shapes.tree.weights
    parts = shards(recipe.strategy, devices, nodes)
    return devices * (CPU_PROCESS_BYTES + stored) + parts * (memory.gradients + memory.optimizer)
