"""Follow a TrainJob to its end: its state and log, the nodes it runs on, and why it ended."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepcuts.components.core.errors import DataError, GateRefused, Preempted, StoreError
from deepcuts.components.core.progress import tell
from deepcuts.components.trainjob.cluster import INDEX, Trainer
from deepcuts.components.trainjob.job import Json

POLL_SECONDS = 5.0
SILENT_SECONDS = 300.0
"""Time without a pod after which something prevents Trainer from starting; only its events say what."""
Say = Callable[[str], None]
FAILURES: dict[int, type[Exception]] = {
    2: ValueError,
    3: DataError,
    5: GateRefused,
    1: RuntimeError,
    137: StoreError,
    4: StoreError,
    143: Preempted,
}
"""Error of the step by exit code of a pod, as if it had trained alone. The first of these decides: a peer of
a node that failed ends with 4, having lost the connection. A pod killed for its memory has 137."""


def followed(
    trainer: Trainer, name: str, placed: Callable[[Any, Mapping[str, str]], None], say: Say = tell
) -> Exception | None:
    """Return when the TrainJob has ended, however long it takes: None, or the error with which it failed.

    ``placed`` is called once for each pod with a node, with the node's labels, if they may be read.

    Raises:
        DataError: it was deleted meanwhile.
        StoreError: the API server is unreachable; the TrainJob keeps running.
    """
    began, said, known, log = time.monotonic(), "", set[str](), LogTail(trainer, say)
    while True:
        found = trainer.job(name)  # before the pods, which are complete once it has ended
        if found is None:
            raise DataError(f"TrainJob {name} was deleted: run again, training resumes from its checkpoints")
        pods = trainer.pods(name)
        for pod in pods:
            if pod.spec.node_name and pod.metadata.uid not in known:
                known.add(pod.metadata.uid)
                placed(pod, trainer.node_labels(pod.spec.node_name))
        log.show(pods)
        end = condition(found)
        if end.get("type") == "Complete":
            return None
        if end.get("type") == "Failed":
            return failure(name, end, pods)
        line = state(found, pods)
        if not pods and time.monotonic() - began > SILENT_SECONDS:
            line = f"no pod yet: kubectl -n {trainer.namespace} describe trainjob,jobset {name}"
        if line != said:
            say(line)
            said = line
        time.sleep(POLL_SECONDS)


def condition(job: Json) -> Json:
    """Return the condition by which a TrainJob has ended, else one that suspends it; empty if neither."""
    true = {c["type"]: c for c in job.get("status", {}).get("conditions", []) if c["status"] == "True"}
    return true.get("Complete") or true.get("Failed") or true.get("Suspended") or {}


def state(job: Json, pods: Sequence[Any]) -> str:
    """Return ``2 nodes: 1 Pending (0/3 nodes are available…), 1 Running``."""
    nodes = f"{job['spec']['trainer']['numNodes']} nodes"
    if condition(job).get("type") == "Suspended":
        return f"{nodes}: waiting for the queue"
    newest = {(pod.metadata.labels or {}).get(INDEX): pod for pod in pods}
    phases = [pod.status.phase for pod in newest.values()]
    counts = {phase: str(phases.count(phase)) for phase in sorted(set(phases))}
    waiting = [why for pod in newest.values() if (why := _unscheduled(pod))]
    said = ", ".join(f"{count} {phase}" for phase, count in counts.items()) or "no pod yet"
    return f"{nodes}: {said}" + (f" ({waiting[0]})" if waiting else "")


def _unscheduled(pod: Any) -> str:
    found = [c for c in pod.status.conditions or [] if c.type == "PodScheduled" and c.status == "False"]
    return str(found[0].message or "") if found else ""


def failure(name: str, end: Json, pods: Sequence[Any]) -> Exception:
    """Return the error of the pod that decides (``FAILURES``), else one with the controller's message."""
    ends = [(pod, found) for pod in pods if (found := _terminated(pod)) and found.exit_code]
    for code, kind in FAILURES.items():
        for pod, found in ends:
            if found.exit_code == code:
                return kind(_said(pod, found))
    if end.get("reason") == "TrainingRuntimeNotSupported":
        return ValueError(f"TrainJob {name}: {end.get('message', '')}: kubectl apply -k manifests/trainer")
    if ends:
        return StoreError(_said(*ends[-1]))
    return StoreError(f"TrainJob {name} failed: {end.get('reason', '')} {end.get('message', '')}")


def _terminated(pod: Any) -> Any:
    statuses = pod.status.container_statuses or []
    return statuses[0].state.terminated if statuses and statuses[0].state else None


def _said(pod: Any, end: Any) -> str:
    """Return what a failed pod said: the lines of its step, else its last one."""
    node = (pod.metadata.labels or {}).get(INDEX, "?")
    lines = [line for line in (end.message or "").splitlines() if line.strip()]
    own = [line.partition(": ")[2] for line in lines if line.partition(": ")[0].isidentifier()]
    words = "\n".join(dict.fromkeys(own)) or (lines[-1] if lines else "it said nothing")
    if end.reason and end.reason != "Error":
        words = f"{end.reason}: {words}"
    return f"node {node}: {words}"


class LogTail:
    """Prints new log lines of the first node, and then of any pod that replaces it."""

    def __init__(self, trainer: Trainer, say: Say) -> None:
        self._trainer, self._say = trainer, say
        self._pod, self._seen, self._asked = "", "", 0.0

    def show(self, pods: Sequence[Any]) -> None:
        """Print what the newest pod of the first node has written since the last call."""
        started = [
            pod
            for pod in pods
            if (pod.metadata.labels or {}).get(INDEX) == "0" and pod.status.phase != "Pending"
        ]
        if not started:
            return
        if started[-1].metadata.name != self._pod:
            self._pod, self._seen, self._asked = started[-1].metadata.name, "", 0.0
        now = time.monotonic()
        since = math.ceil(now - self._asked) + 1 if self._asked else None
        for line in self._trainer.log(self._pod, since).splitlines():
            stamp, _, text = line.partition(" ")
            if (moment := _sortable(stamp)) > self._seen:
                self._say(text)
                self._seen = moment
        self._asked = now


def _sortable(stamp: str) -> str:
    """Return a time whose fraction has nine digits: runtimes cut off zeros at the end."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{whole}.{fraction:<09}"
