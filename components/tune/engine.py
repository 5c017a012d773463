"""Run trials as concurrent processes on this machine."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from deepcuts.components.core import receipts, sigterm
from deepcuts.components.core.errors import Preempted
from deepcuts.components.core.orphans import end_with_parent
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.tune import asha
from deepcuts.components.tune.asha import Draw, Search, assign
from deepcuts.components.tune.space import text
from deepcuts.components.tune.trials import LOST, Log, TrialRecord, begun, ended, recipe_of

POLL_SECONDS = 0.1
GRACE_SECONDS = 60.0
"""Time for a trial to commit a checkpoint after SIGTERM."""
SAY_SECONDS = 10.0
TRIES = 3
"""Attempts of a trial in one process of the search, if its failure may be the machine's fault."""
MACHINE = ("infrastructure", "preempted")


class TrialInputs(NamedTuple):
    """Inputs shared by all trials."""

    base: Path
    train: Path
    valid: Path
    store: str
    recipe: Recipe


class Process(NamedTuple):
    record: TrialRecord
    popen: subprocess.Popen[bytes]
    folder: Path
    tries: int


class LocalSearch:
    """One search on this machine."""

    def __init__(self, search: Search, inputs: TrialInputs, log: Log, parallel: int, draw: Draw) -> None:
        self._search, self._inputs, self._log, self._parallel, self._draw = (
            search,
            inputs,
            log,
            parallel,
            draw,
        )
        self._running: list[Process] = []
        self._began = self._spoke = time.monotonic()
        self._before = sum(record.tokens for record in log.in_order())
        """Tokens that earlier processes trained."""

    def run(self) -> None:
        """Run trials until the search has no more; each is logged from its start.

        Raises:
            Preempted: SIGTERM arrived; the trials have committed their checkpoints, and a rerun resumes.
        """
        # running when an earlier process died; they resume from their checkpoints
        waiting = [record for record in self._log.in_order() if record.state == "running"]
        with tempfile.TemporaryDirectory(prefix="tune-") as scratch, sigterm.noted() as stopping:
            try:
                while True:
                    free = self._parallel - len(self._running)
                    starting, waiting = waiting[:free], waiting[free:]
                    starting += self._assigned(free - len(starting))
                    for record in starting:
                        self._start(record, Path(scratch), 1)
                    if not self._running and not starting:
                        return
                    if stopping():
                        raise Preempted(
                            "SIGTERM: trials stopped at a checkpoint; re-run the same command to resume"
                        )
                    time.sleep(POLL_SECONDS)
                    self._say_often()
                    for process in [p for p in self._running if p.popen.poll() is not None]:
                        self._over(process, Path(scratch))
            finally:
                self._stop()

    def _assigned(self, count: int) -> list[TrialRecord]:
        records = self._log.in_order()
        trials = [record.trial for record in records]
        work = assign(self._search, trials, [trial.entry for trial in trials], count, self._draw)
        made = [
            begun(len(records) + place, item.values, item.rung, self._search.levels[item.rung])
            for place, item in enumerate(work)
        ]
        for record in made:
            self._log.put(record)
        return made

    def _start(self, record: TrialRecord, scratch: Path, tries: int) -> None:
        """Start a trial with the usual command; contradictory values fail at once."""
        try:
            recipe = recipe_of(
                self._inputs.recipe, record.values, record.budget_tokens, self._search.levels[-1]
            )
        except ValueError as error:
            self._put_end(msgspec.structs.replace(record, problem=str(error)))
            return
        record = msgspec.structs.replace(record, attempts=record.attempts + 1)
        self._log.put(record)
        folder = Path(tempfile.mkdtemp(prefix=f"{record.number}-", dir=scratch))
        threads = str(max(1, (os.cpu_count() or 1) // self._parallel))
        with (folder / "stdout.log").open("wb") as out, (folder / "stderr.log").open("wb") as err:
            popen = subprocess.Popen(
                argv(self._inputs, recipe, folder),
                # our Job's attempts are not the trial's
                env=os.environ | {"OMP_NUM_THREADS": threads, "DEEPCUTS_ATTEMPTS": ""},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # we pass on Ctrl-C
                preexec_fn=end_with_parent,
            )
        self._running.append(Process(record, popen, folder, tries))
        self._say()

    def _over(self, process: Process, scratch: Path) -> None:
        """Log a process that ended; restart it if the machine may be to blame."""
        self._running.remove(process)
        record = _with_receipt(process)
        last = record.receipts[-1].end_reason if (process.folder / "receipt.json").exists() else "lost"
        shutil.rmtree(process.folder)
        if last in (*MACHINE, "lost") and process.tries < TRIES:
            self._start(record, scratch, process.tries + 1)
        else:
            self._put_end(record)

    def _put_end(self, record: TrialRecord) -> None:
        before = [r.tokens for r in self._log.in_order() if r.key == record.key and r.number != record.number]
        self._log.put(ended(record, sum(before)))
        self._say()

    def _stop(self) -> None:
        """Send SIGTERM to all, and SIGKILL after the grace period; they stay ``running`` in the log."""
        for process in self._running:
            _signal(process, signal.SIGTERM)
        until = time.monotonic() + GRACE_SECONDS
        for process in self._running:
            try:
                process.popen.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.popen.wait()
            self._log.put(_with_receipt(process))

    def _left(self, tokens: int) -> str:
        """Return ``, about 340 s left`` by the speed of this process; empty until a trial has ended."""
        here, goal = tokens - self._before, asha.resource(self._search)
        if here <= 0 or goal <= tokens:
            return ""
        return f", about {(time.monotonic() - self._began) * (goal - tokens) / here:.0f} s left"

    def _say_often(self) -> None:
        """Print the last line of a running trial, which has its own progress."""
        if time.monotonic() - self._spoke < SAY_SECONDS or not self._running:
            return
        self._spoke = time.monotonic()
        first = self._running[0]
        lines = (first.folder / "stderr.log").read_text(errors="replace").splitlines()
        if lines:
            print(f"trial {first.record.number + 1}: {lines[-1]}", file=sys.stderr, flush=True)

    def _say(self) -> None:
        """Print ``12 trials, 2 running, 1 failed  best 2.134 nats (…)  34 units trained``."""
        records = self._log.in_order()
        ok = [record for record in records if record.valid_loss is not None]
        best = min(ok, key=lambda record: (-record.rung, record.valid_loss), default=None)
        named = " ".join(f"{name} {text(value)}" for name, value in best.values.items()) if best else ""
        tokens = sum(record.tokens for record in records)
        print(
            f"{len(records)} trials, {len(self._running)} running, "
            f"{sum(record.state == 'failed' for record in records)} failed"
            + (f"  best {best.valid_loss:.3f} nats at rung {best.rung} ({named})" if best else "")
            + f"  {tokens / self._search.levels[0]:.0f} units trained{self._left(tokens)}",
            file=sys.stderr,
            flush=True,
        )


def argv(inputs: TrialInputs, recipe: Recipe, folder: Path) -> list[str]:
    """Return the ``finetune`` command as a user would type it."""
    flags = {
        "base": inputs.base,
        "train": inputs.train,
        "valid": inputs.valid,
        "model": folder / "model",
        "curve": folder / "curve.jsonl",
        "store": inputs.store,
        "recipe": msgspec.json.encode(recipe).decode(),
        "receipt": folder / "receipt.json",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "deepcuts.components.finetune.step", *words]


def _with_receipt(process: Process) -> TrialRecord:
    """Return the record with its process's receipt, or the end of its stderr."""
    record, path = process.record, process.folder / "receipt.json"
    lines = (process.folder / "stderr.log").read_text(errors="replace").splitlines()
    if not path.exists():
        return msgspec.structs.replace(record, problem=lines[-1] if lines else LOST)
    receipt = receipts.read(path)
    return msgspec.structs.replace(
        record,
        receipts=[*record.receipts, receipt],
        problem="" if receipt.end_reason == "ok" else lines[-1] if lines else receipt.end_reason,
    )


def _signal(process: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.popen.pid, number)
