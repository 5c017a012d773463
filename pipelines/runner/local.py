"""Run a compiled pipeline on this machine: each task a subprocess with the argv it would have in its pod.

Ready tasks run at the same time, a failed branch does not stop the others, and a task whose inputs, argv and
code were seen before takes its outputs from the cache: running again after a crash goes on from there.
Deadlines, resource limits and secrets of the placement mean nothing here.
"""

import asyncio
import contextlib
import datetime
import fcntl
import os
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from components.core import files
from components.core.attempts import Begun
from components.core.cli import write_json
from components.core.errors import exit_code
from components.core.receipts import LEFT_OUT
from pipelines.runner import attempts, cache, ir, pipeline_spec, placeholders, run_record
from pipelines.runner.placeholders import FAILED, SKIPPED, Artifact, Values
from pipelines.runner.processes import Processes
from pipelines.runner.run_record import Run, Status, TaskRecord

ROOT = Path(__file__).parents[2]
"""Where ``python -m components.NAME.step`` finds its module."""
TICK_SECONDS = 1.0
SAVE_SECONDS = 5.0
"""How much of a killed run's time ``run.json`` may miss."""
CHAIN = "components.core.chain"
RETRYABLE = (4, 137, 143)
"""Infrastructure, or a killed process; trying the others again would fail again."""

Show = Callable[[Run], None]


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
) -> Run:
    """Run ``package`` in ``folder``; returns its record, whose ``exit_code`` is the worst failed task's.

    Args:
        package: Compiled pipeline (YAML).
        arguments: Pipeline parameters by name.
        folder: Of this run; an interrupted run is taken up again in its folder.
        parallel: Tasks at a time, at least 2 where one task waits for what another publishes. Each gets
            ``OMP_NUM_THREADS`` = cores // parallel, fixed so that a resumed step computes the same bits.
        fresh: Do not read the cache (it is still written).
        cached: Folder of the cache.
        show: Called when a task changes, and each second.
        until: Titles of tasks: run only what they need, and the ledger; empty: everything.
        root: Working directory of the tasks.

    Raises:
        ValueError: something is wrong with the package or the arguments; nothing has run.
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
    """One runner a folder; the lock goes with its process."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{folder}: another process runs here: wait for it, or give another folder"
            ) from error
        yield


def _record(pipeline: ir.Pipeline, arguments: dict[str, Any], parallel: int, folder: Path) -> Run:
    """A new record; the attempts and seconds spent before an interruption stay on the bill."""
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
    return Run(
        pipeline=pipeline.pipeline_info.name,
        package_digest=pipeline.digest,
        arguments=arguments,
        parallel=parallel,
        started_at=_now(),
        tasks=tasks,
    )


