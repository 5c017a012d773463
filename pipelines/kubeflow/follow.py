"""Follow a run on Kubeflow, keeping its record from the server's and the tasks' reports."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from kfp_server_api import V2beta1PipelineTaskDetail as Detail

from deepcuts.components.core import clock
from deepcuts.components.core.cli import write_json
from deepcuts.components.core.errors import StoreError
from deepcuts.components.core.retry import retry
from deepcuts.pipelines.kubeflow.client import ENDED, Server
from deepcuts.pipelines.kubeflow.run_outputs import PREEMPTED, RunOutputs
from deepcuts.pipelines.runner import pipeline_spec, run_record
from deepcuts.pipelines.runner.local import Show
from deepcuts.pipelines.runner.run_record import HELD_BACK, RunRecord, TaskRecord, TaskStatus

POLL_SECONDS = 5.0
"""Argo checks a workflow at most every 10 s."""
SETTLE_SECONDS = 30.0
"""For some seconds after a run's end, the server may still show its last tasks as running (2.17)."""
OUTAGE_SECONDS = 300.0
"""How long the server may be unreachable while a run is followed; the run itself is not affected."""
STATES: dict[str, TaskStatus] = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "SUCCEEDED": "done",
    "SKIPPED": "skipped",
    "FAILED": "failed",
    "CANCELING": "interrupted",
    "CANCELED": "interrupted",
    "PAUSED": "waiting",
}


def record(package: Path, arguments: Mapping[str, object]) -> RunRecord:
    """Return the record of a run that has not started."""
    pipeline = pipeline_spec.read(package)
    return RunRecord(
        pipeline=pipeline.pipeline_info.name,
        package_digest=pipeline.digest,
        arguments=dict(arguments),
        parallel=0,
        started_at=clock.utc(),
        tasks={
            path: TaskRecord(
                name=leaf.task.task_info.get("name", path),
                step="+".join(pipeline_spec.steps(leaf)) or "importer",
                pool=pipeline_spec.pool(leaf.placement),
            )
            for path, leaf in pipeline_spec.leaves(pipeline)
        },
    )


def follow(
    server: Server,
    run_id: str,
    run: RunRecord,
    folder: Path,
    outputs: RunOutputs,
    show: Show,
    *,
    stop_if_preempted: bool,
    full_pool: Callable[[], str] = lambda: "",
) -> str:
    """Keep ``run`` and ``folder``'s ``run.json`` up to date until the run has ended; then fetch its ledger.

    Once a run's status exceeds 1 MiB, it continues but the server stops showing it, so the tasks' records in
    the store take precedence over the server's details.

    With ``stop_if_preempted`` the run is cancelled once a task has failed because its pod was taken away, as
    the watcher of a trainer that will not return would wait for 15 min. It is also cancelled once
    ``full_pool`` names a pool without room for too long; returns that name, else ''.
    """

    def judge(error: Exception) -> Exception:
        return StoreError(str(error)) if isinstance(error, ConnectionError) else error

    cancelled, settled, stopped, full = False, 0.0, False, ""
    while True:
        seen = retry(lambda: server.look(run_id), (ConnectionError,), judge, OUTAGE_SECONDS)
        ended = seen.state in ENDED
        cancelled |= seen.state in ("CANCELING", "CANCELED") or _was_cancelled(seen.state_history)
        update(run, (seen.run_details and seen.run_details.task_details) or [], seen.state)
        outputs.refresh()
        for path, task in run.tasks.items():
            outputs.describe(path, task, folder / "tasks" / path, ended)
        unsettled = any(task.status in ("running", "waiting") for task in run.tasks.values())
        if not (ended or stopped):
            full = full_pool()
            stopped = bool(full) or stop_if_preempted and _preempted(run)
            if stopped:
                server.cancel(run_id)
        if ended and unsettled and settled < SETTLE_SECONDS:
            settled, ended = settled + POLL_SECONDS, False
        if ended:
            if seen.state == "FAILED" and not cancelled:
                outputs.explain_start(run)
            outputs.collect(run, folder)
            end(run, seen.state, cancelled)
        write_json(folder / "run.json", run)
        show(run)
        if ended:
            return full
        time.sleep(POLL_SECONDS)


def end(run: RunRecord, state: str, cancelled: bool) -> None:
    """Close the record of a run that ended as ``state``; KFP 2.17 reports cancelled ones as FAILED."""
    run.ended_at = clock.utc()
    for task in run.tasks.values():
        if task.status in ("running", "waiting"):
            gone = "cancelled" if cancelled else HELD_BACK
            task.status, task.message = ("done", "") if state == "SUCCEEDED" else ("skipped", gone)
    if state == "SUCCEEDED":
        run.status, run.exit_code = "done", 0
    elif cancelled:
        run.status, run.exit_code = "interrupted", 143
        for task in run.tasks.values():
            if task.status == "failed" and task.exit_code not in (2, 3, 5):
                task.status, task.exit_code, task.message = "interrupted", 143, "the run was cancelled"
    else:
        run.status = "failed"
        codes = [task.exit_code for task in run.tasks.values()]
        run.exit_code = run_record.worst(run) if any(codes) else 4


def update(run: RunRecord, details: list[Detail], state: str) -> None:
    """Update the tasks of ``run`` with the server's details.

    KFP 2.17 lists the nodes of the Argo workflow flat, by their names in their own DAGs: a task ``train`` has
    a node ``train-driver`` and a node ``train``, which is missing if its driver fails.
    """
    left = {detail.task_id: detail for detail in details}
    for path, task in run.tasks.items():
        *outer, name = path.split(".")
        around = [detail for detail in details if _name(detail) in outer]
        detail = next((detail for detail in left.values() if _name(detail) == name), None)
        driver = next((detail for detail in details if _name(detail) == f"{name}-driver"), None)
        if any(dag.state == "SKIPPED" for dag in around):
            task.status, task.message = "skipped", "its condition is false"
        elif driver and driver.state == "FAILED":
            task.status, task.exit_code = "failed", task.exit_code or 4
            task.message = task.message or _said(driver)
        elif detail:
            del left[detail.task_id]
            task.status = STATES.get(detail.state, "waiting")
            task.seconds = _seconds(detail)
            task.started_at = detail.start_time.isoformat() if task.seconds else ""
            task.attempt = max(task.attempt, int(task.status != "waiting"))
            if task.status == "skipped":
                task.message = HELD_BACK
            if task.status == "failed":
                task.exit_code = task.exit_code or 1
                task.message = task.message or _said(detail)
        elif state in ENDED and state != "SUCCEEDED":
            task.status, task.message = "skipped", HELD_BACK


def _preempted(run: RunRecord) -> bool:
    return any(task.status == "failed" and task.exit_code == PREEMPTED for task in run.tasks.values())


def _was_cancelled(history: object) -> bool:
    return isinstance(history, list) and any(status.state in ("CANCELING", "CANCELED") for status in history)


def _said(detail: Detail) -> str:
    return str(detail.error.message) if detail.error and detail.error.message else ""


def _name(detail: Detail) -> str:
    """Strip the ``(0)`` that Argo adds to nodes with retries."""
    return str(detail.display_name).partition("(")[0]


def _seconds(detail: Detail) -> float:
    """Return the wall seconds so far; a running node's end is in the year 1."""
    if not detail.start_time or detail.start_time.year < 2000:
        return 0.0
    end = detail.end_time
    if not end or end < detail.start_time:
        end = clock.now()
    return float(max(0.0, (end - detail.start_time).total_seconds()))
