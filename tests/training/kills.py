"""Kill finetune at chosen events, run it again until it ends, and compare with an uninterrupted run.

    python -m tests.training.kills FOLDER METHOD SEED TRIALS

Events are counted: every fsync, rename, upload, deletion and optimizer step is one. A save runs beside the
next step, so that which of them is number N may differ from attempt to attempt.
Attempts are forks of a process that has torch loaded: importing it takes ten times as long as an attempt.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from deepcuts.components.core import cli, files, store
from deepcuts.components.core.store import FileStore, open_store
from deepcuts.components.finetune.step import finetune
from tests.training import tiny

SHORT = tiny.RECIPE | {"budget_tokens": 1250}  # 5 steps
RECIPES: dict[str, dict[str, Any]] = {
    "full": SHORT | {"method": "full", "learning_rate": 1e-3},
    "lora": SHORT | {"method": "lora", "lora_dropout": 0.2, "schedule": "cosine"},
}
EVENTS = [
    (os, "fsync"),
    (os, "replace"),
    (FileStore, "put"),
    (FileStore, "delete"),
    (torch.optim.AdamW, "step"),
]
MAX_KILLS = 3
"""Of one trial; the attempt after them is left alone."""


class KilledRun(NamedTuple):
    """One training with inputs, store and outputs below ``folder``."""

    folder: Path
    recipe: dict[str, Any]

    def attempt(self, before_event: Callable[[str, int], None] = lambda name, number: None) -> int:
        """Run finetune in a fork, calling ``before_event(name, ordinal)``; its exit code, -9 if killed."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            watch(before_event)
            log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os._exit(cli.run(finetune, tiny.argv(self.flags())))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def flags(self) -> dict[str, object]:
        out = self.folder / "out"
        return {
            "base": self.folder.parent / "base",
            "train": self.folder.parent / "train.jsonl",
            "valid": self.folder.parent / "valid.jsonl",
            "model": out / "model",
            "curve": out / "curve.jsonl",
            "receipt": out / "receipt.json",
            "store": (self.folder / "store").as_uri(),
            "recipe": json.dumps(self.recipe),
        }

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / "out/receipt.json").read_bytes())["facts"]
        return facts

    def outcome(self) -> tuple[str, str]:
        """Digests of the model and of its loss curve."""
        return files.digest(self.folder / "out/model"), files.digest(self.folder / "out/curve.jsonl")

    def committed(self) -> list[int]:
        """Steps of the checkpoints that have a manifest; raises when one of them does not verify."""
        objects, steps = open_store((self.folder / "store").as_uri()), []
        for key in objects.list("trainings/"):
            if key.endswith("/manifest.json"):
                folder = self.folder / "verified"
                store.retrieve(objects, key.removesuffix("/manifest.json"), folder)
                steps.append(json.loads((folder / "progress.json").read_text())["step"])
        return sorted(steps)


def watch(before_event: Callable[[str, int], None]) -> None:
    """Have every event of this process asked for; there is no way back, so only in a fork."""
    counter = itertools.count(1)  # atomic, unlike += in two threads

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            before_event(name, next(counter))
            return original(*args, **named)

        return call

    for owner, name in EVENTS:
        setattr(owner, name, watched(name, getattr(owner, name)))


def killer(ordinal: int) -> Callable[[str, int], None]:
    def before_event(name: str, number: int) -> None:
        if number == ordinal:
            os.kill(os.getpid(), signal.SIGKILL)

    return before_event


def prepare(folder: Path) -> None:
    torch.set_num_threads(1)
    tiny.base(folder / "base")
    tiny.write_sums(folder / "train.jsonl", 60)
    tiny.write_sums(folder / "valid.jsonl", 5, seed=1)


def start(folder: Path, recipe: dict[str, Any]) -> KilledRun:
    folder.mkdir()
    return KilledRun(folder, recipe)


def count_events(run: KilledRun) -> int:
    """Events of an uninterrupted run; a file carries them out of the fork."""
    path = run.folder / "events"
    assert run.attempt(lambda name, number: path.write_text(str(number)) and None) == 0
    return int(path.read_text())


def trial(run: KilledRun, ordinals: list[int], wanted: tuple[str, str]) -> dict[str, int]:
    """Kill a run before these events, one attempt each, then let it end."""
    killed = 0
    for ordinal in ordinals:
        before = run.committed()
        code = run.attempt(killer(ordinal))
        if code == 0:  # the resumed run was too short for this event
            break
        assert code == -signal.SIGKILL, (code, (run.folder / "log").read_text())
        killed += 1
        assert not before or run.committed()[-1] >= before[-1], "a kill took a checkpoint back"
        for name in ("model", "curve.jsonl"):
            whole = run.folder / "out" / name
            assert not whole.exists() or files.digest(whole) in wanted, f"{name} is half-written"
    newest = (run.committed() or [0])[-1]
    assert run.attempt() == 0, (run.folder / "log").read_text()
    ignored = newest - run.facts()["resumed_at_step"]
    return {"kills": killed, "exact": run.outcome() == wanted, "ignored_steps": ignored}


def preempt(run: KilledRun, step: int, wanted: tuple[str, str]) -> bool:
    """SIGTERM in a step: it ends, is committed, exits with code 143, and the next attempt resumes from it."""
    steps = 0

    def before_event(name: str, number: int) -> None:
        nonlocal steps
        steps += name == "step"
        if name == "step" and steps == step:
            os.kill(os.getpid(), signal.SIGTERM)

    code, committed = run.attempt(before_event), run.committed()
    assert (code, committed) == (143, [step]), (code, committed, (run.folder / "log").read_text())
    assert run.attempt() == 0 and run.facts()["resumed_at_step"] == step
    return run.outcome() == wanted


def main(folder: Path, method: str, seed: int, trials: int) -> dict[str, int]:
    prepare(folder)
    recipe = RECIPES[method] | {"save_every_seconds": 1e-6}
    uncut = start(folder / "uncut", recipe)
    events = count_events(uncut)
    draw = random.Random(seed)
    results = []
    for number in range(trials):
        ordinals = [draw.randint(1, events) for _ in range(draw.randint(1, MAX_KILLS))]
        run = start(folder / f"trial-{number}", recipe)
        results.append(trial(run, ordinals, uncut.outcome()))
        files.remove(run.folder)
    patient = RECIPES[method] | {"save_every_seconds": 300}
    preempted = [
        preempt(start(folder / f"preempted-{step}", patient), step, uncut.outcome()) for step in (1, 4)
    ]
    return {
        "preempted_exact": sum(preempted),
        "trials": trials,
        "events": events,
        "kills": sum(result["kills"] for result in results),
        "exact": sum(result["exact"] for result in results),
        "ignored_steps": sum(result["ignored_steps"] for result in results),
    }


if __name__ == "__main__":
    where, how, which, many = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr):
        report = main(Path(where), how, int(which), int(many))
    print(json.dumps(report))
