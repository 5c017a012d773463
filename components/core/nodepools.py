"""NodePool: where a step may run and what an hour there costs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from deepcuts.components.core import strict, yaml_files
from deepcuts.components.core.bounds import Count, NonNegative, Positive, Whole


class Toleration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    value: str = ""
    """Empty: the taint's value does not matter."""


class NodePool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    name: str
    selector: dict[str, str]
    """Node labels that identify this pool."""
    tolerations: tuple[Toleration, ...] = ()
    accelerator: str = ""
    """Kubernetes resource name (``nvidia.com/gpu``); empty on a CPU pool."""
    accelerator_model: str = ""
    """For people and the planner: ``L4``, ``H100``."""
    accelerator_count: Whole = 0
    accelerator_memory_bytes: Whole = 0
    flops_per_second: Positive | None = None
    """Dense matrix-product speed of one accelerator (of the node, on a CPU pool) in the precision that
    ``auto`` chooses there; null is unknown: the planner then cannot estimate hours for this pool."""
    memory_bytes_per_second: Positive | None = None
    """Bandwidth of the memory that holds the weights."""
    interconnect_bytes_per_second: Positive | None = None
    """Between the node's accelerators, per direction; null: the planner does not split a model here."""
    max_nodes: Count = 1
    """Most nodes that one training may take together; above 1 the cluster needs Kubeflow Trainer
    (``manifests/trainer``)."""
    network_bytes_per_second: Positive | None = None
    """Between two nodes of the pool, per direction, measured; needed if ``max_nodes`` is above 1."""
    cpu_cores: Positive
    memory_bytes: Count
    spot: bool = False
    preemptions_per_hour: NonNegative | None = None
    """Interruptions of a spot node that you have observed; null: ``plan`` assumes 0.1."""
    closed: bool = False
    """Plans place nothing here, as it is full or about to be drained."""
    queue: str = ""
    """Kueue LocalQueue that admits the pods; empty: none."""
    usd_per_hour: NonNegative | None = None
    """Price of one node; null is unknown and stays unknown in the ledger, never 0."""
    price_source: str = ""
    """Where the price is from: ``user``, a price sheet, an invoice."""
    price_date: str = ""
    """ISO date of the price."""

    def __post_init__(self) -> None:
        if bool(self.accelerator) != bool(self.accelerator_count):
            raise ValueError(
                f"pool {self.name!r}: accelerator {self.accelerator!r} with accelerator_count "
                f"{self.accelerator_count}: set both or neither"
            )
        if self.max_nodes > 1 and self.network_bytes_per_second is None:
            raise ValueError(
                f"pool {self.name!r}: max_nodes {self.max_nodes} without network_bytes_per_second: measure "
                "it between two nodes (iperf3, NCCL tests), as it decides whether several nodes pay off"
            )
        if self.usd_per_hour is not None and not (self.price_source and self.price_date):
            raise ValueError(
                f"pool {self.name!r}: a price without source and date: set price_source and price_date"
            )


def may_land(task: NodePool, node: NodePool) -> bool:
    """Tell whether the scheduler may put a task placed on one pool onto a node of another.

    It may unless a label in the task's selector has another value there, or a taint is not tolerated.
    """
    apart = any(node.selector.get(key, value) != value for key, value in task.selector.items())
    taints = {taint.key: taint.value for taint in node.tolerations}
    tolerated = {toleration.key: toleration.value for toleration in task.tolerations}
    return not apart and all(tolerated.get(key) in ("", value) for key, value in taints.items())


class NodePools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pools: tuple[NodePool, ...]

    def __post_init__(self) -> None:
        if len(self.by_name) < len(self.pools):
            names = [pool.name for pool in self.pools]
            raise ValueError(f"a pool name is given twice: {names}: rename one")
        for cpu_pool in (pool for pool in self.pools if not pool.accelerator):
            for gpu_pool in (pool for pool in self.pools if pool.accelerator):
                if may_land(cpu_pool, gpu_pool):
                    raise ValueError(
                        f"tasks of pool {cpu_pool.name!r} could land on {gpu_pool.accelerator} nodes of "
                        f"{gpu_pool.name!r}: give one selector key different values, or taint those nodes"
                    )

    @property
    def by_name(self) -> dict[str, NodePool]:
        return {pool.name: pool for pool in self.pools}

    def named(self, name: str, key: str = "pool") -> NodePool:
        """Return the pool of that name, which the user gave as ``key``.

        Raises:
            ValueError: there is none.
        """
        if name not in self.by_name:
            raise ValueError(
                f"{key} {name!r} is not among nodepools ({', '.join(self.by_name)}): add it there"
            )
        return self.by_name[name]


def parse(value: object, where: str = "nodepools") -> dict[str, NodePool]:
    """Return the pools by name.

    Raises:
        ValueError: every problem at once.
    """
    return strict.decode(NodePools, value, where).by_name


def with_closed(pools: Mapping[str, NodePool], name: str) -> dict[str, Any]:
    """Return ``pools`` in the format of ``nodepools.yaml``, with one closed."""
    kept = [msgspec.structs.replace(pool, closed=pool.closed or pool.name == name) for pool in pools.values()]
    found: dict[str, Any] = msgspec.to_builtins(NodePools(tuple(kept)))
    return found


def read(path: Path) -> dict[str, NodePool]:
    """Read the pools by name from ``nodepools.yaml``."""
    return parse(yaml_files.load(path), str(path))
