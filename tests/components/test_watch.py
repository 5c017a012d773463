"""watch beside a real trainer: one store, tiny models; the slow tests kill processes."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkProcess as Forked
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from deepcuts.components.core import cli, files, scorecards
from deepcuts.components.core.recipe import parse, training_id
from deepcuts.components.core.store import FileStore
from deepcuts.components.finetune.step import finetune
from deepcuts.components.training import adapters, loop, models, scoring
from deepcuts.components.training.checkpoints import Checkpoints, TrainingProgress
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.run_messages import RunMessages
from deepcuts.components.watch import watcher as watcher_module
from deepcuts.components.watch.step import watch
from deepcuts.components.watch.watcher import Watcher
from tests.conftest import ROOT
from tests.training import tiny

SAVES_OFTEN = tiny.RECIPE | {"save_every_seconds": 0.001, "keep_checkpoints": 2, "scoring_share": 1e6}
"""A checkpoint after every optimizer step, and each may be scored."""


class WatchedRun:
    """One training run: its inputs, its store, and the two steps as a cluster would start them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, FileStore(folder / "store")
        self.base = tiny.base(folder / "base")
        self.train = tiny.write_sums(folder / "train.jsonl", 60)
        self.valid = tiny.write_sums(folder / "valid.jsonl", 40, seed=1)
        self.children: list[subprocess.Popen[bytes]] = []
        self.forks: list[Forked] = []

    def flags(self, step: Callable[..., Any], recipe: dict[str, Any], **changed: object) -> list[str]:
        out = self.folder / step.__name__
        shared = {"base": self.base, "train": self.train, "valid": self.valid, "curve": out / "curve.jsonl"}
        shared |= {"store": f"file://{self.folder}/store", "recipe": json.dumps(recipe)}
        if step is finetune:
            mine: dict[str, object] = {"model": out / "model"}
        else:
            mine = {
                "scores": out / "scores",
                "summary": out / "summary.md",
                "patience": 0,
                "poll_seconds": 0.02,
                "start_seconds": 20,
                "stale_seconds": 20,
            }
        return tiny.argv(shared | mine | {"receipt": out / "receipt.json"} | changed)

    def here(self, step: Callable[..., Any], recipe: dict[str, Any], **changed: object) -> int:
        """Exit code of the step, run in this process."""
        return cli.run(step, self.flags(step, recipe, **changed))

    def beside(self, step: Callable[..., Any], recipe: dict[str, Any], **changed: object) -> Forked:
        """The step in a fork of this process: a new one takes 10 s to start, so only slow tests start those.

        Never a thread: two at once in ``from_pretrained`` leave transformers unable to tie weights
        (``transformers.initialization.no_tie_weights`` puts back what it found, which is the other's patch).
        """
        forked = multiprocessing.get_context("fork").Process(
            target=lambda: sys.exit(self.here(step, recipe, **changed))
        )
        forked.start()
        self.forks.append(forked)
        return forked

    def start(
        self, step: Callable[..., Any], recipe: dict[str, Any], **changed: object
    ) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", step.__module__, *self.flags(step, recipe, **changed)]
        self.children.append(
            subprocess.Popen(
                argv, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
            )
        )
        return self.children[-1]

    def facts(self, step: Callable[..., Any]) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / step.__name__ / "receipt.json").read_text())[
            "facts"
        ]
        return facts

    def identity(self, recipe: dict[str, Any]) -> str:
        return training_id(parse(recipe), files.digest(self.base), files.digest(self.train))

    def messages(self, recipe: dict[str, Any]) -> RunMessages:
        return RunMessages(self.store, self.identity(recipe), recipe["budget_tokens"])

    def scored(self) -> list[int]:
        """Steps in the store with a published score."""
        seals = [key for key in self.store.list("trainings/") if "/scores-" in key and "/step-" in key]
        return sorted(int(key.split("/")[-2][5:]) for key in seals if key.endswith("/manifest.json"))

    def wait_until(self, holds: Callable[[], object], seconds: float = 90) -> None:
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.01)

    def cards(self) -> dict[int, list[scorecards.Score]]:
        """Per-example scores by step, as the watch wrote them."""
        folders = sorted((self.folder / "watch" / "scores").glob("step-*"))
        return {int(folder.name[5:]): scorecards.read_scores(folder) for folder in folders}


def exit_code(forked: Forked) -> int | None:
    """None when it does not end."""
    forked.join(60)
    return forked.exitcode


@pytest.fixture
def run(tmp_path: Path) -> Iterator[WatchedRun]:
    torch.set_num_threads(1)
    made = WatchedRun(tmp_path)
    yield made
    for child in made.children:
        child.kill()
        child.wait()
    for fork in made.forks:
        fork.kill()
        fork.join()


