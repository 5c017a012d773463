"""Run a compiled pipeline on this machine, each task in a subprocess with the argv of its pod.

Ready tasks run concurrently, and a failed branch does not stop the others. Finished work comes from the cache
(``leaf.py``), so a crashed run resumes when it is run again.
"""

import asyncio
import contextlib
import fcntl
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from deepcuts.components.core import clock
from deepcuts.components.core.cli import write_json
from deepcuts.components.core.errors import exit_code
from deepcuts.components.core.receipts import LEFT_OUT
from deepcuts.pipelines.runner import attempts, pipeline_spec, placed, placeholders, run_record, spec_types
from deepcuts.pipelines.runner.leaf import SAVE_SECONDS, Leaves
from deepcuts.pipelines.runner.placeholders import FAILED, SKIPPED, TaskValues
from deepcuts.pipelines.runner.processes import Processes
from deepcuts.pipelines.runner.run_record import RunRecord, TaskRecord

ROOT = Path(__file__).parents[3]
"""Folder from which ``python -m deepcuts.components.NAME.step`` finds its module."""
TICK_SECONDS = 1.0

Show = Callable[[RunRecord], None]


def run(
    package: Path,
    arguments: Mapping[str, Any],
    folder: Path,
    *,
    parallel: int,
    fresh: bool,
    cached: Path,
    show: Show,
    until: Sequence[str] = (),
    root: Path = ROOT,
) -> RunRecord:
    """Run ``package`` in ``folder``; return its record, whose ``exit_code`` is the worst failed task's.

    Args:
        package: Compiled pipeline (YAML).
        arguments: Pipeline parameters by name.
        folder: Folder of this run; an interrupted run is resumed there.
        parallel: Concurrent tasks, at least 2 if one task waits for another's messages. Each gets
            ``OMP_NUM_THREADS`` = cores // parallel, fixed so that a resumed step computes the same bits.
        fresh: Do not read the cache (it is still written).
        cached: Folder of the cache.
        show: Called when a task changes, and every second.
        until: Titles of tasks: run only what they need, and the ledger; empty: everything.
        root: Working directory of the tasks.

    Raises:
        ValueError: the package or the arguments are invalid; nothing has run.
    """
    pipeline = pipeline_spec.read(package)
    left_out = pipeline_spec.left_out(pipeline, until) if until else set()
    filled = pipeline_spec.arguments(pipeline, arguments)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        record = _record(pipeline, filled, parallel, folder)
        runner = _Runner(
            pipeline,
            record,
            folder.resolve(),
            left_out=left_out,
            fresh=fresh,
            cached=cached.resolve(),
            show=show,
            root=root,
        )
        asyncio.run(runner.go(filled))
    return record


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder for one runner; the lock ends with its process."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{folder}: another process runs here: wait for it, or give another folder"
            ) from error
        yield


def _record(
    pipeline: spec_types.Pipeline, arguments: dict[str, Any], parallel: int, folder: Path
) -> RunRecord:
    """Return a new record that keeps attempts and seconds from before an interruption."""
    before = _before(folder)
    tasks = {
        name: TaskRecord(
            name=leaf.task.task_info.get("name", name),
            step=_step(leaf),
            pool=pipeline_spec.pool(leaf.placement),
            attempt=before[name].attempt if name in before else 0,
            seconds=before[name].seconds if name in before else 0.0,
        )
        for name, leaf in pipeline_spec.leaves(pipeline)
    }
    return RunRecord(
        pipeline=pipeline.pipeline_info.name,
        package_digest=pipeline.digest,
        arguments=arguments,
        parallel=parallel,
        started_at=clock.utc(),
        tasks=tasks,
    )


def _before(folder: Path) -> dict[str, TaskRecord]:
    """Return the tasks of the run being resumed in ``folder``; empty if it ended well."""
    if not (folder / "run.json").exists():
        return {}
    record = run_record.read(folder)
    if record.status != "done":
        return record.tasks
    for name in record.tasks:
        attempts.forget(folder / "tasks" / name)
    return {}


