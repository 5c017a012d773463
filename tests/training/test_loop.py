"""The loop on tiny models: what grouping, cuts, signals and ranks must not change."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.store import FileStore
from deepcuts.components.training import adapters, loop, models, rates, scoring
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.losses import CompletionLoss
from tests.conftest import ROOT
from tests.training import tiny

DATA = tiny.rendered(40)
PHASES = [{"seq_len": 24, "until_ratio": 0.3}, {"seq_len": 40, "until_ratio": 0.6}]
METHODS = {
    "full": {"method": "full", "learning_rate": 1e-3},
    "lora": {"method": "lora", "lora_dropout": 0.2},
    "unfrozen": {
        "method": "full",
        "learning_rate": 1e-3,
        "frozen": ["embeddings"],
        "frozen_until_ratio": 0.4,
        "weight_decay": 0.1,
    },
    "phases": {"method": "full", "learning_rate": 1e-3, "length_phases": PHASES, "order": "given"},
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


class Interrupted(Exception):
    """What ends a run in the middle."""


def train(folder: Path, recipe, kind: str = "qwen2", make_loss=CompletionLoss, **options):
    """(trained weights by name, outcome) of a run whose checkpoints lie in ``folder``."""
    model = adapters.adapt(tiny.model(kind), recipe, torch.device("cpu"))
    loss = make_loss(model)
    torch.manual_seed(len(str(folder)))  # the loop must not depend on what happened before it
    checkpoints = Checkpoints(FileStore(folder), "run", recipe.keep_checkpoints)
    outcome = loop.train(loss, DATA, recipe, Accelerator(cpu=True), checkpoints, **options)
    return models.trainable(model), outcome


def assert_equal(one, other) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_evaluation_in_the_loop_is_spread_evenly_charged_apart_and_changes_no_weight(tmp_path):
    plain, alone = train(tmp_path / "plain", tiny.recipe(**METHODS["lora"]))
    recipe = tiny.recipe(**METHODS["lora"], evaluations_in_loop=3)
    model = adapters.adapt(tiny.model("qwen2"), recipe, torch.device("cpu"))
    loss, found = CompletionLoss(model), []

    def evaluate() -> float:
        found.append(scoring.mean_nats(loss, DATA[:8]))
        return found[-1]

    checkpoints = Checkpoints(FileStore(tmp_path / "scored"), "run", 2)
    outcome = loop.train(loss, DATA, recipe, Accelerator(cpu=True), checkpoints, evaluate=evaluate)
    assert_equal(plain, models.trainable(model))
    steps = outcome.progress.step
    at = {n + 1: r["valid_loss"] for n, r in enumerate(outcome.progress.curve) if "valid_loss" in r}
    assert list(at) == [round(steps / 3), round(2 * steps / 3), steps] and list(at.values()) == found
    assert found[-1] == scoring.mean_nats(loss, DATA[:8])
    assert outcome.evaluation_seconds > 0 == alone.evaluation_seconds


def test_evaluation_in_the_loop_with_nothing_to_score_is_refused(tmp_path):
    with pytest.raises(ValueError, match="evaluations_in_loop 2: no valid split"):
        train(tmp_path, tiny.recipe(evaluations_in_loop=2))


def test_a_run_out_of_time_saves_before_it_asks_whether_to_end(tmp_path):
    recipe = tiny.recipe(**METHODS["full"], save_every_seconds=1e6)
    asked: list[int] = []

    def ends_here(progress):
        asked.append(progress.step)
        return progress.step == 3

    steps = iter(range(1, 100))
    _, outcome = train(
        tmp_path, recipe, ends_here=ends_here, out_of_time=lambda seconds: seconds > 0 and next(steps) == 3
    )
    assert outcome.stopped and outcome.progress.step == 3 and asked == [0, 3]
    assert Checkpoints(FileStore(tmp_path), "run", 2).steps() == [3]


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_micro_batches_change_nothing_though_their_targets_differ(tmp_path, kind):
    def run(size: int):
        recipe = tiny.recipe(tokens_per_step=512, micro_batch_size=size, learning_rate=1e-3)
        return train(tmp_path / str(size), recipe, kind)

    (one, one_by_one), (whole, at_once) = run(1), run(100)
    for a, b in zip(one_by_one.progress.curve, at_once.progress.curve, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    assert all(torch.allclose(one[name], whole[name], atol=1e-4) for name in one)


def test_the_loss_of_a_step_is_the_mean_over_all_its_answer_tokens(tmp_path):
    recipe = tiny.recipe(order="given", learning_rate=1e-9)
    _, outcome = train(tmp_path, recipe)
    first = outcome.progress.curve[0]
    lengths, examples, tokens = [len(r.ids) for r in DATA], 0, 0
    while tokens + lengths[examples] <= recipe.tokens_per_step:
        tokens += lengths[examples]
        examples += 1
    model, nats, count = tiny.model("qwen2"), 0.0, 0
    for rendered in DATA[:examples]:
        ids = torch.tensor([rendered.ids])
        labels = torch.where(torch.tensor([rendered.mask]) == 1, ids, -100)
        nats += float(model(input_ids=ids, labels=labels).loss.detach()) * sum(rendered.mask)
        count += sum(rendered.mask)
    assert first["tokens"] == tokens and first["loss"] == pytest.approx(nats / count, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cut_after", [1, 4])
def test_a_run_cut_between_steps_and_resumed_ends_bit_identical(tmp_path, method, cut_after):
    recipe = tiny.recipe(save_every_seconds=1e-6, **METHODS[method])
    uncut, whole = train(tmp_path / "uncut", recipe)
    lines = []

    def cut(text: str) -> None:
        lines.append(text)
        if len(lines) == cut_after:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(tmp_path / "cut", recipe, say=cut)
    resumed, outcome = train(tmp_path / "cut", recipe)
    assert outcome.resumed_at_step == cut_after
    assert_equal(resumed, uncut)
    assert outcome.progress == whole.progress


@pytest.mark.parametrize("method", METHODS)
def test_a_larger_budget_under_the_same_horizon_goes_on_bit_identical(tmp_path, method):
    recipe = tiny.recipe(budget_tokens=2000, schedule_tokens=4000, **METHODS[method])
    uncut, _ = train(tmp_path / "uncut", recipe)
    _, part = train(tmp_path / "cut", tiny.recipe(budget_tokens=900, schedule_tokens=4000, **METHODS[method]))
    promoted, outcome = train(tmp_path / "cut", recipe)
    assert 0 < outcome.resumed_at_step == part.progress.step
    assert_equal(promoted, uncut)


def test_dropout_and_order_depend_on_the_seed(tmp_path):
    losses = []
    for seed in (0, 1):
        recipe = tiny.recipe(order="given", seed=seed, **METHODS["lora"])
        _, outcome = train(tmp_path / str(seed), recipe)
        losses.append([record["loss"] for record in outcome.progress.curve])
    assert losses[0] != losses[1]


def test_the_curve_counts_what_was_trained(tmp_path):
    _, outcome = train(tmp_path, tiny.recipe())
    progress = outcome.progress
    assert progress.step == len(progress.curve) and progress.tokens == progress.curve[-1]["tokens"] <= 2000
    assert 0 < progress.answer_tokens < progress.tokens and progress.padding_tokens >= 0
    assert outcome.optimizer_bytes > 2 * 4 * sum(p.numel() for p in tiny.model("qwen2").parameters())


class Broken(CompletionLoss):
    """Its loss is finite; its gradient is not, from the third pass on."""

    passes = 0

    def forward(self, ids, positions, targets):
        Broken.passes += 1
        weight = next(self.parameters())
        nats = super().forward(ids, positions, targets)
        return nats + (weight * 0).sum().sqrt() if Broken.passes > 2 else nats


def test_a_gradient_that_is_not_finite_is_a_data_error_and_never_committed(tmp_path):
    Broken.passes = 0
    recipe = tiny.recipe(save_every_seconds=1e-6, micro_batch_size=100, packing=False)
    with pytest.raises(DataError, match="gradient norm is nan at step 2"):
        train(tmp_path, recipe, make_loss=Broken)
    assert Checkpoints(FileStore(tmp_path), "run", 9).steps() == [1, 2]
    weights, _ = train(tmp_path, recipe)
    assert all(weight.isfinite().all() for weight in weights.values())


def test_a_huge_learning_rate_is_named_when_the_loss_is_not_finite(tmp_path):
    with pytest.raises(DataError, match="lower recipe.learning_rate"):
        train(tmp_path, tiny.recipe(learning_rate=1e30))


def test_rate_rises_over_the_warm_up_and_falls_to_zero_at_the_horizon():
    for schedule in ("linear", "cosine"):
        recipe = tiny.recipe(schedule=schedule, budget_tokens=1000, schedule_tokens=2000, warmup_ratio=0.1)
        shares = [rates.rate_share(recipe, tokens) for tokens in range(0, 2001, 50)]
        assert shares[0] == 0 and shares[2] == pytest.approx(0.5) and shares[4] == pytest.approx(1)
        assert shares[4:] == sorted(shares[4:], reverse=True) and shares[-1] == pytest.approx(0, abs=1e-12)
        assert rates.rate_share(recipe, 1100) == pytest.approx(0.5)
        assert rates.rate_share(recipe, 5000) == pytest.approx(0, abs=1e-12)
    constant = tiny.recipe(schedule="constant", warmup_ratio=0.1)
    assert rates.rate_share(constant, 2000) == 1 and rates.rate_share(constant, 100) == 0.5
    assert rates.rate_share(tiny.recipe(warmup_ratio=0.0), 0) == 1
    assert math.isfinite(rates.rate_share(tiny.recipe(warmup_ratio=1.0), 2000))


def in_processes(
    count: int, folder: Path, changed: dict[str, object], deadly: int = 0, check: bool = True
) -> dict[str, Any]:
    """What ranks.py reports of a run over ``count`` processes whose checkpoints lie in ``folder``."""
    argv = ["--nproc-per-node", str(count), "-m", "tests.training.ranks", folder, json.dumps(changed)]
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", *argv, str(deadly)],
        cwd=ROOT,
        env=os.environ | environment,
        check=check,
        timeout=240,
    )
    if ended.returncode:
        return {}
    found: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return found


def assert_alike(weights, folder: Path) -> None:
    saved = torch.load(folder / "weights.pt", weights_only=True)
    assert all(torch.allclose(saved[name], weights[name], atol=1e-4) for name in weights)


@pytest.mark.parametrize(
    ("method", "strategy"),
    [
        ("phases", "ddp"),
        *(  # each starts two processes, 10 s; test_shares.py trains sharded by default
            pytest.param(method, strategy, marks=pytest.mark.slow)
            for method in METHODS
            for strategy in ("ddp", "fsdp")
            if method != "unfrozen" and (method, strategy) != ("phases", "ddp")
        ),
    ],
)
def test_two_processes_give_the_losses_of_one_and_save_together(tmp_path, method, strategy):
    changed = {**METHODS[method], "lora_dropout": 0.0, "micro_batch_size": 1, "tokens_per_step": 320}
    weights, alone = train(tmp_path / "alone", tiny.recipe(**changed))
    found = in_processes(2, tmp_path / "two", changed | {"strategy": strategy})
    for one, two in zip(alone.progress.curve, found["curve"], strict=True):
        assert two == pytest.approx(one, rel=1e-5), one["tokens"]
    assert found["saves"][0] == found["saves"][1] > 1  # the second's clock asks, both save
    assert found["answer_tokens"] == alone.progress.answer_tokens
    assert found["optimizer_bytes"] == alone.optimizer_bytes
    assert found["held_share"] == (1 if strategy == "ddp" else pytest.approx(0.5, abs=0.02))
    assert_alike(weights, tmp_path / "two")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_frozen_weights_train_from_their_step_on_and_not_before(tmp_path, kind):
    recipe = tiny.recipe(**METHODS["unfrozen"], keep_checkpoints=100, save_every_seconds=1e-6)
    before = tiny.model(kind).get_input_embeddings().weight
    _, outcome = train(tmp_path / "unfrozen", recipe, kind)
    always = tiny.recipe(**METHODS["unfrozen"] | {"frozen_until_ratio": 1.0})
    _, frozen = train(tmp_path / "frozen", always, kind)
    stored, moved = Checkpoints(FileStore(tmp_path / "unfrozen"), "run", 100), {}
    for step in stored.steps():
        progress = stored.fetch(step, tmp_path / "at" / str(step))
        weights = load_file(tmp_path / "at" / str(step) / "weights.safetensors")
        (embeddings,) = (w for n, w in weights.items() if n.endswith(("embed_tokens.weight", "wte.weight")))
        moved[progress.tokens] = not torch.equal(embeddings, before)
    unfrozen = min(tokens for tokens in moved if tokens >= 0.4 * recipe.budget_tokens)
    assert moved == {tokens: tokens > unfrozen for tokens in moved} and set(moved.values()) == {True, False}
    same = [one == other for one, other in zip(outcome.progress.curve, frozen.progress.curve, strict=True)]
    steps = sum(tokens <= unfrozen for tokens in moved)
    assert all(same[:steps]) and not any(same[steps:])


def test_weights_to_be_trained_later_are_refused_over_several_processes(tmp_path):
    class Two:
        num_processes = 2

    with pytest.raises(ValueError, match="use one process"):
        loop.train(CompletionLoss(tiny.model("llama")), DATA, tiny.recipe(**METHODS["unfrozen"]), Two(), None)
