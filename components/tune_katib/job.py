"""Make a trial's Job, with placement and security as in ``pipelines/kubeflow/jobs.py`` (by a test)."""

from typing import Any

from deepcuts.components.core import pods
from deepcuts.components.core.nodepools import NodePool

Json = dict[str, Any]
CONTAINER = "trial"


def job(pool: NodePool, image: str, argv: list[str], cpu: float, memory: str, max_hours: float) -> Json:
    """Make a Job without a name, for Katib: one container on a node of ``pool``.

    It has no empty fields, as Katib refuses fields that its own parsing of a Job drops.

    Raises:
        ValueError: a node of the pool has fewer cores.
    """
    pods.check_cores(pool, cpu)
    labels = pods.labels(pool)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"labels": labels},
        "spec": {
            "backoffLimit": pods.RETRIES,
            "podFailurePolicy": {"rules": _rules()},
            "template": {
                "metadata": {"labels": labels},
                "spec": _pod(pool, image, argv, cpu, memory, max_hours),
            },
        },
    }


def _rules() -> list[Json]:
    """Return failure rules: a lost node is not the trial's failure; a final exit code ends it at once."""
    ends = {"containerName": CONTAINER, "operator": "In", "values": pods.FINAL_CODES}
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": ends},
    ]


def _pod(pool: NodePool, image: str, argv: list[str], cpu: float, memory: str, max_hours: float) -> Json:
    devices = {pool.accelerator: str(pool.accelerator_count)} if pool.accelerator else {}
    quantities = {"cpu": f"{cpu:g}", "memory": memory} | devices
    volumes: Json = {"scratch": {"sizeLimit": pods.SCRATCH_LIMIT}}
    if pool.accelerator:
        volumes["shm"] = {"medium": "Memory", "sizeLimit": pods.SHM_LIMIT}
    paths = {"scratch": pods.SCRATCH, "shm": "/dev/shm"}
    tolerations = [pods.toleration(each) for each in pool.tolerations]
    return {
        "restartPolicy": "Never",
        "serviceAccountName": pods.ACCOUNT,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": pods.GRACE_SECONDS,
        "activeDeadlineSeconds": round(max_hours * 3600),
        "nodeSelector": pool.selector,
        **({"tolerations": tolerations} if tolerations else {}),
        "securityContext": {
            "runAsUser": pods.NOBODY,
            "runAsGroup": pods.NOBODY,
            "runAsNonRoot": True,
            "fsGroup": pods.NOBODY,
        },
        "volumes": [{"name": name, "emptyDir": source} for name, source in volumes.items()],
        "containers": [
            {
                "name": CONTAINER,
                "image": image,
                "command": argv[:3],
                "args": argv[3:],
                "env": pods.environment(),
                "securityContext": pods.LOCKED,
                "resources": {side: quantities | pods.DISK[side] for side in ("requests", "limits")},
                "volumeMounts": [{"name": name, "mountPath": paths[name]} for name in volumes],
            }
        ],
    }
