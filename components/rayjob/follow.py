"""Start a RayJob and wait for its end, with a line for every change."""

import datetime
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from deepcuts.components.core import cancel
from deepcuts.components.core.cancel import undisturbed
from deepcuts.components.core.errors import DataError, Preempted
from deepcuts.components.core.progress import tell
from deepcuts.components.rayjob.cluster import RayJobs

Json = dict[str, Any]
POLL_SECONDS = 5.0
SILENT_SECONDS = 300.0
"""Time without a cluster after which something prevents its pods from starting; only events say what."""
ENDED = ("Complete", "Failed", "ValidationFailed")


class RayJobEnd(NamedTuple):
    """End of a RayJob."""

    message: str
    """Why it failed, if KubeRay says so."""
    seconds: float
    """From KubeRay's start to the end, including waiting for nodes."""
    uid: str


def follow(
    jobs: RayJobs,
    job: Json,
    say: Callable[[str], None] = tell,
) -> RayJobEnd:
    """Create ``job`` unless it exists, and return when it has ended.

    Raises:
        ValueError: KubeRay refuses it.
        DataError: it was deleted meanwhile.
        StoreError: the API server is unreachable.
        Preempted: SIGTERM arrived (``cancel.sigterm``); the RayJob is deleted.
    """
    name = job["metadata"]["name"]
    try:
        jobs.settle(name)
        with undisturbed():
            jobs.create(job)
        say(f"kubectl -n {jobs.namespace} get rayjob {name}")
        return _followed(jobs, name, say)
    except Preempted as error:
        raise Preempted(cancelled(jobs, name)) from error


def cancelled(jobs: RayJobs, name: str) -> str:
    """Delete a RayJob that is no longer followed; return a message for the user."""
    then = " with its pods: the same command starts it again"
    return cancel.cancelled(jobs.delete, jobs.namespace, "RayJob", name, then)


def _followed(jobs: RayJobs, name: str, say: Callable[[str], None]) -> RayJobEnd:
    began, said = time.monotonic(), ""
    while True:
        found = jobs.get(name)
        if found is None:
            raise DataError(f"RayJob {name} was deleted: run again")
        status = found.get("status") or {}
        state = status.get("jobDeploymentStatus") or "waiting for KubeRay"
        if state in ENDED:
            why = ": ".join(filter(None, (status.get("reason"), status.get("message"))))
            return RayJobEnd(why, _seconds(status) or time.monotonic() - began, found["metadata"]["uid"])
        line = f"RayJob {name}: {state}" + f", job {status.get('jobStatus')}" * bool(status.get("jobStatus"))
        if state != "Running" and time.monotonic() - began > SILENT_SECONDS:
            line += f": kubectl -n {jobs.namespace} describe rayjob {name}"
        if line != said:
            say(line)
            said = line
        time.sleep(POLL_SECONDS)


def _seconds(status: Json) -> float:
    """Return the seconds between start and end; 0 if KubeRay does not tell."""
    begun, ended = (status.get(name) for name in ("startTime", "endTime"))
    if not (begun and ended):
        return 0.0
    time_of = datetime.datetime.fromisoformat
    return (time_of(ended) - time_of(begun)).total_seconds()
