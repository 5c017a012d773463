"""What a pod asks for: which pools may take training, and the quantities in its requests."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from deepcuts.components.core import files, pods
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.plan.architecture import Architecture
from deepcuts.components.plan.memory import CPU_PROCESS_BYTES, FP32, Memory


class OnPool(Protocol):
    """An option of a plan."""

    @property
    def pool(self) -> str:
        """Return the name of its node pool."""


T = TypeVar("T", bound=OnPool)
AUTO = "auto"
Spot = Literal["never", "allowed"]
MARGIN = 1.2
"""Of a request over the predicted bytes: pages of files that a container reads count as its memory, too."""
MIN_BYTES = 2 * 2**30
"""Of a request: the tokenised data, and compile workers, of which the prediction knows nothing."""
CORES_OF_DEVICE = 4
"""One feeds an accelerator, one packs the next batch, two compile or write checkpoints meanwhile."""
NO_ACCELERATOR = "nvidia.com/gpu"
"""Named with the count 0 on a CPU pool: KFP sets a type in any case, and Kubernetes takes 0 of an unknown."""


class CompiledFor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What KFP's driver takes from the compiled file alone."""

    training_queue: str
    """Kueue queue that training is labelled for; empty for none."""
    scoring_queue: str
    """That of the tasks that score models."""
    device: str
    """Resource name of accelerators."""


class Wish(NamedTuple):
    """What is asked of the place, before any price is looked at."""

    pool: str = AUTO
    """Name of the pool to train on; ``auto`` leaves the choice free."""
    spot: Spot = "allowed"
    compiled_for: CompiledFor | None = None
    """What is fixed of the tasks; None where they are not compiled yet."""
    watched: bool = False
    """Whether a watcher scores checkpoints as long as training runs."""


def barred(pools: Mapping[str, NodePool], wish: Wish) -> dict[str, str]:
    """Return why a pool cannot take the training, by name; pools that can are not in it.

    Raises:
        ValueError: there is no pool of the name that is wished for, or that very pool is barred.
    """
    if wish.pool != AUTO and wish.pool not in pools:
        raise ValueError(
            f"no node pool {wish.pool!r} to plan for: give auto, or one of {', '.join(pools)} in nodepools"
        )
    found = _not_for(pools, wish, "training_queue")
    if wish.pool in found:
        raise ValueError(f"pool {wish.pool!r} cannot take the training: {found[wish.pool]}, or name another")
    if wish.pool != AUTO:
        found |= {name: f"training is placed on {wish.pool}" for name in pools if name != wish.pool}
    return found


def allowed(found: Sequence[T], barred: Mapping[str, str], what: str) -> list[T]:
    """Return the options on pools that may take ``what``.

    Raises:
        ValueError: all pools are ``barred``; names why, pool by pool.
    """
    options = [option for option in found if option.pool not in barred]
    if not options:
        reasons = "; ".join(f"{name}: {why}" for name, why in barred.items())
        raise ValueError(f"no node pool may take {what} ({reasons})")
    return options


def barred_scoring(pools: Mapping[str, NodePool], wish: Wish) -> dict[str, str]:
    """Return why a pool cannot take what scores models, by name."""
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
    """Return the part of a node that training gets: less where what scores models may be ``alongside``."""
    return pods.TRAINING_SHARE if meets(pool, alongside) else pods.NODE_SHARE


def room_bytes(pool: NodePool, alongside: Iterable[NodePool]) -> int:
    """Return the memory that training has for its tensors: an accelerator's, or its part of a CPU node."""
    if pool.accelerator:
        return pool.accelerator_memory_bytes
    return round(share(pool, alongside) * pool.memory_bytes)


def pod(place: str, pool: NodePool, cpu: float, memory: str, devices: int) -> dict[str, Any]:
    """Return what a pod on ``pool`` asks for, by output of the component; ``place`` begins their names.

    KFP's driver puts them into the pods; all but selector and tolerations are text to it.
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
    """Return a request in MiB: with its margin, but no more than the node's part has."""
    return f"{math.floor(min(max(MARGIN * wanted, MIN_BYTES), most) / 2**20)}Mi"


def meets(pool: NodePool, alongside: Iterable[NodePool]) -> bool:
    """Return whether a pod of ``pool`` may stand on one CPU node with what runs ``alongside`` it."""
    return not pool.accelerator and any(pool.selector == other.selector for other in alongside)


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
    stored = (2 if shapes.stored_half and recipe.method == "lora" else FP32) * shapes.tree.weights
    shards = devices if recipe.strategy == "fsdp" else 1
    return devices * (CPU_PROCESS_BYTES + stored) + shards * (memory.gradients + memory.optimizer)
