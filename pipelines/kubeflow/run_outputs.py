"""What a run on Kubeflow left: messages of failed steps, receipts, ledger and report; from store and pods."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import urllib3
from kubernetes import client, config

from components.core import terminal
from components.core.store import Store
from components.core.terminal import Terminal
from pipelines.runner.run_record import TaskRecord

LOG_LINES = 20
SILENT = "ended without a message: look at its pod's log in the Kubeflow UI"
RUN_LABEL, NODE_ANNOTATION = "pipeline/runid", "workflows.argoproj.io/node-name"
"""Set by KFP 2.17 and by Argo on every pod of a run."""


def connected() -> bool:
    """Whether there is a cluster to ask, by kubeconfig or as a pod; kfp's and kubernetes' own ways print."""
    with contextlib.suppress(config.ConfigException):
        config.load_kube_config(os.environ.get("KUBECONFIG"))
        return True
    with contextlib.suppress(config.ConfigException):
        config.load_incluster_config()
        return True
    return False


class Pods:
    """The last lines of a run's pods, and why a pod waits; empty where Kubernetes does not let us look."""

    def __init__(self, namespace: str, run_id: str) -> None:
        self._namespace, self._run_id = namespace, run_id
        self._api: Any = client.CoreV1Api() if connected() else None

    def say(self, task: str) -> str:
        """What the newest pod of the task ``task`` (a path) says."""
        for pod in self._of(task) if self._api else []:
            if pod.status.phase == "Pending":
                return _waiting(pod)
            with contextlib.suppress(client.ApiException, urllib3.exceptions.HTTPError):
                return str(
                    self._api.read_namespaced_pod_log(
                        pod.metadata.name, self._namespace, container="main", tail_lines=LOG_LINES
                    )
                )
        return ""

    def _of(self, task: str) -> list[client.V1Pod]:
        try:
            found = self._api.list_namespaced_pod(
                self._namespace, label_selector=f"{RUN_LABEL}={self._run_id}", _request_timeout=10
            ).items
        except (client.ApiException, urllib3.exceptions.HTTPError):
            return []
        mine = [p for p in found if path_of((p.metadata.annotations or {}).get(NODE_ANNOTATION, "")) == task]
        return sorted(mine, key=lambda pod: pod.metadata.creation_timestamp, reverse=True)


def path_of(node: str) -> str:
    """``condition-1.train`` of node ``toy-x7k2p.root.condition-1(0).train.executor(1)``; else empty."""
    words = re.sub(r"\(\d+\)", "", node).split(".")
    return ".".join(words[2:-1]) if len(words) > 3 and words[1] == "root" and words[-1] == "executor" else ""


def _waiting(pod: client.V1Pod) -> str:
    """Why a pod has not started: no node for it, or an image that cannot be had."""
    states = [s.state.waiting for s in pod.status.container_statuses or [] if s.state.waiting]
    reasons = [f"{state.reason}: {state.message}" for state in states if state.message]
    reasons += [condition.message for condition in pod.status.conditions or [] if condition.message]
    return reasons[0] if reasons else ""


class Harvest:
    """What a run left under ``<pipeline root>/<pipeline>/<run>/<task>/<salt>/<output>`` (KFP 2.17).

    ``store`` is open at ``<pipeline root>/<pipeline>``, or None without one; ``runs`` are
    ids: this run first, then earlier ones that did the same, where a task from KFP's cache has its outputs.
    """

    def __init__(self, store: Store | None, runs: list[str], pods: Pods) -> None:
        self._store, self._runs, self._pods = store, runs, pods

    def news(self, path: str, task: TaskRecord, folder: Path) -> None:
        """While it runs, the end of the task's log; when it has failed, why."""
        if task.status not in ("running", "failed") or (task.status == "failed" and task.message):
            return
        said = self._pods.say(path)
        if task.status == "failed":
            said = self._log(path) or said
            task.message = "\n".join(line for line in said.splitlines() if line.strip()) or SILENT
            if end := self._terminal(path):
                task.message, task.exit_code = end.message, end.code
        if said:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "stderr.log").write_text(said)

    def collect(self, path: str, task: TaskRecord, folder: Path) -> None:
        """The task's receipt; of the ledger also what it wrote."""
        if task.status != "done" or not self._store:
            return
        for key, name in self._outputs(path):
            if name == "receipt":
                self._store.get(key, folder / "receipt.json")
            elif task.step == "ledger" and name.split("/")[0] in ("ledger", "summary", "report"):
                self._store.get(key, folder / "outputs" / name)

    def _outputs(self, path: str) -> Iterator[tuple[str, str]]:
        """(key, name below the salt) of what the task wrote; of the newest run in which it worked."""
        assert self._store
        for run in self._runs:
            prefix = f"{run}/{_last(path)}/"
            keys = [key.removeprefix(prefix).split("/", 1) for key in self._store.list(prefix)]
            worked = [salt for salt, *name in keys if name == ["receipt"]]
            if worked:
                yield from (
                    (f"{prefix}{salt}/{name[0]}", name[0])
                    for salt, *name in keys
                    if salt == worked[-1] and name
                )
                return

    def _terminal(self, path: str) -> Terminal | None:
        for key in self._own(path):
            if key.endswith(f"/{terminal.TERMINAL}") and self._store:
                return msgspec.json.decode(self._store.get_bytes(key), type=Terminal)
        return None

    def _log(self, path: str) -> str:
        """The end of the log that KFP's launcher uploads, of failed steps too."""
        logs = [key for key in self._own(path) if key.split("/")[-1].startswith("executor-logs")]
        if not logs or not self._store:
            return ""
        lines = self._store.get_bytes(logs[-1]).decode(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])

    def _own(self, path: str) -> list[str]:
        return self._store.list(f"{self._runs[0]}/{_last(path)}/") if self._store else []


def _last(path: str) -> str:
    """KFP names a task in the store by its name in its own DAG."""
    return path.rpartition(".")[2]
