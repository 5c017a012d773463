"""Job: a trial's pod, placed and locked down as by ``pipelines/jobs.py`` (a test holds them together)."""

from typing import Any

from components.core.nodepools import NodePool

Json = dict[str, Any]
CONTAINER = "trial"
NOBODY = 65532
RETRIES = 5
GRACE_SECONDS = 120
"""After SIGTERM the trial finishes its step, saves and exits 143."""
FINAL_CODES = [1, 2, 3, 5]
"""Trying again would end the same way (``components/core/errors.py``)."""
SECRETS = {"AWS_ACCESS_KEY_ID": "accesskey", "AWS_SECRET_ACCESS_KEY": "secretkey"}
SETTINGS = {"S3_ENDPOINT": "endpoint", "AWS_REGION": "region"}
LABELS = {"POOL": "node-pool", "MAX_ATTEMPTS": "deepcuts-attempts"}
LOST_PODS = 20


def job(pool: NodePool, image: str, argv: list[str], cpu: float, memory: str, max_hours: float) -> Json:
    """A Job without a name, as Katib wants it: one container on a node of ``pool``.

    Nothing in it is empty: Katib refuses what its own reading of a Job leaves out.

    Raises:
        ValueError: a node of the pool has fewer cores.
    """
    if cpu > pool.cpu_cores:
        raise ValueError(
            f"cpu {cpu} is more than a node of pool {pool.name!r} has ({pool.cpu_cores}): ask for less"
        )
    labels = {
        "app.kubernetes.io/part-of": "deepcuts",
        LABELS["POOL"]: pool.name,
        LABELS["MAX_ATTEMPTS"]: str(LOST_PODS),
    } | ({"kueue.x-k8s.io/queue-name": pool.queue} if pool.queue else {})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"labels": labels},
        "spec": {
            "backoffLimit": RETRIES,
            "podFailurePolicy": {"rules": _rules()},
            "template": {
                "metadata": {"labels": labels},
                "spec": _pod(pool, image, argv, cpu, memory, max_hours),
            },
        },
    }


def _rules() -> list[Json]:
    """A lost node is no failure of the trial; a final exit code ends it at once."""
    ends = {"containerName": CONTAINER, "operator": "In", "values": FINAL_CODES}
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": ends},
    ]


def _pod(pool: NodePool, image: str, argv: list[str], cpu: float, memory: str, max_hours: float) -> Json:
    devices = {pool.accelerator: str(pool.accelerator_count)} if pool.accelerator else {}
    quantities = {"cpu": f"{cpu:g}", "memory": memory} | devices
    volumes: Json = {"scratch": {}} | ({"shm": {"medium": "Memory"}} if pool.accelerator else {})
    paths = {"scratch": "/scratch", "shm": "/dev/shm"}
    tolerations = [
        {"key": t.key, "effect": "NoSchedule"}
        | ({"operator": "Equal", "value": t.value} if t.value else {"operator": "Exists"})
        for t in pool.tolerations
    ]
    return {
        "restartPolicy": "Never",
        "serviceAccountName": "deepcuts-step",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "activeDeadlineSeconds": round(max_hours * 3600),
        "nodeSelector": pool.selector,
        **({"tolerations": tolerations} if tolerations else {}),
        "securityContext": {
            "runAsUser": NOBODY,
            "runAsGroup": NOBODY,
            "runAsNonRoot": True,
            "fsGroup": NOBODY,
        },
        "volumes": [{"name": name, "emptyDir": source} for name, source in volumes.items()],
        "containers": [
            {
                "name": CONTAINER,
                "image": image,
                "command": argv[:3],
                "args": argv[3:],
                "env": _environment(),
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "resources": {"requests": quantities, "limits": quantities},
                "volumeMounts": [{"name": name, "mountPath": paths[name]} for name in volumes],
            }
        ],
    }


def _environment() -> list[Json]:
    """Keys and settings of the store by reference, and what the pod is told of its placement."""
    by_source = [
        ("secretKeyRef", "mlpipeline-minio-artifact", SECRETS),
        ("configMapKeyRef", "deepcuts-store", SETTINGS),
    ]
    found: list[Json] = [
        {"name": variable, "valueFrom": {source: {"name": owner, "key": key, "optional": True}}}
        for source, owner, keys in by_source
        for variable, key in keys.items()
    ]
    return found + [
        {
            "name": f"DEEPCUTS_{variable}",
            "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{label}']"}},
        }
        for variable, label in LABELS.items()
    ]
