"""RayCluster: size and place of the cluster on which a step runs with ``engine: ray``."""

from typing import Literal

import msgspec

from deepcuts.components.core.bounds import Count, Positive

Engine = Literal["local", "ray"]


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