def _before(folder: Path) -> dict[str, TaskRecord]:
    """Tasks of the run that is resumed in ``folder``; a run that ended well leaves nothing to the next."""
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
        pipeline: ir.Pipeline,
        record: Run,
        folder: Path,
        *,
        left_out: Set[str],
        fresh: bool,
        cached: Path,
        show: Show,
        root: Path,
    ) -> None:
        self._pipeline, self._run, self._folder, self._left_out = pipeline, record, folder, left_out
        self._fresh, self._cached, self._show, self._root = fresh, cached, show, root
        self._slots = asyncio.Semaphore(record.parallel)
        self._equal: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._processes = Processes()
        self._names = {"pipeline_job_name": folder.name, "pipeline_job_uuid": folder.name}

    async def go(self, arguments: dict[str, Any]) -> None:
        """Run everything and leave the final record."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._processes.stop)
        ticker = loop.create_task(self._tick())
        assert self._pipeline.root.dag
        try:
            outcome = await self._dag(self._pipeline.root.dag, Values("done", arguments, {}), "")
        finally:
            ticker.cancel()
            self._processes.signal(signal.SIGKILL)  # only a bug of ours leaves something to end here
        self._run.ended_at = _now()
        if self._processes.stopping.is_set():
            self._run.status, self._run.exit_code = "interrupted", 143
        elif outcome.status == "done":
            self._run.status, self._run.exit_code = "done", 0
        else:
            self._run.status, self._run.exit_code = "failed", run_record.worst(self._run)
        self._changed()

    async def _dag(self, dag: ir.Dag, scope: Values, prefix: str) -> Values:
        tasks: dict[str, asyncio.Task[Values]] = {}
        for name, task in dag.tasks.items():
            tasks[name] = asyncio.create_task(self._task(f"{prefix}{name}", task, scope, tasks))
        ended = dict(zip(tasks, await asyncio.gather(*tasks.values()), strict=True))
        failed = any(task.status == "failed" for task in ended.values())
        return placeholders.outputs(dag, ended, "failed" if failed else "done")

    async def _task(
        self,
        path: str,
        task: ir.Task,
        scope: Values,
        siblings: Mapping[str, "asyncio.Task[Values]"],
    ) -> Values:
        if path in self._left_out:
            return self._leave_out(path)
        upstream = {name: await siblings[name] for name in task.upstream}
        if self._processes.stopping.is_set():
            return FAILED
        failed = any(before.status == "failed" for before in upstream.values())
        if failed and task.trigger_policy.strategy != pipeline_spec.COMPLETED:
            return self._skip(path, FAILED, "a task before it failed")
        try:
            inputs = placeholders.inputs(task, scope, upstream, self._names)
            condition = task.trigger_policy.condition
            if condition and not placeholders.holds(condition, inputs.parameters):
                return self._skip(path, SKIPPED, "its condition is false")
            component, name = self._pipeline.components[task.component], path.rpartition(".")[2]
            if component.dag:
                inside = path.removesuffix(name) if pipeline_spec.is_exit_handler(name) else f"{path}."
                return await self._dag(component.dag, inputs, inside)
            return await self._leaf(path, pipeline_spec.leaf(self._pipeline, task), inputs)
        except (ValueError, OSError) as error:
            self._skip(path, FAILED, "")
            first = next(r for name, r in self._run.tasks.items() if f"{name}.".startswith(f"{path}."))
            self._end(first, "failed", exit_code(error), str(error))
            return FAILED

    def _leave_out(self, path: str) -> Values:
        """Skip a task that nobody asked for, with all in it."""
        return self._skip(path, SKIPPED, LEFT_OUT)

    async def _leaf(self, path: str, leaf: pipeline_spec.Leaf, inputs: Values) -> Values:
        record, kinds = self._run.tasks[path], leaf.component.output_definitions.artifacts
        for name, spec in leaf.component.input_definitions.artifacts.items():
            if name not in inputs.artifacts and not spec.is_optional:
                raise ValueError(f"input {name!r}: the task that makes it was skipped, or left it out")
        if leaf.executor.importer:
            made, entry = _import(leaf, inputs)
        else:
            folder = self._folder / "tasks" / path
            made = {name: folder / "outputs" / name for name in kinds}
            self._identify(record, leaf, inputs)
            # an equal task is waited for: run beside it, the later one's receipt would take the other's place
            # in the cache, and a rerun of everything would find the ledger's inputs changed
            async with self._equal[record.cache_key if leaf.caching else path]:
                kept = self._recall(record, leaf, made)
                if not kept and not await self._attempts(folder, record, leaf, inputs):
                    # what it left all the same, its receipt above all, is for the ledger
                    return Values("failed", {}, _artifacts(kinds, made, _digests(made)))
                entry = kept or self._keep(record, leaf, folder / "outputs", made)
                if kept:
                    attempts.reuse(folder)
            _copy_receipt(folder)
        record.artifacts = {name: str(made[name]) for name in entry.digests}
        record.parameters = entry.parameters
        self._end(record, "done", 0)
        return Values("done", entry.parameters, _artifacts(kinds, made, entry.digests))

    def _identify(self, record: TaskRecord, leaf: pipeline_spec.Leaf, inputs: Values) -> None:
        """Name the task by what it is made of."""
        assert (container := leaf.executor.container)
        modules = {*pipeline_spec.steps(leaf).values(), *(w for w in container.command if w == CHAIN)}
        record.code_digest = cache.code_digest(sorted(modules), self._root)
        identity = placeholders.executor_input(leaf.component, inputs, lambda a: a.digest, lambda name: name)
        words = placeholders.fill([*container.command, *container.args], identity, self._names)
        record.cache_key = cache.key(
            [container.image, *words, *_addressed(inputs)], container.env, record.code_digest
        )

    def _recall(
        self, record: TaskRecord, leaf: pipeline_spec.Leaf, made: Mapping[str, Path]
    ) -> cache.Entry | None:
        """What an equal task made before, if this one may use it."""
        entry = (
            cache.restore(self._cached, record.cache_key, made) if leaf.caching and not self._fresh else None
        )
        record.cached = entry is not None
        return entry

    def _keep(
        self, record: TaskRecord, leaf: pipeline_spec.Leaf, outputs: Path, made: Mapping[str, Path]
    ) -> cache.Entry:
        entry = cache.Entry(parameters=placeholders.written(leaf.component, outputs), digests=_digests(made))
        if leaf.caching:
            cache.keep(self._cached, record.cache_key, entry, made)
        return entry

    async def _attempts(
        self, folder: Path, record: TaskRecord, leaf: pipeline_spec.Leaf, inputs: Values
    ) -> bool:
        """Run a task until it is done, fails for good, or its retries are used up; whether it is done."""
        assert (container := leaf.executor.container)
        outputs, retry = folder / "outputs", leaf.task.retry_policy
        _clear(outputs)
        executor = placeholders.executor_input(
            leaf.component, inputs, lambda a: f"file://{a.path}", lambda n: str(outputs / n)
        )
        argv = placeholders.fill([*container.command, *container.args], executor, self._names)
        if argv[0] in ("python", "python3"):
            argv[0] = sys.executable
        write_json(folder / "argv.json", argv)
        first, wait = time.monotonic(), pipeline_spec.seconds(retry.backoff_duration)
        for left in range(retry.max_retry_count, -1, -1):
            async with self._slots:
                if self._processes.stopping.is_set():
                    return False
                code = await self._process(folder, record, argv, container.env)
            if code == 0:
                return True
            _copy_receipt(folder)
            status: Status = "interrupted" if self._processes.stopping.is_set() else "failed"
            self._end(record, status, code, "\n".join(run_record.tail(folder, lines=5)))
            late = time.monotonic() - first + wait > pipeline_spec.seconds(retry.backoff_max_duration)
            if not left or late or code not in RETRYABLE or self._processes.stopping.is_set():
                return False
            _clear(outputs)
            record.status = "waiting"
            self._changed()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._processes.stopping.wait(), wait)
            wait *= retry.backoff_factor
        raise AssertionError("the last attempt returns")

    async def _process(
        self, folder: Path, record: TaskRecord, argv: list[str], env: list[dict[str, str]]
    ) -> int:
        """One attempt; its exit code, 128 + n when signal n ended it."""
        record.attempt += 1
        record.status, record.started_at, record.message = "running", _now(), ""
        # before run.json says so: else, killed in between, the next would count past one without a record
        attempts.begin(folder, Begun(record.step, record.pool, record.attempt, record.started_at))
        self._changed()
        threads = str(max(1, (os.cpu_count() or 1) // self._run.parallel))
        settings = {"OMP_NUM_THREADS": threads, **os.environ, **{pair["name"]: pair["value"] for pair in env}}
        settings |= {"DEEPCUTS_POOL": record.pool, "DEEPCUTS_ATTEMPT": str(record.attempt)}
        before = record.seconds

        def spent(seconds: float) -> None:  # each second: what is killed before its first sign is free
            record.seconds = round(before + seconds, 3)
            attempts.alive(folder, record.attempt, seconds)

        code = await self._processes.run(argv, folder, self._root, settings, spent)
        attempts.alive(folder, record.attempt, record.seconds - before)
        attempts.close(folder, record.attempt)
        return 128 - code if code < 0 else code

    def _skip(self, path: str, outcome: Values, why: str) -> Values:
        for name, record in self._run.tasks.items():
            if f"{name}.".startswith(f"{path}."):
                record.status, record.message = "skipped", why
        self._changed()
        return outcome

    def _end(self, record: TaskRecord, status: Status, code: int, message: str = "") -> None:
        record.status, record.exit_code, record.message = status, code, message
        record.ended_at = _now()
        record.started_at = record.started_at or record.ended_at
        self._changed()

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


def _digests(made: Mapping[str, Path]) -> dict[str, str]:
    return {name: files.digest(path) for name, path in made.items() if path.exists()}


def _artifacts(
    kinds: Mapping[str, ir.ArtifactSpec], made: Mapping[str, Path], digests: Mapping[str, str]
) -> dict[str, Artifact]:
    return {name: Artifact(made[name], kinds[name].artifact_type, digest) for name, digest in digests.items()}


def _import(leaf: pipeline_spec.Leaf, inputs: Values) -> tuple[dict[str, Path], cache.Entry]:
    """``dsl.importer``: the artifact stays where it is."""
    assert leaf.executor.importer
    source = leaf.executor.importer.artifact_uri
    uri = str(source["constant"] if "constant" in source else inputs.parameters[source["runtimeParameter"]])
    if "://" in uri.removeprefix("file://"):
        raise ValueError(f"cannot import {uri!r}: the local runner imports paths and file:// URIs: use fetch")
    path = _local(uri).absolute()
    (name,) = leaf.component.output_definitions.artifacts
    return {name: path}, cache.Entry(parameters={}, digests={name: files.digest(path)})


def _addressed(inputs: Values) -> list[str]:
    """Digest of the local file that a parameter named ``uri`` points to: its bytes may change."""
    uri = inputs.parameters.get("uri")
    path = _local(uri) if isinstance(uri, str) else Path()
    return [files.digest(path)] if path.is_absolute() and path.exists() else []


def _local(uri: str) -> Path:
    return Path(unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri)


def _step(leaf: pipeline_spec.Leaf) -> str:
    """The step a task runs; of a chain, all of them."""
    return "+".join(pipeline_spec.steps(leaf)) or "importer"


def _clear(outputs: Path) -> None:
    """Make ready for the next attempt: what the last one wrote goes."""
    files.remove(outputs)
    outputs.mkdir(parents=True)


def _copy_receipt(folder: Path) -> None:
    if (folder / "outputs" / "receipt").is_file():
        shutil.copyfile(folder / "outputs" / "receipt", folder / "receipt.json")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
