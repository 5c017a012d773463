"""Pods of a step as KFP makes them: its account, its inputs on its disk; and waiting for their end."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepcuts.components.core import pods
from tests.cluster.conftest import RUNNER, Kubectl

Json = dict[str, Any]


def task_pod(
    name: str, tag: str, module: str, words: Sequence[str], inputs: Mapping[str, str], environment: list[Json]
) -> Json:
    """A pod that runs ``module`` with ``words``; ``inputs`` are paths by URI.

    One named ``killed`` can be killed by ``kill``.
    """
    asked = {"cpu": "200m", "memory": "1500Mi", "ephemeral-storage": "1Gi"}
    base = {
        "image": f"localhost/deepcuts/train:{tag}",
        "env": [*pods.environment(), *environment],
        "securityContext": pods.LOCKED,
        "resources": {"requests": asked, "limits": asked | {"cpu": "2"}},
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    }
    # the first process of a container gets no SIGKILL from inside it
    shell = ["sh", "-c", '"$@" & echo $! > /scratch/pid; wait $!', "sh"] if name == "killed" else []
    command = [*shell, "python", "-m", module]
    carried = ["python", "-m", "deepcuts.components.core.carry", "get"]
    brought = [word for pair in inputs.items() for word in pair]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": pods.LABELS | {pods.POOL_LABEL: "cpu"}},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": RUNNER,
            "nodeSelector": {"node-pool": "cpu"},
            "securityContext": {
                "runAsUser": pods.NOBODY,
                "runAsGroup": pods.NOBODY,
                "runAsNonRoot": True,
                "fsGroup": pods.NOBODY,
            },
            "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}}],
            "initContainers": [base | {"name": "get", "command": carried, "args": brought}],
            "containers": [base | {"name": "main", "command": command, "args": list(words)}],
        },
    }


def until(here: Kubectl, holds: Callable[[], object], kinds: str, seconds: float = 900) -> None:
    """Wait; a TimeoutError describes the objects of ``kinds``."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(here("describe", kinds))
        time.sleep(1)


def start(here: Kubectl, pod: Json) -> None:
    here("create", "-f", "-", text=json.dumps(pod))


def kill(here: Kubectl) -> None:
    """Kill the step of the pod ``killed``."""
    here("exec", "killed", "-c", "main", "--", "sh", "-c", "kill -9 $(cat /scratch/pid)")


def end_of(here: Kubectl, pod: str, kinds: str) -> tuple[int, str]:
    """Exit code and log of a task, once it has ended."""
    code = ("get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}")
    until(here, lambda: here(*code).strip(), kinds)
    return int(here(*code)), here("logs", pod, "-c", "main")
