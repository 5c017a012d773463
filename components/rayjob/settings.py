"""RayCluster: size and place of the cluster on which a step runs with ``engine: ray``."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from deepcuts.components.core.bounds import Count, Positive

Engine = Literal["local", "ray"]
ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "RAY_USAGE_STATS_ENABLED": "0",  # else it reports to its makers
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns of a change to come
        "RAY_worker_niceness": "0",  # at 15, the default, four busy processes on two cores left 2 % of one
        # after 1 s, the default, idle workers end and new ones import everything again: on two busy cores 36
        # processes and 66 CPU-seconds for 2,000 rows, so 16 and 28
        "RAY_idle_worker_killing_time_threshold_ms": "600000",
    }
)
"""Of every process of Ray, here and in the pods of a RayJob."""


class RayCluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Workers of one RayJob; outside Kubernetes only ``workers`` counts, as processes on this machine."""

    workers: Count = 2
    cpu: Positive = 2.0
    """Cores of a worker, and of the head."""
    memory: str = "8Gi"
    """Of a worker, and of the head, which holds a few hundred bytes per row."""
    pool: str = "cpu"
    """Node pool of head and workers."""
    max_hours: Positive = 12.0
    """Time after which KubeRay ends the job."""
    namespace: str = ""
    """Where the RayJob lives; empty: where the step runs."""
