"""What every pod of a step has, whoever makes it: a task of KFP's, a Job, a trial of Katib's."""

from components.core.nodepools import NodePool

POOL_LABEL = "node-pool"
ATTEMPTS_LABEL = "deepcuts-attempts"
LABELS = {"app.kubernetes.io/part-of": "deepcuts"}
"""What the network policies of ``manifests/`` select by."""
SCRATCH = "/scratch"
"""The one folder an image writes to beside its outputs; a volume, so that the root may be read-only."""
NOBODY = 65532
SECRET, SECRET_ENV = (
    "mlpipeline-minio-artifact",
    {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"},
)
SETTINGS, SETTINGS_ENV = "deepcuts-store", {"endpoint": "S3_ENDPOINT", "region": "AWS_REGION"}
"""Secret and ConfigMap that say how to reach the store. Both are optional to the pod: without them the step
says what is missing, while a pod that waits for its Secret says nothing."""
LABEL_ENV = {
    "DEEPCUTS_POOL": POOL_LABEL,
    "DEEPCUTS_MAX_ATTEMPTS": ATTEMPTS_LABEL,
    "DEEPCUTS_RUN": "pipeline/runid",  # KFP's own label of a task's pod
}
"""What a step is told of its placement, by the label that says it."""
LOST_PODS = 20
"""Attempts of a task in a run after which it gives up (``core/terminal.py``). KFP 2.17 also retries lost pods
at every level of the DAG, so that the retries of a spot task are no bound: 11 pods used up one of two."""

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
    """Labels of every pod on ``pool``."""
    queue = {"kueue.x-k8s.io/queue-name": pool.queue} if pool.queue else {}
    return LABELS | {POOL_LABEL: pool.name, ATTEMPTS_LABEL: str(LOST_PODS)} | queue


def check_cores(pool: NodePool, cpu: float) -> None:
    """Raises ValueError when no node of ``pool`` has so many cores."""
    if cpu > pool.cpu_cores:
        raise ValueError(
            f"cpu {cpu} is more than a node of pool {pool.name!r} has ({pool.cpu_cores}): ask for less"
        )
