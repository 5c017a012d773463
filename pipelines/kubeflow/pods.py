"""Read the pods and the workflow of a run: the end of a task's log, why a pod waits or is missing."""

import base64
import contextlib
import gzip
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import urllib3
from kubernetes import client, config

from deepcuts.components.core import clock
from deepcuts.components.core.receipts import Receipt
from deepcuts.pipelines.runner.pipeline_spec import is_exit_handler

LOG_LINES = 20
REQUEST_SECONDS = 10
RUN_LABEL, NODE_ANNOTATION = "pipeline/runid", "workflows.argoproj.io/node-name"
"""Labels that KFP 2.17 and Argo set on every pod of a run."""
LAUNCHER = re.compile(r"^\{\"step\"|^[IWEF]\d{4} |^time=\S+ level=|^\{\"time\"|^main: |^\s*$")
"""Lines that KFP's launcher and Argo's executor write among a step's own."""
FATAL = re.compile(r"^F\d{4} .*?\] (.+)$", re.MULTILINE)
"""Fatal line in glog's format, in which KFP's driver gives the reason for its end."""
Json = dict[str, Any]


def connected() -> bool:
    """Tell whether a cluster is configured, by kubeconfig or as a pod; kfp's own check prints."""
    with contextlib.suppress(config.ConfigException):
        config.load_kube_config(os.environ.get("KUBECONFIG"))
        return True
    with contextlib.suppress(config.ConfigException):
        config.load_incluster_config()
        return True
    return False


class RunPods:
    """Kubernetes' view of a run; empty if we may not read it."""

    def __init__(self, namespace: str, run_id: str) -> None:
        self._namespace, self._run_id = namespace, run_id
        self._api: Any = client.CoreV1Api() if connected() else None
        self._objects: Any = client.CustomObjectsApi() if self._api else None
        self._pods: list[client.V1Pod] | None = None
        self._nodes: list[Json] | None = None

    def refresh(self) -> None:
        """Clear the cache, so that pods and nodes are listed again, once for all tasks."""
        self._pods = self._nodes = None

    def say(self, task: str) -> str:
        """Return the last lines of the newest pod of ``task`` (a path), or why it has not started."""
        pods = self._of(task)
        if not pods:  # a quota prevents the pod, and Argo keeps trying
            return self._said_of(task, ("Pending",))
        return _waiting(pods[0]) if pods[0].status.phase == "Pending" else own_lines(self.log(task))

    def without_room(self, task: str) -> tuple[float, dict[str, str]]:
        """Return the seconds that ``task`` has waited for room on a node, and the labels it selects by."""
        pod = next(iter(self._of(task)), None)
        if pod is None or pod.status.phase != "Pending":
            return 0.0, {}
        for condition in pod.status.conditions or []:
            if (condition.type, condition.reason) == ("PodScheduled", "Unschedulable"):
                waited = clock.now() - condition.last_transition_time
                return waited.total_seconds(), dict(pod.spec.node_selector or {})
        return 0.0, {}

    def log(self, task: str) -> str:
        """Return the end of the newest log of a pod of ``task``, with the launcher's lines."""
        return self._log(self._of(task))

    def driver(self, task: str) -> str:
        """Return why KFP's driver of ``task`` failed: the last fatal line of its log."""
        return last_fatal(self._log(self._of(f"{task}-driver", path_of_any)))

    def dag_driver(self) -> str:
        """Return why the driver of the run, a condition or an exit handler failed, like ``driver``."""
        drivers = [pod for pod in self._newest() if _node(pod).endswith("-driver")]
        return last_fatal(self._log([pod for pod in drivers if pod.status.phase == "Failed"]))

    def _log(self, pods: list[client.V1Pod]) -> str:
        for pod in pods:
            with contextlib.suppress(client.ApiException, urllib3.exceptions.HTTPError):
                return str(
                    self._api.read_namespaced_pod_log(
                        pod.metadata.name,
                        self._namespace,
                        container="main",
                        tail_lines=5 * LOG_LINES,
                        _request_timeout=REQUEST_SECONDS,
                    )
                )
        return ""

    def reason(self, task: str) -> str:
        """Return why ``task`` (a path) failed for Argo: its node's message, or its driver's.

        If the API server refuses a pod, there is neither pod nor log, only the workflow node's message.
        """
        return self._said_of(task, ("Failed", "Error"))

    def _said_of(self, task: str, phases: tuple[str, ...]) -> str:
        if self._nodes is None:
            self._nodes = list(self._list_nodes())
        found = {}
        # the last of several attempts decides, and a retry node has the same message
        for node in sorted(self._nodes, key=lambda node: node.get("finishedAt") or ""):
            if node.get("phase") in phases and node.get("message"):
                found[path_of_any(node.get("name", ""))] = str(node["message"])
        *outer, name = task.split(".")
        places = (task, ".".join([*outer, f"{name}-driver"]))
        said = [message for path, message in found.items() if path in places]
        return max(said, key=len, default="")

    def exits(self, task: str) -> list[int]:
        """Return the exit codes of the pods of ``task`` that still exist, newest first."""
        states = [
            status.state.terminated
            for pod in self._of(task)
            for status in pod.status.container_statuses or []
            if status.name == "main"
        ]
        return [137 if state.reason == "OOMKilled" else state.exit_code for state in states if state]

    def _list_nodes(self) -> Iterator[Json]:
        """Yield the nodes of the run's workflow; Argo compresses them above 1 MiB."""
        if not self._objects:
            return
        try:
            flows = self._objects.list_namespaced_custom_object(
                "argoproj.io",
                "v1alpha1",
                self._namespace,
                "workflows",
                label_selector=f"{RUN_LABEL}={self._run_id}",
                _request_timeout=REQUEST_SECONDS,
            )["items"]
        except (client.ApiException, urllib3.exceptions.HTTPError):
            return
        for flow in flows:
            status = flow.get("status", {})
            packed = status.get("compressedNodes")
            nodes = json.loads(gzip.decompress(base64.b64decode(packed))) if packed else status.get("nodes")
            yield from (nodes or {}).values()

    def _of(self, task: str, read: Callable[[str], str] | None = None) -> list[client.V1Pod]:
        """Return the pods of ``task``, newest first; ``read`` finds a task in a node's name (``path_of``)."""
        read = read or path_of
        return [pod for pod in self._newest() if read(_node(pod)) == task]

    def _newest(self) -> list[client.V1Pod]:
        """Return all pods of the run, newest first."""
        if self._pods is None:
            found = self._list() if self._api else []
            self._pods = sorted(found, key=lambda pod: pod.metadata.creation_timestamp, reverse=True)
        return self._pods

    def _list(self) -> list[client.V1Pod]:
        try:
            found: list[client.V1Pod] = self._api.list_namespaced_pod(
                self._namespace,
                label_selector=f"{RUN_LABEL}={self._run_id}",
                _request_timeout=REQUEST_SECONDS,
            ).items
        except (client.ApiException, urllib3.exceptions.HTTPError):
            return []
        return found


