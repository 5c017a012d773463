"""How long the trainer stands still for evaluation: in the loop against a watcher beside it, alternated.

``pytest -m slow -s tests/components/test_watch_stall.py`` prints the figures.
"""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from accelerate import Accelerator

from components.core import examples, files
from components.core.examples import Example, Message
from components.core.recipe import Recipe, training_id
from components.core.store import FileStore
from components.finetune.budget import Clock
from components.finetune.step import report
from components.training import loop, models, scoring
from components.training.checkpoints import Checkpoints, Progress
from components.training.losses import AnswerLoss
from components.training.render import Rendered
from components.training.signals import Signals
from tests.conftest import ROOT
from tests.training import tiny

DATA = ROOT.parent / "shared" / "data"
BASE, GSM8K = DATA / "models" / "stories260K", DATA / "gsm8k"
RECIPE = Recipe(
    method="full", learning_rate=1e-3, budget_tokens=60_000, batch_tokens=4096, save_every_seconds=1.0
)
VALID, LONGEST = 128, 257
"""Examples scored, and tokens of the longest one used, as in cuts.md, cut 11."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BASE.exists(), reason=f"no pretrained model at {BASE}"),
]


def gsm8k(name: str, count: int) -> list[Example]:
    """The first short Examples of a GSM8K split."""
    tokenizer = models.load_tokenizer(BASE)
    rows = [json.loads(line) for line in (GSM8K / f"{name}.jsonl").read_text().splitlines()]
    records = [
        Example(f"{name}-{i}", (Message("user", row["question"]), Message("assistant", row["answer"])))
        for i, row in enumerate(rows)
    ]
    short = (r for r in records if len(scoring.render_all([r], tokenizer)[0].ids) <= LONGEST)
    return [record for record, _ in zip(short, range(count), strict=False)]


class Timed:
    """``ends_here`` of the loop, with the seconds the trainer stood still for it."""

    def __init__(self, call: Any) -> None:
        self.call, self.seconds, self.calls = call, 0.0, 0

    def __call__(self, progress: Progress) -> bool:
        began = time.monotonic()
        ended = bool(self.call(progress))
        self.seconds, self.calls = self.seconds + time.monotonic() - began, self.calls + 1
        return ended


def in_loop(loss: AnswerLoss, valid: list[Rendered], progress: Progress) -> bool:
    if progress.step:
        scoring.answer_nats(loss, valid)
        loss.train()
    return False


@pytest.mark.parametrize("repeat", range(3))
def test_trainer_stands_still_20_times_shorter_beside_a_watcher(tmp_path: Path, repeat: int):
    torch.set_num_threads(1)
    train, valid = tmp_path / "train.jsonl", tmp_path / "valid.jsonl"
    examples.write(train, gsm8k("train", 400))
    examples.write(valid, gsm8k("test", VALID))
    identity = training_id(RECIPE, files.digest(BASE), files.digest(train))
    stall, outcomes = {}, {}
    for way in ("in the loop", "watch"):
        network, tokenizer = models.load_base(BASE)
        accelerator = Accelerator()
        loss = AnswerLoss(models.adapt(network, RECIPE, accelerator.device))
        data, held_out = (scoring.render_all(examples.read(path), tokenizer) for path in (train, valid))
        store = FileStore(tmp_path / way)
        signals = Signals(store, identity, RECIPE.budget_tokens)
        signals.start()
        call = (
            partial(in_loop, loss, held_out)
            if way == "in the loop"
            else partial(report, signals, Clock(store, identity, 0))
        )
        watcher = start_watch(tmp_path, way, train, valid) if way == "watch" else None
        stall[way] = Timed(call)
        checkpoints = Checkpoints(store, identity, RECIPE.keep_checkpoints)
        outcomes[way] = loop.train(
            loss, data, RECIPE, accelerator, checkpoints, stall[way], lambda text: None
        )
        signals.finish(outcomes[way].progress.step, outcomes[way].progress.tokens)
        if watcher:
            assert watcher.wait(120) == 0
    facts = json.loads((tmp_path / "watch.json").read_text())["facts"]
    for way, timed in stall.items():
        seconds = outcomes[way].train_seconds
        print(
            f"\n{way}: stood still {timed.seconds:.4f} s, {timed.calls} calls, {timed.seconds / seconds:.2%} "
            f"of {seconds:.1f} s training; saving {outcomes[way].save_seconds - timed.seconds:.3f} s more",
            end="",
        )
    print(f"\nwatcher: {facts['scored_checkpoints']} scored in {facts['scoring_seconds']} s")
    assert stall["watch"].seconds < 0.01 * outcomes["watch"].train_seconds
    per_call = {way: timed.seconds / timed.calls for way, timed in stall.items()}
    assert per_call["watch"] * 20 < per_call["in the loop"]
    assert outcomes["watch"].progress.curve[-1]["loss"] == outcomes["in the loop"].progress.curve[-1]["loss"]


def start_watch(folder: Path, store: str, train: Path, valid: Path) -> subprocess.Popen[bytes]:
    flags: dict[str, object] = {
        "base": BASE,
        "train": train,
        "valid": valid,
        "scores": folder / "scores",
        "curve": folder / "curve.jsonl",
        "store": (folder / store).as_uri(),
        "recipe": msgspec.json.encode(RECIPE).decode(),
        "patience": 0,
        "poll_seconds": 0.2,
        "stale_seconds": 60,
        "receipt": folder / "watch.json",
    }
    argv = [sys.executable, "-m", "components.watch.step", *tiny.argv(flags)]
    return subprocess.Popen(argv, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
