"""Read the node pools for which pipelines are compiled."""

import os
from pathlib import Path
from typing import Any

import msgspec

from deepcuts.components.core import nodepools
from deepcuts.components.core.nodepools import NodePool, NodePools
from deepcuts.components.plan import placing

NODEPOOLS = Path(__file__).parents[1] / "manifests" / "base" / "nodepools.yaml"


def read() -> dict[str, NodePool]:
    """Return the node pools of ``DEEPCUTS_NODEPOOLS``, or of this project's manifests.

    Raises:
        ValueError: the file is missing or invalid.
    """
    path = Path(os.environ.get("DEEPCUTS_NODEPOOLS", NODEPOOLS))
    if not path.is_file():
        raise ValueError(f"no node pools at {path}: set DEEPCUTS_NODEPOOLS to your nodepools.yaml")
    return nodepools.read(path)


def named(name: str) -> NodePool:
    """Return the pool of that name.

    Raises:
        ValueError: there is none.
    """
    known = read()
    if name not in known:
        raise ValueError(
            f"node pool {name!r} is needed but not in nodepools.yaml ({', '.join(known)}): add it"
        )
    return known[name]


def device() -> str:
    """Return the resource name of the pools' accelerators; NVIDIA's if there are none.

    Raises:
        ValueError: there are two kinds, but a compiled task can ask for only one.
    """
    kinds = sorted({pool.accelerator for pool in read().values() if pool.accelerator})
    if len(kinds) > 1:
        raise ValueError(f"nodepools.yaml has accelerators {', '.join(kinds)}: compile with one at a time")
    return kinds[0] if kinds else placing.NO_ACCELERATOR


def prices() -> dict[str, Any]:
    """Return ``read`` as a pipeline's parameter."""
    priced: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(NodePools(tuple(read().values()))))
    return priced
