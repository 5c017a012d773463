"""Log in to the Kubernetes API, ask it with patience, and tell why it refused a request."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import urllib3
from kubernetes import client, config

from deepcuts.components.core.errors import StoreError
from deepcuts.components.core.retry import retry

T = TypeVar("T")
FAULTS = (client.ApiException, urllib3.exceptions.HTTPError)
OUTAGE_SECONDS = 600.0
"""An upgrade of the control plane takes minutes; running work continues meanwhile."""
REQUEST_SECONDS = 30
FORBIDDEN, NOT_FOUND, CONFLICT = 403, 404, 409
REFUSED = (400, 422)
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Operator(NamedTuple):
    """What to tell the user of a custom resource whose operator does not take it."""

    refuses: str
    """Before the server's message: ``Katib refuses the Experiment``."""
    missing: str
    """If the cluster does not know the resource."""
    manifests: str
    """Command that gives the rights."""


def connect(namespace: str) -> str:
    """Log in as this pod or by kubeconfig; return ``namespace``, or the login's own if it is empty.

    Raises:
        ValueError: there is no cluster to log in to.
    """
    if ACCOUNT.exists():
        config.load_incluster_config()
        return namespace or ACCOUNT.read_text().strip()
    path = os.environ.get("KUBECONFIG")  # the client read it when it was imported
    try:
        config.load_kube_config(path)
        _, context = config.list_kube_config_contexts(path)
    except config.ConfigException as error:
        raise ValueError(f"no cluster to log in to ({error}): set KUBECONFIG") from error
    return namespace or str(context["context"].get("namespace", "default"))


def ask(
    call: Callable[..., T],
    *words: Any,
    judge: Callable[[Exception], Exception],
    outage_seconds: float,
    missing: int = 0,
    **named: Any,
) -> T | Any:
    """Return the response to ``call``, or None if its status is ``missing``; waits out an outage.

    Raises:
        Exception: what ``judge`` makes of a refusal, or of an outage that lasts.
    """

    def once() -> T | None:
        try:
            return call(*words, _request_timeout=REQUEST_SECONDS, **named)
        except client.ApiException as error:
            if error.status == missing and (missing != CONFLICT or exists_already(error)):
                return None
            raise

    return retry(once, FAULTS, judge, outage_seconds)


def judged(error: Exception, kind: str, operator: Operator) -> Exception:
    """Return what a fault means for the user of ``kind``: a StoreError if it may pass, else a ValueError."""
    status = getattr(error, "status", None)
    if is_over_quota(error):
        return StoreError(f"no room for {kind}: {reason(error)}")
    if status == FORBIDDEN:
        return ValueError(f"{kind}: {reason(error)}: {operator.manifests} gives the right")
    if status == NOT_FOUND:
        return ValueError(operator.missing)
    if status in REFUSED:
        return ValueError(f"{operator.refuses}: {reason(error)}")
    return StoreError(f"the API server does not answer: {reason(error)}")


def wait_until(gone: Callable[[], bool], seconds: float, problem: str) -> None:
    """Wait until an object that was deleted is ``gone``.

    Raises:
        StoreError: it takes longer than ``seconds``; ``problem`` says what to look at.
    """
    until = time.monotonic() + seconds
    while not gone():
        if time.monotonic() > until:
            raise StoreError(problem)
        time.sleep(1)


def exists_already(error: Exception) -> bool:
    """Tell whether an object of that name exists already; a used-up quota answers 409, too."""
    return getattr(error, "status", None) == CONFLICT and _said(error).get("reason") == "AlreadyExists"


def is_over_quota(error: Exception) -> bool:
    """Tell whether a quota is used up; that passes once other objects are deleted."""
    return getattr(error, "status", None) == FORBIDDEN and "exceeded quota" in reason(error)


def reason(error: Exception) -> str:
    """Return the server's message, or the client's if there is none."""
    return str(_said(error).get("message") or getattr(error, "reason", None) or error)


def _said(error: Exception) -> dict[str, object]:
    try:
        found = json.loads(getattr(error, "body", None) or "{}")
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
