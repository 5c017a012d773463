"""Make the RayJob of a step: head and workers on one node pool, locked as all pods of steps."""

from typing import Any

from deepcuts.components.core import pods
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.rayjob.settings import ENVIRONMENT, RayCluster

Json = dict[str, Any]
KEPT_SECONDS = 600
"""Time that a finished RayJob stays, for its logs; its outputs are in the store."""
ENTRYPOINT = "python -m deepcuts.components.rayjob.work"


def rayjob(
    name: str, cluster: RayCluster, pool: NodePool, image: str, ray_version: str, task_uri: str
) -> Json:
    """Make the object: ``task_uri`` is what ``work.py`` does on the head, whose tasks run on the workers.

    The operator submits over HTTP, so no pod needs a right or a container of its own to do it. By
    ``ray_version`` it chooses probes; from 2.53 they need no wget in the image.

    Raises:
        ValueError: a node of the pool has fewer cores.
    """
    pods.check_cores(pool, cluster.cpu)
    # two processes less to start per pod: no autoscaler, and nobody asks for the workers' logs
    lean = {"include-log-monitor": "false"}
    head = lean | {"no-monitor": "true", "num-cpus": "0", "dashboard-host": "0.0.0.0"}  # has the job server
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        # Kueue admits the RayJob as a whole, so its pods carry no queue
        "metadata": {"name": name, "labels": pods.labels(pool)},
        "spec": {
            "entrypoint": f"{ENTRYPOINT} {task_uri}",
            "submissionMode": "HTTPMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "activeDeadlineSeconds": round(cluster.max_hours * 3600),
            "rayClusterSpec": {
                "rayVersion": ray_version,
                "headGroupSpec": {
                    "rayStartParams": head,
                    "template": _template("head", cluster, pool, image),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": cluster.workers,
                        "minReplicas": cluster.workers,
                        "maxReplicas": cluster.workers,
                        "rayStartParams": lean,
                        "template": _template("worker", cluster, pool, image),
                    }
                ],
            },
        },
    }


def _template(name: str, cluster: RayCluster, pool: NodePool, image: str) -> Json:
    quantities = {"cpu": f"{cluster.cpu:g}", "memory": cluster.memory}
    tolerations = [pods.toleration(one) for one in pool.tolerations]
    environment = [{"name": name, "value": value} for name, value in ENVIRONMENT.items()]
    return {
        "metadata": {"labels": pods.LABELS | {pods.POOL_LABEL: pool.name}},
        "spec": {
            "serviceAccountName": pods.ACCOUNT,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": pods.GRACE_SECONDS,
            "nodeSelector": pool.selector,
            **({"tolerations": tolerations} if tolerations else {}),
            "securityContext": {
                "runAsUser": pods.NOBODY,
                "runAsGroup": pods.NOBODY,
                "runAsNonRoot": True,
                "fsGroup": pods.NOBODY,
            },
            "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": pods.SCRATCH_LIMIT}}],
            "containers": [
                {
                    "name": f"ray-{name}",
                    "image": image,
                    "env": [*pods.environment(), *environment],
                    "securityContext": pods.LOCKED,
                    "resources": {side: quantities | pods.DISK[side] for side in ("requests", "limits")},
                    "volumeMounts": [{"name": "scratch", "mountPath": pods.SCRATCH}],
                }
            ],
        },
    }
