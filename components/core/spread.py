"""Describe the nodes that a training takes together; ``plan`` writes it, the step that trains reads it."""

from collections.abc import Mapping
from typing import Any

import msgspec

from deepcuts.components.core import strict
from deepcuts.components.core.bounds import Count, Whole

SPREAD = "nodes"
"""Input of a training task with its Spread, ``{}`` for one node. No component declares it."""


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Several nodes of one pool, and what the training's pod asks for on each."""

    nodes: Count
    pool: str
    selector: dict[str, str]
    taints: list[dict[str, str]]
    """Tolerations in Kubernetes' form."""
    queue: str
    """Kueue LocalQueue; empty for none."""
    cpu: str
    memory: str
    accelerator: str
    """Resource name; empty on a CPU pool."""
    devices: Whole
    """Accelerators per node."""


def of_task(executor: Mapping[str, Any]) -> Spread | None:
    """Return the nodes planned for the task of this executor input; None if it is one node.

    Raises:
        ValueError: the input is not what a plan writes.
    """
    value = executor.get("inputs", {}).get("parameterValues", {}).get(SPREAD)
    return strict.decode(Spread, value, SPREAD) if value else None
