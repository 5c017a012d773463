"""Make the TrainJob (Kubeflow Trainer v2) of a training over several nodes, by ``manifests/trainer``."""

from typing import Any

import msgspec

from deepcuts.components.core import pods
from deepcuts.components.core.spread import Spread
from deepcuts.components.trainjob.node_task import NodeTask

Json = dict[str, Any]
GROUP, VERSION = "trainer.kubeflow.org", "v1alpha1"
RUNTIME = "deepcuts-training"
"""The TrainingRuntime: security, volumes, grace period and failure policy of the pods."""
JOB = CONTAINER = "node"
"""Trainer's name of the replicated job, and of its container."""
MANAGER = "deepcuts"
COMMAND = ["python", "-m", "deepcuts.components.training.member"]


def trainjob(name: str, image: str, spread: Spread, task: NodeTask) -> Json:
    """Return a TrainJob that runs ``task`` in one pod on each node of ``spread``."""
    devices = {spread.accelerator: str(spread.devices)} if spread.accelerator else {}
    quantities = {"cpu": spread.cpu, "memory": spread.memory} | devices
    own_uid = {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": pods.LABELS | pods.queued(spread.queue)},
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": RUNTIME},
            "trainer": {
                "image": image,
                "command": COMMAND,
                "args": [msgspec.json.encode(task).decode()],
                # Trainer refuses a patch of this container's environment: it belongs here
                "env": [*pods.environment(), own_uid],
                "numNodes": spread.nodes,
                # on CPUs Trainer's "auto" starts a process per core
                "numProcPerNode": max(1, spread.devices),
                "resourcesPerNode": {side: quantities | pods.DISK[side] for side in ("requests", "limits")},
            },
            "runtimePatches": [{"manager": MANAGER, "trainingRuntimeSpec": {"template": _patch(spread)}}],
        },
    }


def _patch(spread: Spread) -> Json:
    """Return what the runtime leaves open: on which nodes the pods run, and the labels that say so."""
    tolerations = {"tolerations": spread.taints} if spread.taints else {}
    pod = {
        "metadata": {"labels": pods.LABELS | {pods.POOL_LABEL: spread.pool}},
        "spec": {"nodeSelector": spread.selector} | tolerations,
    }
    return {"spec": {"replicatedJobs": [{"name": JOB, "template": {"spec": {"template": pod}}}]}}
