"""Access Experiments, Trials and Suggestions of Katib through the Kubernetes API."""

from collections.abc import Callable
from typing import Any, TypeVar

from kubeflow_katib_api.models import V1beta1Experiment, V1beta1Suggestion, V1beta1Trial
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

T = TypeVar("T")
GROUP, VERSION = "kubeflow.org", "v1beta1"
GONE_SECONDS = 120.0
"""Time to wait for deletion: Katib removes a trial's metrics from its database before the trial."""
KATIB = Operator(
    refuses="Katib refuses the Experiment",
    missing="no Experiments in this cluster: install Katib 0.19, or use tune, which does not need it",
    manifests="kubectl apply -k manifests/katib",
)


class Katib:
    """Katib in one namespace. Every method waits out an unreachable API server.

    Raises:
        ValueError: the server refuses; says what to do.
        StoreError: the server is unreachable.
    """

    def __init__(self, namespace: str, outage_seconds: float = OUTAGE_SECONDS) -> None:
        self.namespace, self._outage_seconds = namespace, outage_seconds
        self._api = client.CustomObjectsApi()

    def settle(self, name: str) -> None:
        """Wait until a deleted Experiment is completely gone.

        One being deleted would look like a running one, and its trials would count in a new one of that name,
        because Katib 0.19 finds trials by label.

        Raises:
            StoreError: it takes too long.
        """
        wait_until(
            lambda: not self._leaving(name),
            GONE_SECONDS,
            f"Experiment {name} was deleted but not gone after {GONE_SECONDS:g} s: check finalizers: "
            f"kubectl -n {self.namespace} get experiment,trial -o yaml",
        )

    def _leaving(self, name: str) -> bool:
        found = self.experiment(name)
        if found is None:
            return bool(self.trials(name))
        return bool(found.metadata and found.metadata.deletion_timestamp)

    def create(self, experiment: V1beta1Experiment) -> None:
        """Start an Experiment, unless one of that name exists, with which a retried step continues."""
        body = experiment.to_dict()
        self._asked(self._api.create_namespaced_custom_object, "experiments", body, missing=CONFLICT)

    def experiment(self, name: str) -> V1beta1Experiment | None:
        found = self._asked(self._api.get_namespaced_custom_object, "experiments", name, missing=NOT_FOUND)
        return V1beta1Experiment.from_dict(found) if found else None

    def trials(self, name: str) -> list[V1beta1Trial]:
        """Return the trials in order of creation."""
        selector = f"katib.kubeflow.org/experiment={name}"
        found = self._asked(self._api.list_namespaced_custom_object, "trials", label_selector=selector)
        items = sorted(
            found["items"], key=lambda item: (item["metadata"]["creationTimestamp"], item["metadata"]["name"])
        )
        return [trial for item in items if (trial := V1beta1Trial.from_dict(item))]

    def complaint(self, name: str) -> str:
        """Return why an Experiment's suggestion service refuses it; empty if it does not."""
        found = self._asked(self._api.get_namespaced_custom_object, "suggestions", name, missing=NOT_FOUND)
        suggestion = V1beta1Suggestion.from_dict(found) if found else None
        conditions = (suggestion.status and suggestion.status.conditions) if suggestion else None
        failed = [c for c in conditions or [] if c.type == "Failed" and c.status == "True"]
        return failed[-1].message or "" if failed else ""

    def delete(self, name: str) -> None:
        """Delete an Experiment with its Trials, Jobs and pods, without waiting."""
        self._asked(self._api.delete_namespaced_custom_object, "experiments", name, missing=NOT_FOUND)

    def _asked(
        self, call: Callable[..., T], kind: str, *words: Any, missing: int = 0, **named: Any
    ) -> T | Any:
        """Return the response, or None if its status is ``missing``."""
        return ask(
            call,
            *(GROUP, VERSION, self.namespace, kind, *words),
            judge=lambda error: judged(error, f"{kind} in {self.namespace}", KATIB),
            outage_seconds=self._outage_seconds,
            missing=missing,
            **named,
        )
