"""Start: a Job of a CronJob's template, as ``kubectl create job --from`` makes one: one Job follows another.

``python -m components.retrain.start CRONJOB TITLE WINDOW [WORTH]``. Pods of the new Job carry the label
``deepcuts-window``, by which the places of their artifacts are named. ``WORTH`` is a file: unless it says
``true``, nothing is started.
"""

import sys
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client

from components.core.errors import StoreError, exit_code
from components.core.patience import patiently
from components.tune_katib.cluster import (
    CONFLICT,
    FORBIDDEN,
    NOT_FOUND,
    OUTAGE_SECONDS,
    REQUEST_SECONDS,
    connect,
    reason,
)

WINDOW_LABEL = "deepcuts-window"
FAULTS = (client.ApiException, urllib3.exceptions.HTTPError)


def start(cronjob: str, title: str, window: str, outage_seconds: float = OUTAGE_SECONDS) -> bool:
    """Make the Job ``title`` in this pod's namespace; False where an earlier attempt has made it.

    Raises:
        ValueError: no such CronJob, or no right to start it.
        StoreError: the API server stays away.
    """
    namespace, api = connect(""), client.BatchV1Api()

    def judged(error: Exception) -> Exception:
        status = getattr(error, "status", None)
        if status in (FORBIDDEN, NOT_FOUND):
            fix = "kubectl apply -k an overlay of manifests/ brings it, and the right to start it"
            return ValueError(f"CronJob {cronjob} in {namespace}: {reason(error)}: {fix}")
        return StoreError(f"the API server does not answer: {reason(error)}")

    def make() -> bool:
        template = api.read_namespaced_cron_job(cronjob, namespace, _request_timeout=REQUEST_SECONDS)
        job = job_of(template.spec.job_template, title, window)
        try:
            api.create_namespaced_job(namespace, job, _request_timeout=REQUEST_SECONDS)
        except client.ApiException as error:
            if error.status == CONFLICT:
                return False
            raise
        return True

    return patiently(make, FAULTS, judged, outage_seconds)


def job_of(template: Any, title: str, window: str) -> client.V1Job:
    """The Job of a CronJob's template (V1JobTemplateSpec) for ``window``."""
    labels = (template.metadata.labels or {}) | {WINDOW_LABEL: window}
    pod = template.spec.template.metadata
    pod.labels = (pod.labels or {}) | {WINDOW_LABEL: window}
    return client.V1Job(metadata=client.V1ObjectMeta(name=title, labels=labels), spec=template.spec)


def main(words: list[str]) -> int:
    """Exit code; what went wrong is on stderr."""
    cronjob, title, window, *worth = words
    try:
        if any(Path(path).read_text().strip() != "true" for path in worth):
            print(f"{title} is not started: not worth it")
            return 0
        made = start(cronjob, title, window)
    except Exception as error:
        if exit_code(error) == 1:
            raise
        print(f"start: {error}", file=sys.stderr)
        return exit_code(error)
    print(f"{title} {'is started' if made else 'was started before'}: kubectl get job {title}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
