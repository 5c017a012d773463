"""Run one task of a compiled pipeline: its identity, the cache, its attempts, its outputs.

A task with known inputs, argv and code takes its outputs from the cache. Deadlines, resource limits and
secrets of the placement are ignored here.
"""

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from deepcuts.components.core import clock, files
from deepcuts.components.core.attempts import Begun
from deepcuts.components.core.cli import write_json
from deepcuts.pipelines.runner import (
    attempts,
    cache,
    extras,
    pipeline_spec,
    placed,
    placeholders,
    run_record,
    spec_types,
)
from deepcuts.pipelines.runner.placeholders import Artifact, TaskValues
from deepcuts.pipelines.runner.processes import Processes
from deepcuts.pipelines.runner.run_record import RunRecord, TaskRecord, TaskStatus

SAVE_SECONDS = 5.0
"""Precision to which a killed run's time is known."""
CHAIN = "deepcuts.components.core.chain"
RETRYABLE = (4, 137, 143)
"""Exit codes to retry: infrastructure, or a killed process; others would fail again."""


class Leaves:
    """Runs the leaves of one run; ``changed`` is called whenever a record changes."""

    def __init__(
        self,
        record: RunRecord,
        folder: Path,
        processes: Processes,
        names: Mapping[str, str],
        *,
        fresh: bool,
        cached: Path,
        root: Path,
        changed: Callable[[], None],
    ) -> None:
        self._run, self._folder, self._processes, self._names = record, folder, processes, names
        self._fresh, self._cached, self._root, self._changed = fresh, cached, root, changed
        self._slots = asyncio.Semaphore(record.parallel)
        self._equal: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(
        self, path: str, leaf: pipeline_spec.Leaf, inputs: TaskValues, asked: Mapping[str, Any]
    ) -> TaskValues:
        """Run the leaf at ``path``, or take the outputs of an equal one from the cache; return its outputs.

        ``asked`` has its pod's requests, if the run decides on them (``placed.py``).

        Raises:
            ValueError, OSError: an input is missing or cannot be read.
        """
        record, kinds = self._run.tasks[path], leaf.component.output_definitions.artifacts
        record.pool, record.asked = placed.pool(leaf, inputs), dict(asked)
        for name, spec in leaf.component.input_definitions.artifacts.items():
            if name not in inputs.artifacts and not spec.is_optional:
                raise ValueError(f"input {name!r}: the task that makes it was skipped, or left it out")
        if leaf.executor.importer:
            made, entry = _import(leaf, inputs)
        else:
            folder = self._folder / "tasks" / path
            made = {name: folder / "outputs" / name for name in kinds}
            self._identify(record, leaf, inputs)
            # wait for an equal task: if both ran, the later receipt would replace the first one in the cache,
            # and in a rerun the ledger's inputs would have changed
            async with self._equal[record.cache_key if leaf.caching else path]:
                kept = self._recall(record, leaf, made)
                if not kept and not await self._attempts(folder, record, leaf, inputs):
                    # what a failed task left, especially its receipt, is for the ledger
                    return TaskValues("failed", {}, _artifacts(kinds, made, _digests(made)))
                entry = kept or self._keep(record, leaf, folder / "outputs", made)
                if kept:
                    attempts.reuse(folder)
            _copy_receipt(folder)
        record.artifacts = {name: str(made[name]) for name in entry.digests}
        record.parameters = entry.parameters
        self.end(record, "done", 0)
        return TaskValues("done", entry.parameters, _artifacts(kinds, made, entry.digests))

    def _identify(self, record: TaskRecord, leaf: pipeline_spec.Leaf, inputs: TaskValues) -> None:
        """Set the task's identity from its inputs."""
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
    ) -> cache.CacheEntry | None:
        """Return the cached outputs of an equal task, if this one may use them."""
        entry = (
            cache.restore(self._cached, record.cache_key, made) if leaf.caching and not self._fresh else None
        )
        record.cached = entry is not None
        return entry

    def _keep(
        self, record: TaskRecord, leaf: pipeline_spec.Leaf, outputs: Path, made: Mapping[str, Path]
    ) -> cache.CacheEntry:
        entry = cache.CacheEntry(
            parameters=placeholders.written(leaf.component, outputs), digests=_digests(made)
        )
        if leaf.caching:
            cache.keep(self._cached, record.cache_key, entry, made)
        return entry

    async def _attempts(
        self, folder: Path, record: TaskRecord, leaf: pipeline_spec.Leaf, inputs: TaskValues
    ) -> bool:
        """Run a task until it is done, fails for good, or has no retries left; return whether it is done."""
        assert (container := leaf.executor.container)
        outputs, retry = folder / "outputs", leaf.task.retry_policy
        if pipeline_spec.pool(leaf.placement) == pipeline_spec.AS_PLANNED:
            retry = spec_types.Retry()  # retries are for lost spot nodes, which do not occur here
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
            status: TaskStatus = "interrupted" if self._processes.stopping.is_set() else "failed"
            self.end(record, status, code, extras.explained("\n".join(run_record.tail(folder, lines=5))))
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
        """Run one attempt; return its exit code, 128 + n after signal n."""
        record.attempt += 1
        record.status, record.started_at, record.message = "running", clock.utc(), ""
        # before run.json: if killed in between, the next attempt would otherwise skip a number without a
        # record
        attempts.begin(folder, Begun(record.step, record.pool, record.attempt, record.started_at))
        self._changed()
        threads = str(max(1, (os.cpu_count() or 1) // self._run.parallel))
        settings = {"OMP_NUM_THREADS": threads, **os.environ, **{pair["name"]: pair["value"] for pair in env}}
        settings |= {"DEEPCUTS_POOL": record.pool, "DEEPCUTS_ATTEMPT": str(record.attempt)}
        before = record.seconds

        def spent(seconds: float) -> None:  # every second, as time before the first record is not counted
            record.seconds = round(before + seconds, 3)
            attempts.alive(folder, record.attempt, seconds)

        code = await self._processes.run(argv, folder, self._root, settings, spent)
        attempts.alive(folder, record.attempt, record.seconds - before)
        attempts.close(folder, record.attempt)
        return 128 - code if code < 0 else code

    def end(self, record: TaskRecord, status: TaskStatus, code: int, message: str = "") -> None:
        """Record how a task ended."""
        record.status, record.exit_code, record.message = status, code, message
        record.ended_at = clock.utc()
        record.started_at = record.started_at or record.ended_at
        self._changed()


def _digests(made: Mapping[str, Path]) -> dict[str, str]:
    return {name: files.digest(path) for name, path in made.items() if path.exists()}


def _artifacts(
    kinds: Mapping[str, spec_types.ArtifactSpec], made: Mapping[str, Path], digests: Mapping[str, str]
) -> dict[str, Artifact]:
    return {name: Artifact(made[name], kinds[name].artifact_type, digest) for name, digest in digests.items()}


def _import(leaf: pipeline_spec.Leaf, inputs: TaskValues) -> tuple[dict[str, Path], cache.CacheEntry]:
    """Run ``dsl.importer``, which leaves the artifact where it is."""
    assert leaf.executor.importer
    source = leaf.executor.importer.artifact_uri
    uri = str(source["constant"] if "constant" in source else inputs.parameters[source["runtimeParameter"]])
    if "://" in uri.removeprefix("file://"):
        raise ValueError(f"cannot import {uri!r}: the local runner imports paths and file:// URIs: use fetch")
    path = _local(uri).absolute()
    (name,) = leaf.component.output_definitions.artifacts
    return {name: path}, cache.CacheEntry(parameters={}, digests={name: files.digest(path)})


def _addressed(inputs: TaskValues) -> list[str]:
    """Hash the local file named by a parameter ``uri``, as its content may change."""
    uri = inputs.parameters.get("uri")
    path = _local(uri) if isinstance(uri, str) else Path()
    return [files.digest(path)] if path.is_absolute() and path.exists() else []


def _local(uri: str) -> Path:
    return Path(unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri)


def _clear(outputs: Path) -> None:
    """Remove the last attempt's outputs before the next one."""
    files.remove(outputs)
    outputs.mkdir(parents=True)


def _copy_receipt(folder: Path) -> None:
    if (folder / "outputs" / "receipt").is_file():
        shutil.copyfile(folder / "outputs" / "receipt", folder / "receipt.json")