class _Runner:
    def __init__(
        self,
        pipeline: spec_types.Pipeline,
        record: RunRecord,
        folder: Path,
        *,
        left_out: Set[str],
        fresh: bool,
        cached: Path,
        show: Show,
        root: Path,
    ) -> None:
        self._pipeline, self._run, self._folder, self._left_out = pipeline, record, folder, left_out
        self._show, self._processes = show, Processes()
        self._names = {"pipeline_job_name": folder.name, "pipeline_job_uuid": folder.name}
        self._leaves = Leaves(
            record,
            folder,
            self._processes,
            self._names,
            fresh=fresh,
            cached=cached,
            root=root,
            changed=self._changed,
        )

    async def go(self, arguments: dict[str, Any]) -> None:
        """Run everything and write the final record."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._processes.stop)
        ticker = loop.create_task(self._tick())
        assert self._pipeline.root.dag
        try:
            outcome = await self._dag(self._pipeline.root.dag, TaskValues("done", arguments, {}), "")
        finally:
            ticker.cancel()
            self._processes.signal(signal.SIGKILL)  # processes are left only after a bug of ours
        self._run.ended_at = clock.utc()
        if self._processes.stopping.is_set():
            self._run.status, self._run.exit_code = "interrupted", 143
        elif outcome.status == "done":
            self._run.status, self._run.exit_code = "done", 0
        else:
            self._run.status, self._run.exit_code = "failed", run_record.worst(self._run)
        self._changed()

    async def _dag(self, dag: spec_types.Dag, scope: TaskValues, prefix: str) -> TaskValues:
        tasks: dict[str, asyncio.Task[TaskValues]] = {}
        for name, task in dag.tasks.items():
            tasks[name] = asyncio.create_task(self._task(f"{prefix}{name}", task, scope, tasks))
        ended = dict(zip(tasks, await asyncio.gather(*tasks.values()), strict=True))
        failed = any(task.status == "failed" for task in ended.values())
        return placeholders.outputs(dag, ended, "failed" if failed else "done")

    async def _task(
        self,
        path: str,
        task: spec_types.Task,
        scope: TaskValues,
        siblings: Mapping[str, "asyncio.Task[TaskValues]"],
    ) -> TaskValues:
        if path in self._left_out:
            return self._leave_out(path)
        upstream = {name: await siblings[name] for name in task.upstream}
        if self._processes.stopping.is_set():
            return FAILED
        failed = any(before.status == "failed" for before in upstream.values())
        if failed and task.trigger_policy.strategy != pipeline_spec.COMPLETED:
            return self._skip(path, FAILED, run_record.HELD_BACK)
        try:
            inputs = placeholders.inputs(task, scope, upstream, self._names)
            condition = task.trigger_policy.condition
            if condition and not placeholders.holds(condition, inputs.parameters):
                return self._skip(path, SKIPPED, "its condition is false")
            component, name = self._pipeline.components[task.component], path.rpartition(".")[2]
            if component.dag:
                inside = path.removesuffix(name) if pipeline_spec.is_exit_handler(name) else f"{path}."
                return await self._dag(component.dag, inputs, inside)
            leaf = pipeline_spec.leaf(self._pipeline, task)
            return await self._leaves.run(path, leaf, inputs, placed.asked(leaf, inputs, scope, upstream))
        except (ValueError, OSError) as error:
            self._skip(path, FAILED, "")
            first = next(r for name, r in self._run.tasks.items() if f"{name}.".startswith(f"{path}."))
            self._leaves.end(first, "failed", exit_code(error), str(error))
            return FAILED

    def _leave_out(self, path: str) -> TaskValues:
        """Skip a task that is not needed, with everything in it."""
        return self._skip(path, SKIPPED, LEFT_OUT)

    def _skip(self, path: str, outcome: TaskValues, why: str) -> TaskValues:
        for name, record in self._run.tasks.items():
            if f"{name}.".startswith(f"{path}."):
                record.status, record.message = "skipped", why
        self._changed()
        return outcome

    async def _tick(self) -> None:
        saved = time.monotonic()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._processes.clock()
            self._show(self._run)
            if time.monotonic() - saved > SAVE_SECONDS:
                saved = time.monotonic()
                write_json(self._folder / "run.json", self._run)

    def _changed(self) -> None:
        write_json(self._folder / "run.json", self._run)
        self._show(self._run)


def _step(leaf: pipeline_spec.Leaf) -> str:
    """Return the step a task runs, or all steps of a chain."""
    return "+".join(pipeline_spec.steps(leaf)) or "importer"
