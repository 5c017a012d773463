"""Measure how long evaluation halts the trainer: in its loop, against a watcher in a separate process.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.stall --base MODEL --train EXAMPLES --valid EXAMPLES

Both ways train the same run with the same 11 checkpoints, alternated, each first in every other pair.
``stall``: in the loop, all scoring; with a watcher, all saving and signalling. ``added``: the same in the
loop; with a watcher only the messages, as the loop saves just as often. Prints one JSON line a pair,
and one with medians, ranges and ratios.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from accelerate import Accelerator

from deepcuts.components.core import examples, files, scorecards
from deepcuts.components.core.recipe import Recipe, training_id
from deepcuts.components.core.store import FileStore
from deepcuts.components.finetune.budget import BudgetClock
from deepcuts.components.finetune.step import report
from deepcuts.components.training import adapters, loop, models, scoring
from deepcuts.components.training.batches import plan_steps
from deepcuts.components.training.checkpoints import Checkpoints, TrainingProgress
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.run_messages import RunMessages

EVALUATIONS = 11
"""A run, as in docs/cuts/async-evaluation.md: a million tokens on stories260K, 128 examples are a tenth."""


class StallInputs(NamedTuple):
    base: Path
    train: Path
    valid: Path
    recipe: Recipe


class Way(NamedTuple):
    """One run."""

    train_seconds: float
    """In forward, backward and optimizer."""
    stall_seconds: float
    """In the loop: for scoring. Beside a watcher: for all saving, with its messages."""
    added_seconds: float
    """The part that a run without evaluation would not have; with a watcher, its messages."""
    save_seconds: float
    """All of saving, by wall, without scoring."""
    wall_seconds: float
    """Of the run, until its last checkpoint is scored."""
    cpu_seconds: float
    """Of trainer and watcher."""
    scores: dict[int, list[tuple[float, int]]]
    """(nats, answer tokens) of every valid example, by the step scored."""

    @property
    def stall_share(self) -> float:
        """Of training time by wall."""
        return self.stall_seconds / self.train_seconds


def train(
    inputs: StallInputs, store: Path, at_save: Callable[[CompletionLoss, TrainingProgress], None]
) -> Any:
    """(outcome, seconds in ``at_save``): the loop, which saves after each of 11 equal parts, and waits."""
    network, tokenizer = models.load_base(inputs.base)
    loss = CompletionLoss(adapters.adapt(network, inputs.recipe, torch.device("cpu")))
    data = scoring.render_all(examples.read(inputs.train), tokenizer)
    steps = list(plan_steps([len(rendered.ids) for rendered in data], inputs.recipe))
    due = {round(len(steps) * part / EVALUATIONS) for part in range(1, EVALUATIONS + 1)}
    done, inside = iter(range(1, len(steps) + 1)), [0.0]

    def ends_here(progress: TrainingProgress) -> bool:
        began = time.monotonic()
        at_save(loss, progress)
        inside[0] += time.monotonic() - began
        return False

    checkpoints = Checkpoints(FileStore(store), identity(inputs), inputs.recipe.keep_checkpoints)
    outcome = loop.train(
        loss,
        data,
        inputs.recipe,
        Accelerator(cpu=True),
        checkpoints,
        ends_here,
        lambda text: None,
        lambda seconds: next(done) in due,
    )
    return outcome, inside[0]


def in_loop(inputs: StallInputs, store: Path) -> Way:
    """Evaluation where most trainers have it."""
    _, tokenizer = models.load_base(inputs.base)
    valid = scoring.render_all(examples.read(inputs.valid), tokenizer)
    scores: dict[int, list[tuple[float, int]]] = {}

    def score(loss: CompletionLoss, progress: TrainingProgress) -> None:
        if progress.step:
            scores[progress.step] = scoring.answer_nats(loss, valid)
            loss.train()

    began, cpu_began = time.monotonic(), time.process_time()
    outcome, stall = train(inputs, store, score)
    return Way(
        outcome.train_seconds,
        stall,
        stall,
        outcome.save_seconds - stall,
        time.monotonic() - began,
        time.process_time() - cpu_began,
        scores,
    )


def watched(inputs: StallInputs, store: Path) -> Way:
    """Evaluation concurrent with the trainer."""
    messages = RunMessages(FileStore(store), identity(inputs), inputs.recipe.budget_tokens)
    clock = BudgetClock(FileStore(store), identity(inputs), 0.0)
    messages.start()
    watcher = start_watch(inputs, store)

    def tell(loss: CompletionLoss, progress: TrainingProgress) -> None:
        report(messages, clock, progress)

    began, cpu_began = time.monotonic(), time.process_time()
    outcome, signalling = train(inputs, store, tell)
    cpu = time.process_time() - cpu_began
    messages.finish(outcome.progress.step, outcome.progress.tokens)
    if watcher.wait(600):
        raise RuntimeError("the watcher failed: see its message above")
    wall = time.monotonic() - began
    receipt = json.loads(store.joinpath("watch", "receipt.json").read_text())
    folders = store.joinpath("watch", "scores").glob("step-*")
    scores = {
        int(folder.name.removeprefix("step-")): [
            (score.answer_nats, score.answer_tokens) for score in scorecards.read_scores(folder)
        ]
        for folder in folders
    }
    return Way(
        outcome.train_seconds,
        outcome.save_seconds,
        signalling,
        outcome.save_seconds,
        wall,
        cpu + receipt["cpu_seconds"],
        scores,
    )


def start_watch(inputs: StallInputs, store: Path) -> subprocess.Popen[bytes]:
    out = store / "watch"
    flags = {
        "base": inputs.base,
        "train": inputs.train,
        "valid": inputs.valid,
        "scores": out / "scores",
        "curve": out / "curve.jsonl",
        "store": store.as_uri(),
        "recipe": msgspec.json.encode(inputs.recipe).decode(),
        "patience": 0,
        "poll-seconds": 0.5,
        "stale-seconds": 300,
        "receipt": out / "receipt.json",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return subprocess.Popen(
        [sys.executable, "-m", "deepcuts.components.watch.step", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )


def identity(inputs: StallInputs) -> str:
    return training_id(inputs.recipe, files.digest(inputs.base), files.digest(inputs.train))


def compare(inputs: StallInputs, pairs: int) -> dict[str, Any]:
    """``pairs`` alternated pairs, and what they say."""
    torch.set_num_threads(1)
    found: list[tuple[Way, Way]] = []
    for pair in range(pairs):
        seeded = inputs._replace(recipe=msgspec.structs.replace(inputs.recipe, seed=pair))
        done = {}
        with tempfile.TemporaryDirectory(prefix="stall-") as scratch:
            for way in (in_loop, watched) if pair % 2 == 0 else (watched, in_loop):
                store = Path(scratch) / way.__name__
                store.mkdir()
                done[way.__name__] = way(seeded, store)
        loop_way, beside = done["in_loop"], done["watched"]
        same = [step for step in beside.scores if beside.scores[step] == loop_way.scores[step]]
        line = {name: without_scores(way) for name, way in done.items()}
        print(
            json.dumps({"pair": pair, "scored": len(beside.scores), "equal": len(same), **line}), flush=True
        )
        found.append((loop_way, beside))
    return summary(found)


def without_scores(way: Way) -> dict[str, float]:
    figures = way._asdict() | {"stall_share": way.stall_share}
    return {name: round(value, 4) for name, value in figures.items() if name != "scores"}


def summary(found: list[tuple[Way, Way]]) -> dict[str, Any]:
    """Medians with their range over the pairs."""
    added = [[way.added_seconds / way.train_seconds for way in ways] for ways in zip(*found, strict=True)]
    shares = [[way.stall_share for way in ways] for ways in zip(*found, strict=True)]
    return {
        "evaluations": EVALUATIONS,
        "stall_share_in_loop": spread(shares[0]),
        "stall_share_watched": spread(shares[1]),
        "stall_ratio": spread([a / b for a, b in zip(*shares, strict=True)]),
        "added_share_watched": spread(added[1]),
        "added_ratio": spread([a / b for a, b in zip(*added, strict=True)]),
        "wall_ratio": spread([a.wall_seconds / b.wall_seconds for a, b in found]),
        "cpu_ratio": spread([a.cpu_seconds / b.cpu_seconds for a, b in found]),
        "scores_equal": all(b.scores[step] == a.scores[step] for a, b in found for step in b.scores),
    }


def spread(values: list[float]) -> list[float]:
    """[median, least, largest]."""
    return [round(value, 4) for value in (statistics.median(values), min(values), max(values))]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "train", "valid"):
        flags.add_argument(f"--{name}", type=Path, required=True)
    flags.add_argument("--pairs", type=int, default=5)
    flags.add_argument("--budget-tokens", type=int, default=1_000_000)
    given = flags.parse_args()
    recipe = Recipe(
        method="full",
        learning_rate=1e-3,
        budget_tokens=given.budget_tokens,
        tokens_per_step=4096,
        micro_batch_size=4,
        compile="off",
        save_every_seconds=1e6,
    )
    inputs = StallInputs(given.base, given.train, given.valid, recipe)
    print(json.dumps(compare(inputs, given.pairs)))


if __name__ == "__main__":
    main()