def in_loop_scores(run: WatchedRun, recipe: dict[str, Any]) -> dict[int, list[tuple[float, int]]]:
    """What blocking evaluation inside the training loop says at every step."""
    torch.rand(100)  # what other code drew before must not matter
    wanted = tiny.recipe(**recipe)
    network, tokenizer = models.load_base(run.base)
    accelerator = Accelerator()
    loss = CompletionLoss(adapters.adapt(network, wanted, accelerator.device))
    scores = {}

    def evaluate(progress: TrainingProgress) -> bool:
        scores[progress.step] = scoring.answer_nats(loss, tiny.rendered(40, seed=1))
        loss.train()
        return False

    checkpoints = Checkpoints(FileStore(run.folder / "other"), "in-loop", 2)
    always = {"out_of_time": lambda seconds: True}  # each save is waited for, so that no step comes between
    loop.train(loss, tiny.rendered(60), wanted, accelerator, checkpoints, evaluate, **always)
    return scores


@pytest.mark.parametrize("method", ["full", "lora"])
def test_watch_beside_a_trainer_scores_as_evaluation_in_the_loop_does_bit_for_bit(run, method):
    recipe = SAVES_OFTEN | {"method": method}
    watcher = run.beside(watch, recipe)
    assert run.here(finetune, recipe) == 0
    assert exit_code(watcher) == 0
    blocking, cards = in_loop_scores(run, recipe), run.cards()
    facts, steps = run.facts(watch), run.facts(finetune)["steps"]
    assert cards and max(cards) == steps
    for step, lines in cards.items():
        assert [(line.answer_nats, line.answer_tokens) for line in lines] == blocking[step]
    skipped = json.loads((run.folder / "watch" / "scores" / "skipped.json").read_text())
    assert sorted([*cards, *skipped]) == list(range(1, steps + 1))
    assert (facts["ended_because"], facts["skipped_checkpoints"]) == ("done", len(skipped))
    points = [json.loads(line) for line in (run.folder / "watch" / "curve.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points] == sorted(cards)
    assert facts["best_loss"] == min(point["loss"] for point in points)
    assert points[-1]["loss"] == pytest.approx(run.facts(finetune)["valid_loss"], rel=1e-12)


@pytest.mark.slow
def test_watch_killed_and_started_again_scores_nothing_twice(run):
    recipe = SAVES_OFTEN | {"budget_tokens": 30_000}
    trainer, watcher = run.start(finetune, recipe), run.start(watch, recipe)
    run.wait_until(lambda: len(run.scored()) >= 2)
    watcher.send_signal(signal.SIGKILL)
    watcher.wait()
    before = {step: written_at(run, step) for step in run.scored()}
    assert run.start(watch, recipe).wait(120) == 0 and trainer.wait(120) == 0
    assert before.items() <= {step: written_at(run, step) for step in run.scored()}.items()
    assert sorted(run.cards()) == run.scored() and max(run.scored()) == run.facts(finetune)["steps"]
    examples_tokens = sum(len(rendered.ids) for rendered in tiny.rendered(40, seed=1))
    assert run.facts(watch)["tokens"] == (len(run.scored()) - len(before)) * examples_tokens


def written_at(run: WatchedRun, step: int) -> int:
    (seal,) = (run.folder / "store").glob(f"trainings/*/scores-*/step-{step:08d}/manifest.json")
    return seal.stat().st_mtime_ns


@pytest.mark.slow
def test_watch_outlives_a_trainer_that_is_killed_and_started_again(run):
    recipe = SAVES_OFTEN | {"budget_tokens": 30_000}
    # on a busy machine a process takes 30 s to start
    watcher = run.start(watch, recipe, start_seconds=120, stale_seconds=120)
    trainer = run.start(finetune, recipe)
    run.wait_until(run.scored)
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    assert watcher.poll() is None
    assert run.start(finetune, recipe).wait(120) == 0 and watcher.wait(120) == 0
    assert run.facts(finetune)["resumed_at_step"] > 0
    assert run.facts(watch)["ended_because"] == "done"
    assert max(run.scored()) == run.facts(finetune)["steps"]


def test_watch_stops_a_run_that_overfits_and_the_best_model_is_handed_over(run):
    tiny.write_sums(run.train, 8)  # learned by heart in a few steps, after which valid only gets worse
    recipe = SAVES_OFTEN | {"budget_tokens": 20_000, "schedule": "constant"}
    watcher = run.beside(watch, recipe, patience=3)
    assert run.here(finetune, recipe) == 0
    assert exit_code(watcher) == 0
    trained, watched = run.facts(finetune), run.facts(watch)
    assert trained["stopped_early"] and watched["asked_to_stop"]
    assert trained["total_tokens"] < 15_000 and trained["stop_lag_tokens"] >= 0
    assert trained["best_step"] == watched["best_step"] < trained["steps"]
    assert trained["valid_loss"] == pytest.approx(watched["best_loss"], rel=1e-12)

    files.remove(run.folder / "store")
    assert run.here(finetune, recipe) == 0
    whole = run.facts(finetune)
    assert not whole["stopped_early"] and whole["total_tokens"] > 19_000
    assert trained["valid_loss"] < whole["valid_loss"]


def test_trainer_that_was_asked_to_stop_stops_at_once_when_it_is_started_again(run):
    recipe = SAVES_OFTEN | {"schedule_tokens": 4000}
    assert run.here(finetune, recipe) == 0 and run.here(watch, recipe) == 0
    (seal,) = (
        key for key in run.store.list("trainings/") if "/best-" in key and key.endswith("manifest.json")
    )
    best = run.facts(watch)["best_step"]
    run.messages(recipe).ask_to_stop(best, 1900, best, seal.rpartition("/")[0])

    longer = recipe | {"budget_tokens": 4000}
    assert run.here(finetune, longer) == 0
    assert not run.facts(finetune)["stopped_early"]  # that stop was for another budget

    middle = recipe | {"budget_tokens": 3500}
    files.remove(run.folder / "store" / "trainings" / run.identity(recipe) / "done")
    for folder in (run.folder / "store").glob("trainings/*/step-*"):
        files.remove(folder)
    assert run.here(finetune, recipe) == 0
    run.messages(middle).ask_to_stop(best, 1900, best, seal.rpartition("/")[0])
    assert run.here(finetune, middle) == 0
    facts = run.facts(finetune)
    assert facts["stopped_early"] and facts["tokens"] == 0 and facts["best_step"] == best
    assert facts["stop_lag_tokens"] == facts["total_tokens"] - 1900


def test_watch_ends_when_the_trainer_is_not_heard_of(run):
    run.messages(SAVES_OFTEN).start()
    began = time.monotonic()
    assert run.here(watch, SAVES_OFTEN, start_seconds=0.5) == 0
    assert run.facts(watch)["ended_because"] == "stale" and time.monotonic() - began > 0.5
    assert run.cards() == {} and run.facts(watch)["best_step"] is None


def test_watch_waits_long_for_a_trainer_to_start_and_less_for_one_that_was_heard(run):
    messages = run.messages(SAVES_OFTEN)
    pulse = watcher_module.Pulse(messages, start_seconds=60, stale_seconds=0.2)
    time.sleep(0.3)
    assert pulse.ending() is None
    messages.start()
    assert pulse.ending() is None
    time.sleep(0.3)
    assert pulse.ending() == "stale"


def test_watch_ends_when_the_trainer_fails_but_not_at_once_for_an_older_failure(run, monkeypatch):
    broken = SAVES_OFTEN | {"learning_rate": 1e30}
    assert run.here(finetune, broken) == 3  # the loss is not finite
    assert run.messages(broken).failed()
    assert run.here(watch, broken, start_seconds=0.3) == 0
    assert run.facts(watch)["ended_because"] == "stale"
    monkeypatch.setattr(watcher_module, "OLD_FAILURE_SECONDS", 0.2)
    assert run.here(watch, broken) == 0
    assert run.facts(watch)["ended_because"] == "failed"
    monkeypatch.setattr(watcher_module, "OLD_FAILURE_SECONDS", 60)
    watcher = run.beside(watch, broken)
    time.sleep(1)
    assert run.here(finetune, broken) == 3
    assert exit_code(watcher) == 0
    assert run.facts(watch)["ended_because"] == "failed"


def test_watch_passes_over_a_torn_checkpoint_and_one_beyond_its_budget(run):
    recipe = SAVES_OFTEN | {"keep_checkpoints": 9, "schedule_tokens": 4000}
    assert run.here(finetune, recipe) == 0
    short = recipe | {"budget_tokens": 1000}
    run.messages(short).finish(4, 1000)
    assert run.here(watch, short) == 0
    (inside,) = run.cards()
    tokens = json.loads((run.folder / "watch" / "curve.jsonl").read_text())["tokens"]
    assert tokens <= 1000 and run.facts(watch)["best_step"] == inside

    newest = max((run.folder / "store").glob("trainings/*/step-*"))
    next(newest.glob("weights-*")).write_bytes(b"torn")
    run.messages(recipe).finish(8, 2000)
    assert run.here(watch, recipe) == 0
    assert int(newest.name[5:]) not in run.cards()
    assert int(newest.name[5:]) in json.loads((run.folder / "watch/scores/skipped.json").read_text())


def test_watch_does_not_take_a_smaller_budgets_end_for_its_own(run):
    recipe = SAVES_OFTEN | {"schedule_tokens": 4000}
    assert run.here(finetune, recipe) == 0
    assert run.here(watch, recipe | {"budget_tokens": 4000}, start_seconds=0.3) == 0
    assert run.facts(watch)["ended_because"] == "stale"


def test_epochs_are_the_same_training_to_trainer_and_watcher_and_it_goes_on_from_its_checkpoints(run):
    """As tokens, as epochs, watched: one id in one store."""
    tokens = sum(len(one.ids) for one in tiny.rendered(60))
    whole = {name: value for name, value in SAVES_OFTEN.items() if name != "budget_tokens"}
    assert run.here(finetune, whole | {"epochs": 0.75}) == 0
    made = run.facts(finetune)
    assert made["budget_tokens"] == round(0.75 * tokens) and made["data_tokens"] == tokens
    assert made["total_tokens"] <= made["budget_tokens"] < made["total_tokens"] + 2 * 256
    assert run.here(watch, whole | {"epochs": 0.75}) == 0
    watched = run.facts(watch)
    assert watched["training_id"] == made["training_id"] and watched["best_step"] == made["steps"]
    assert run.here(finetune, whole | {"budget_tokens": made["budget_tokens"]}) == 0
    again = run.facts(finetune)
    assert (again["training_id"], again["resumed_at_step"]) == (made["training_id"], made["steps"])


def test_watch_without_examples_has_nothing_to_do(run):
    run.valid.write_text("")
    assert run.here(watch, SAVES_OFTEN) == 0
    assert run.facts(watch)["ended_because"] == "no examples" and run.cards() == {}


def test_best_weights_are_those_of_the_best_score_only(run):
    recipe = SAVES_OFTEN
    assert run.here(finetune, recipe) == 0 and run.here(watch, recipe) == 0
    (best,) = (run.folder / "store").glob("trainings/*/scores-*/best-*")
    step = run.facts(watch)["best_step"]
    assert int(best.name[5:]) == step
    (original,) = (run.folder / "store").glob(f"trainings/*/step-{step:08d}/weights-*")
    kept, original = (load_file(path) for path in (best / "weights.safetensors", original))
    assert all(torch.equal(kept[name], original[name]) for name in original)


def test_a_watch_keeps_to_its_share_of_the_training_and_says_what_it_passed_over(run):
    recipe = SAVES_OFTEN | {"keep_checkpoints": 99, "scoring_share": 0.5, "budget_tokens": 6000}
    run.valid = tiny.write_sums(run.folder / "valid.jsonl", 80, seed=1)
    watcher = run.beside(watch, recipe)  # a trainer cannot be forked once tests before have trained here
    assert run.here(finetune, recipe) == 0
    assert exit_code(watcher) == 0
    facts = run.facts(watch)
    assert facts["valid_examples"] < 80 == facts["valid_examples"] + facts["valid_examples_left_out"]
    assert facts["tokens"] <= 0.5 * 3 * 6000
    cards = {tuple(score.id for score in scores) for scores in run.cards().values()}
    assert len(cards) == 1 and len(next(iter(cards))) == facts["valid_examples"]
    steps = run.facts(finetune)["steps"]
    assert steps in run.cards()  # the last one is scored
    assert facts["scored_checkpoints"] + facts["skipped_checkpoints"] == steps


@pytest.mark.parametrize(
    ("scored", "trained", "last", "paid"),
    [
        (0, 0, False, True),  # 6,000 tokens may be scored, 600 a look, two looks of them kept
        (2, 1000, False, False),
        (2, 3000, False, True),
        (8, 10_000, False, True),
        (9, 10_000, False, False),
        (9, 10_000, True, True),
        (10, 10_000, True, False),
    ],
)
def test_looks_are_spread_over_the_run_and_one_is_kept_for_its_end(run, scored, trained, last, paid):
    recipe = parse(SAVES_OFTEN | {"budget_tokens": 10_000, "scoring_share": 0.2})
    watcher = Watcher(run.base, run.train, run.valid, f"file://{run.folder}/store", recipe, 0)
    watcher._look_tokens = 600
    watcher.history.scored = [None] * scored
    assert watcher.is_paid(trained, last) is paid
