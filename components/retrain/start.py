"""Start the next Job of a chain from a CronJob's template, like ``kubectl create job --from``.

``python -m deepcuts.components.retrain.start CRONJOB TITLE WINDOW PULLED``, where ``PULLED`` is the receipt
of pulling the release in service. Pods of the new Job have the labels ``deepcuts-window``, which names their
artifacts' places, and ``deepcuts-release``, so that a chain trains and judges against one version even if
another one is released meanwhile. Unlike kubectl's, the Job does not belong to the CronJob and outlives it.
"""

import sys
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client

from deepcuts.components.core import api_server, escape, step_facts
from deepcuts.components.core.errors import StoreError, exit_code
from deepcuts.components.core.retry import retry
from deepcuts.components.core.step_facts import PullFacts

WINDOW_LABEL, RELEASE_LABEL = "deepcuts-window", "deepcuts-release"
FAULTS = (client.ApiException, urllib3.exceptions.HTTPError)
FINAL = (api_server.FORBIDDEN, api_server.NOT_FOUND, *api_server.REFUSED)


def start(
    cronjob: str, title: str, labels: dict[str, str], outage_seconds: float = api_server.OUTAGE_SECONDS
) -> bool:
    """Create the Job ``title`` in this pod's namespace; return False if an earlier attempt created it.

    Raises:
        ValueError: the CronJob does not exist or may not be started, or the server refuses the Job.
        StoreError: the API server is unreachable, or the quota of Jobs stays used up.
    """
    namespace, api = api_server.connect(""), client.BatchV1Api()

    def judged(error: Exception) -> Exception:
        refusal = f"Job {title} of CronJob {cronjob} in {namespace}: {api_server.reason(error)}"
        if getattr(error, "status", None) in FINAL and not api_server.is_over_quota(error):
            return ValueError(f"{refusal}: apply an overlay of manifests/, which brings CronJob and right")
        return StoreError(refusal)

    def make() -> bool:
        template = api.read_namespaced_cron_job(
            cronjob, namespace, _request_timeout=api_server.REQUEST_SECONDS
        ).spec.job_template
        job = job_of(template, title, labels)
        try:
            api.create_namespaced_job(namespace, job, _request_timeout=api_server.REQUEST_SECONDS)
        except client.ApiException as error:
            if api_server.exists_already(error):
                return False
            raise
        return True

    return retry(make, FAULTS, judged, outage_seconds)


def job_of(template: Any, title: str, labels: dict[str, str]) -> client.V1Job:
    """Make the Job of a CronJob's template (V1JobTemplateSpec), with additional labels on it and its pods."""
    pod = template.spec.template.metadata
    pod.labels = (pod.labels or {}) | labels
    metadata = client.V1ObjectMeta(name=title, labels=(template.metadata.labels or {}) | labels)
    return client.V1Job(metadata=metadata, spec=template.spec)


def main(words: list[str]) -> int:
    """Run the command; return its exit code. Errors go to stderr."""
    cronjob, title, window, pulled = words
    try:
        release = step_facts.of(PullFacts, Path(pulled)).version
        made = start(cronjob, title, {WINDOW_LABEL: window, RELEASE_LABEL: release})
    except Exception as error:
        if exit_code(error) == 1:
            raise
        print(escape.terminal(f"start: {error}"), file=sys.stderr)
        return exit_code(error)
    print(f"{title} {'is started' if made else 'was started before'}: kubectl get job {title}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
