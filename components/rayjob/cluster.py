"""Access RayJobs of KubeRay through the Kubernetes API."""

from collections.abc import Callable
from typing import Any

from kubernetes import client

from deepcuts.components.core.api_server import (
    CONFLICT,
    NOT_FOUND,
    OUTAGE_SECONDS,
    Operator,
    ask,
    judged,
    wait_until,
)

Json = dict[str, Any]
GROUP, VERSION, KIND = "ray.io", "v1", "rayjobs"
GONE_SECONDS = 120.0
"""Time to wait for a deletion: the head's pod has the grace period of all pods."""
KUBERAY = Operator(
    refuses="KubeRay refuses the RayJob",
    missing="no RayJobs in this cluster: install KubeRay, or set engine local",
    manifests="kubectl apply -k manifests/options/ray",
)


class RayJobs:
    """RayJobs in one namespace. Every method waits out an unreachable API server.

    Raises:
        ValueError: the server refuses; says what to do.
        StoreError: the server is unreachable.
    """

    def __init__(self, namespace: str, outage_seconds: float = OUTAGE_SECONDS) -> None:
        self.namespace, self._outage_seconds = namespace, outage_seconds
        self._api = client.CustomObjectsApi()

    def settle(self, name: str) -> None:
        """Wait until a deleted RayJob is completely gone, as it would look like a running one.

        Raises:
            StoreError: it takes too long.
        """
        wait_until(
            lambda: not self._leaving(name),
            GONE_SECONDS,
            f"RayJob {name} was deleted but not gone after {GONE_SECONDS:g} s: check finalizers: "
            f"kubectl -n {self.namespace} get rayjob {name} -o yaml",
        )

    def _leaving(self, name: str) -> bool:
        found = self.get(name)
        return bool(found and found["metadata"].get("deletionTimestamp"))

    def create(self, job: Json) -> None:
        """Start a RayJob, unless one of that name exists, with which a retried step continues."""
        self._asked(self._api.create_namespaced_custom_object, job, missing=CONFLICT)

    def get(self, name: str) -> Json | None:
        """Return a RayJob; None if there is none."""
        found: Json | None = self._asked(self._api.get_namespaced_custom_object, name, missing=NOT_FOUND)
        return found

    def delete(self, name: str) -> None:
        """Delete a RayJob with its cluster, without waiting."""
        self._asked(self._api.delete_namespaced_custom_object, name, missing=NOT_FOUND)

    def _asked(self, call: Callable[..., Any], *words: Any, missing: int) -> Any:
        """Return the response, or None if its status is ``missing``."""
        return ask(
            call,
            *(GROUP, VERSION, self.namespace, KIND, *words),
            judge=lambda error: judged(error, f"{KIND} in {self.namespace}", KUBERAY),
            outage_seconds=self._outage_seconds,
            missing=missing,
        )