def _node(pod: client.V1Pod) -> str:
    """Return the name of the pod's node in the workflow, without retry counts."""
    return re.sub(r"\(\d+\)", "", (pod.metadata.annotations or {}).get(NODE_ANNOTATION, ""))


def last_fatal(log: str) -> str:
    """Return the last reason in a driver's log; empty if there is none."""
    fatal = FATAL.findall(log)
    return fatal[-1].rpartition(" failed: ")[2] if fatal else ""


def path_of(node: str) -> str:
    """Parse a node's name: ``condition-1.train`` of ``toy-x7k2p.root.condition-1(0).train.executor(1)``."""
    words = _words(node)
    return ".".join(words[:-1]) if words[-1:] == ["executor"] else ""


def path_of_any(node: str) -> str:
    """Parse like ``path_of``, also for the nodes of a task itself and of its driver."""
    words = _words(node)
    return ".".join(words[:-1] if words[-1:] == ["executor"] else words)


def _words(node: str) -> list[str]:
    """Return the names below the root, without those of exit handlers."""
    words = re.sub(r"\(\d+\)", "", node).split(".")
    inner = words[2:] if words[1:2] == ["root"] else words[1:]
    return [word for word in inner if not is_exit_handler(word)]


def own_lines(log: str) -> str:
    """Return the last lines of ``log`` written by the step itself."""
    lines = [line for line in log.replace("\r", "\n").splitlines() if not LAUNCHER.match(line)]
    return "\n".join(lines[-LOG_LINES:])


def failure(log: str) -> Receipt | None:
    """Return the receipt of the last failed step, which steps print at their end."""
    for line in reversed(log.splitlines()):
        if line.startswith('{"step"'):
            with contextlib.suppress(msgspec.DecodeError):
                receipt = msgspec.json.decode(line, type=Receipt)
                return receipt if receipt.message else None
    return None


def _waiting(pod: client.V1Pod) -> str:
    """Return why a pod has not started: no node, or an image that cannot be pulled."""
    states = [s.state.waiting for s in pod.status.container_statuses or [] if s.state.waiting]
    reasons = [f"{state.reason}: {state.message}" for state in states if state.message]
    reasons += [condition.message for condition in pod.status.conditions or [] if condition.message]
    return reasons[0] if reasons else ""
