"""Access RayJobs of KubeRay through the Kubernetes API."""

import time
from collections.abc import Callable
from typing import Any

import urllib3
from kubernetes import client

from deepcuts.components.core.api_server import (
    CONFLICT,
    FORBIDDEN,
    NOT_FOUND,
    OUTAGE_SECONDS,
    REFUSED,
    REQUEST_SECONDS,
    exists_already,
    is_over_quota,
    reason,
)
from deepcuts.components.core.errors import StoreError
from deepcuts.components.core.retry import retry

Json = dict[str, Any]
GROUP, VERSION, KIND = "ray.io", "v1", "rayjobs"
GONE_SECONDS = 120.0
"""Time to wait for a deletion: the head's pod has the grace period of all pods."""


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
        until = time.monotonic() + GONE_SECONDS
        while (found := self.get(name)) and found["metadata"].get("deletionTimestamp"):
            if time.monotonic() > until:
                raise StoreError(
                    f"RayJob {name} was deleted but not gone after {GONE_SECONDS:g} s: check finalizers: "
                    f"kubectl -n {self.namespace} get rayjob {name} -o yaml"
                )
            time.sleep(1)

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

        def ask() -> Any:
            try:
                return call(GROUP, VERSION, self.namespace, KIND, *words, _request_timeout=REQUEST_SECONDS)
            except client.ApiException as error:
                if error.status == missing and (missing != CONFLICT or exists_already(error)):
                    return None
                raise

        faults = (client.ApiException, urllib3.exceptions.HTTPError)
        return retry(ask, faults, self._judged, self._outage_seconds)

    def _judged(self, error: Exception) -> Exception:
        status = getattr(error, "status", None)
        if is_over_quota(error):
            return StoreError(f"no room for the RayJob: {reason(error)}")
        if status == FORBIDDEN:
            return ValueError(
                f"RayJobs in {self.namespace}: {reason(error)}: kubectl apply -k manifests/options/ray gives "
                "the right"
            )
        if status == NOT_FOUND:
            return ValueError("no RayJobs in this cluster: install KubeRay 1.4 or later, or set engine local")
        if status in REFUSED:
            return ValueError(f"KubeRay refuses the RayJob: {reason(error)}")
        return StoreError(f"the API server does not answer: {reason(error)}")
