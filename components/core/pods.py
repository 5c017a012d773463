"""What every pod of a step has in common: a KFP task, a Job, a Katib trial."""

import math

from deepcuts.components.core.nodepools import NodePool, Toleration

POOL_LABEL = "node-pool"
LABELS = {"app.kubernetes.io/part-of": "deepcuts"}
"""What the network policies of ``manifests/`` select by."""
SCRATCH = "/scratch"
"""The one folder an image writes to besides its outputs; a volume, so that the root may be read-only."""
SCRATCH_LIMIT, SHM_LIMIT = "64Gi", "8Gi"
"""Sizes at which a pod is evicted: room for a model of 30 GB twice, and for batches of loader workers."""
DISK = {"requests": {"ephemeral-storage": "1Gi"}, "limits": {"ephemeral-storage": "130Gi"}}
"""Disk of a container that a Job runs. KFP 2.17 has no field for it: there volumes' limits bound a step."""
NODE_SHARE = 0.75
"""Of a node, for one task: the rest is the system's, and KFP's two helpers in each pod."""
TRAINING_SHARE, SCORING_SHARE = 0.5, 0.2
"""Where all pools are one kind of node: training, its watcher and the evaluation of the base fit on one."""
NOBODY = 65532
SECRET, SECRET_ENV = (
    "mlpipeline-minio-artifact",
    {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"},
)
READER = "deepcuts-reader"
"""Secret, as ``SECRET``, of a key that may only read: what serves releases needs no other."""
SETTINGS, SETTINGS_ENV = "deepcuts-store", {"endpoint": "S3_ENDPOINT", "region": "AWS_REGION"}
"""Secret and ConfigMap that say how to reach the store. Both are optional to the pod: without them the step
says what is missing, while a pod that waits for its Secret says nothing."""
LABEL_ENV = {"DEEPCUTS_POOL": POOL_LABEL}
"""Variables that name a step's placement, by the label they come from."""
ACCOUNT = "deepcuts-step"
"""Service account of Jobs; KFP's tasks have KFP's."""
GRACE_SECONDS = 120
"""SIGTERM is real in a Job: a training step finishes its step, saves and exits 143."""
FINAL_CODES = [1, 2, 3, 5]
"""Trying again would end the same way (``components/core/errors.py``)."""
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
    """Return the label of pods that a Kueue LocalQueue admits; none without a queue."""
    return {"kueue.x-k8s.io/queue-name": queue} if queue else {}


def toleration(of: Toleration) -> dict[str, str]:
    """Return a toleration as Kubernetes has it."""
    how = {"operator": "Equal", "value": of.value} if of.value else {"operator": "Exists"}
    return {"key": of.key, "effect": "NoSchedule"} | how


def cores(pool: NodePool, share: float) -> float:
    """Return a share of the cores of a node of ``pool``."""
    return max(0.1, math.floor(share * pool.cpu_cores * 10) / 10)


def check_cores(pool: NodePool, cpu: float) -> None:
    """Raise ValueError if no node of ``pool`` has that many cores."""
    if cpu > pool.cpu_cores:
        raise ValueError(
            f"cpu {cpu} is more than a node of pool {pool.name!r} has ({pool.cpu_cores}): ask for less"
        )
