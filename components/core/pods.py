"""Settings shared by all pods of a step: KFP task, Job, Katib trial."""

import math
from typing import Any

from deepcuts.components.core.nodepools import NodePool, Toleration

POOL_LABEL = "node-pool"
LABELS = {"app.kubernetes.io/part-of": "deepcuts"}
"""Label by which the network policies in ``manifests/`` select pods."""
SCRATCH = "/scratch"
"""The only folder an image writes to apart from its outputs; a volume, so that the root may be read-only."""
SCRATCH_LIMIT, SHM_LIMIT = "64Gi", "8Gi"
"""Volume sizes above which a pod is evicted: room for two copies of a 30 GB model and for loader batches."""
DISK = {"requests": {"ephemeral-storage": "1Gi"}, "limits": {"ephemeral-storage": "130Gi"}}
"""Disk of a Job's container. KFP 2.17 has no field for it, so there the volumes' limits apply."""
NODE_SHARE = 0.75
"""Share of a node for one task; the rest is for the system and KFP's two helper containers in each pod."""
TRAINING_SHARE, SCORING_SHARE = 0.5, 0.2
"""Share if all pools are one kind of node: training, its watcher and the base's evaluation fit on one."""
NOBODY = 65532
SECRET, SECRET_ENV = (
    "mlpipeline-minio-artifact",
    {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"},
)
READER = "deepcuts-reader"
"""Secret with a read-only key, in the form of ``SECRET``; serving releases needs no more."""
SETTINGS, SETTINGS_ENV = "deepcuts-store", {"endpoint": "S3_ENDPOINT", "region": "AWS_REGION"}
"""Secret and ConfigMap that say how to reach the store. Optional for the pod, because a step reports what is
missing, whereas a pod waiting for its Secret reports nothing."""
LABEL_ENV = {"DEEPCUTS_POOL": POOL_LABEL}
"""Environment variables with a step's placement, by the label they are read from."""
ACCOUNT = "deepcuts-step"
"""Service account of Jobs; KFP tasks use KFP's own."""
GRACE_SECONDS = 120
"""A Job's pod does get SIGTERM: training finishes its optimizer step, saves and exits with 143."""
FINAL_CODES = [1, 2, 3, 5]
"""Exit codes that are not retried, because the retry would fail the same way (``core/errors.py``)."""
RETRIES = 5
LOCKED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def labels(pool: NodePool) -> dict[str, str]:
    """Return the labels of every pod on ``pool``."""
    return LABELS | {POOL_LABEL: pool.name} | queued(pool.queue)


def queued(queue: str) -> dict[str, str]:
    """Return the label for a Kueue LocalQueue; empty without a queue."""
    return {"kueue.x-k8s.io/queue-name": queue} if queue else {}


def toleration(of: Toleration) -> dict[str, str]:
    """Return a toleration in Kubernetes' form."""
    how = {"operator": "Equal", "value": of.value} if of.value else {"operator": "Exists"}
    return {"key": of.key, "effect": "NoSchedule"} | how


def environment() -> list[dict[str, Any]]:
    """Return a container's ``env``: the store's keys and settings by reference, and the pod's placement."""
    by_source = [("secretKeyRef", SECRET, SECRET_ENV), ("configMapKeyRef", SETTINGS, SETTINGS_ENV)]
    found: list[dict[str, Any]] = [
        {"name": variable, "valueFrom": {source: {"name": owner, "key": key, "optional": True}}}
        for source, owner, keys in by_source
        for key, variable in keys.items()
    ]
    return found + [
        {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{label}']"}}}
        for variable, label in LABEL_ENV.items()
    ]


def cores(pool: NodePool, share: float) -> float:
    """Return ``share`` of a node's cores in ``pool``."""
    return max(0.1, math.floor(share * pool.cpu_cores * 10) / 10)


def check_cores(pool: NodePool, cpu: float) -> None:
    """Raise ValueError if no node of ``pool`` has that many cores."""
    if cpu > pool.cpu_cores:
        raise ValueError(
            f"cpu {cpu} is more than a node of pool {pool.name!r} has ({pool.cpu_cores}): ask for less"
        )
