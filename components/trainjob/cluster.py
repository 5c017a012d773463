"""Access TrainJobs, their pods and their nodes through the Kubernetes API."""

from collections.abc import Callable
from typing import Any

from kubernetes import client

from deepcuts.components.core import node
from deepcuts.components.core.api_server import (
    CONFLICT,
    FAULTS,
    NOT_FOUND,
    OUTAGE_SECONDS,
    REQUEST_SECONDS,
    Operator,
    ask,
    judged,
    wait_until,
)
from deepcuts.components.trainjob.job import CONTAINER, GROUP, VERSION, Json

KIND = "trainjobs"
MAIN = "main"
"""KFP's name of the container of a step."""
JOBSET, INDEX = "jobset.sigs.k8s.io/jobset-name", "batch.kubernetes.io/job-completion-index"
"""Labels of the pods: the JobSet, named as its TrainJob, and the number of the node."""
GONE_SECONDS = 300.0
"""Time to wait for a deleted TrainJob's pods, whose grace period is 120 s."""
TRAINER = Operator(
    refuses="Kubeflow Trainer refuses the TrainJob",
    missing="no TrainJobs in this cluster: install Kubeflow Trainer 2.3, or set max_nodes to 1 in nodepools",
    manifests="kubectl apply -k manifests/trainer",
)


class Trainer:
    """Kubeflow Trainer in one namespace. A method waits out an unreachable API server unless it asks once.

    Raises:
        ValueError: the server refuses; says what to do.
        StoreError: the server is unreachable, or a quota is used up.
    """

    def __init__(self, namespace: str, outage_seconds: float = OUTAGE_SECONDS) -> None:
        self.namespace, self._outage_seconds = namespace, outage_seconds
        self._objects, self._core = client.CustomObjectsApi(), client.CoreV1Api()

    def settle(self, name: str) -> None:
        """Wait until a deleted TrainJob is completely gone: its pods still write the training's checkpoints.

        Raises:
            StoreError: it takes too long.
        """
        wait_until(
            lambda: not self._leaving(name),
            GONE_SECONDS,
            f"TrainJob {name} was deleted but its pods are not gone after {GONE_SECONDS:g} s: "
            f"kubectl -n {self.namespace} get trainjob,pod -l {JOBSET}={name}",
        )

    def _leaving(self, name: str) -> bool:
        found = self.job(name)
        return bool(found["metadata"].get("deletionTimestamp") if found else self.pods(name))

    def create(self, job: Json) -> None:
        """Start a TrainJob, unless one of that name exists, with which a retried step continues."""
        self._custom(self._objects.create_namespaced_custom_object, job, missing=CONFLICT)

    def job(self, name: str) -> Json | None:
        found: Json | None = self._custom(self._objects.get_namespaced_custom_object, name, missing=NOT_FOUND)
        return found

    def delete(self, name: str) -> None:
        """Delete a TrainJob with its pods, without waiting."""
        self._custom(self._objects.delete_namespaced_custom_object, name, missing=NOT_FOUND)

    def pods(self, name: str) -> list[Any]:
        """Return the pods of a TrainJob in order of creation, replaced ones included."""
        found = self._asked(
            self._core.list_namespaced_pod, "pods", self.namespace, label_selector=f"{JOBSET}={name}"
        )
        return sorted(found.items, key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name))

    def own_image(self) -> str:
        """Return the image of this step, so that the pods run the same code."""
        pod = self._asked(self._core.read_namespaced_pod, "pods", node.pod_name(), self.namespace)
        containers = {each.name: each.image for each in pod.spec.containers}
        return str(containers.get(MAIN) or next(iter(containers.values())))

    def log(self, pod: str, since_seconds: int | None) -> str:
        """Return a pod's log with times, of the last ``since_seconds`` or all; empty if it is not to be had.

        Asks once: a log is only shown.
        """
        try:
            found = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=CONTAINER,
                since_seconds=since_seconds,
                timestamps=True,
                _request_timeout=REQUEST_SECONDS,
            )
        except FAULTS:
            return ""
        return str(found or "")

    def node_labels(self, name: str) -> dict[str, str]:
        """Return a node's labels; empty if they may not be read (``manifests/options/node-labels``)."""
        try:
            found = self._core.read_node(name, _request_timeout=REQUEST_SECONDS)
        except FAULTS:
            return {}
        return dict(found.metadata.labels or {})

    def _custom(self, call: Callable[..., Any], *words: Any, missing: int) -> Any:
        return self._asked(call, KIND, GROUP, VERSION, self.namespace, KIND, *words, missing=missing)

    def _asked(self, call: Callable[..., Any], kind: str, *words: Any, missing: int = 0, **named: Any) -> Any:
        return ask(
            call,
            *words,
            judge=lambda error: judged(error, f"{kind} in {self.namespace}", TRAINER),
            outage_seconds=self._outage_seconds,
            missing=missing,
            **named,
        )
