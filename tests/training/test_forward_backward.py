"""What a step's passes may change (memory, speed) and what they may not: checkpointing, compile, memory."""

import time
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from deepcuts.components.training import adapters, blocks, compiling, models
from deepcuts.components.training.batches import collate, pack
from deepcuts.components.training.losses import CompletionLoss
from tests.training import tiny
from tests.training.test_loop import DATA, Interrupted, assert_equal, train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch._dynamo.reset()


def gradients(kind: str, every: int, method: str, embeddings: str):
    """(gradients by name, bytes autograd saved) of one pass over two packed rows of a four-block model."""
    layers = {"n_layer": 4} if kind == "gpt2" else {"num_hidden_layers": 4}
    recipe = tiny.recipe(
        method=method, gradient_checkpointing=every or False, trainable_embeddings=embeddings
    )
    loss = CompletionLoss(adapters.adapt(tiny.model(kind, **layers), recipe, CPU)).train()
    rows = pack(range(4), [len(rendered.ids) for rendered in DATA], 64)
    with blocks.saved_tensor_bytes(loss) as count:
        nats = loss(*collate(rows, DATA, 64))
    nats.backward()
    return {name: p.grad for name, p in models.trainable(loss).items()}, count()


@pytest.mark.parametrize(("method", "embeddings"), [("full", "auto"), ("lora", "no"), ("lora", "yes")])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_checkpointed_blocks_save_memory_and_change_no_gradient(kind, method, embeddings):
    plain, all_bytes = gradients(kind, 0, method, embeddings)
    saved = {0: all_bytes}
    for every in (1, 2):
        found, saved[every] = gradients(kind, every, method, embeddings)
        assert plain and all(torch.equal(found[name], plain[name]) for name in plain)
        assert any(gradient.abs().max() > 0 for gradient in found.values())
    assert saved[1] < 0.5 * saved[0]
    assert saved[2] == pytest.approx((saved[0] + saved[1]) / 2, rel=0.1)  # two of four blocks


def test_saved_tensor_bytes_counts_a_storage_once_and_no_parameter():
    layer = torch.nn.Linear(8, 8)
    with blocks.saved_tensor_bytes(layer) as count:
        hidden = layer(torch.ones(4, 8))
        (hidden.exp() * hidden.exp()[:2].sum()).sum()
    exps, inputs = 2 * 4 * 8 * 4, 4 * 8 * 4
    scalar = 4
    assert count() == exps + inputs + scalar


def close(one, other) -> None:
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_compiled_training_is_the_same_training_with_one_compile_and_the_same_names(tmp_path, method):
    changed = {"method": method, "learning_rate": 1e-3}
    eager, off = train(tmp_path / "off", tiny.recipe(compile="off", **changed))
    counters.clear()
    compiled, on = train(tmp_path / "on", tiny.recipe(compile="on", **changed))
    assert on.compile.compiled and not off.compile.compiled and on.progress.compiled
    assert on.compile.compile_seconds > on.compile.compiled_step_seconds > 0
    assert counters["stats"]["unique_graphs"] <= 8, "one code for all blocks and steps"
    for a, b in zip(on.progress.curve, off.progress.curve, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    close(compiled, eager)
    assert not any("_orig_mod" in name for name in compiled)


def test_a_compiled_run_cut_and_resumed_stays_compiled_and_ends_bit_identical(tmp_path):
    recipe = tiny.recipe(save_every_seconds=1e-6, compile="on", method="lora", lora_dropout=0.0)
    uncut, whole = train(tmp_path / "uncut", recipe)

    def cut(text: str) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        train(tmp_path / "cut", recipe, say=cut)
    resumed, outcome = train(tmp_path / "cut", tiny.recipe(method="lora", lora_dropout=0.0, compile="auto"))
    assert outcome.resumed_at_step == 1 and outcome.compile.compiled
    assert_equal(resumed, uncut)
    assert outcome.progress == whole.progress


def test_auto_does_not_try_where_a_lost_trial_would_cost_more_than_a_percent(tmp_path):
    counters.clear()
    _, outcome = train(tmp_path, tiny.recipe())
    assert outcome.compile.compiled is None and outcome.compile.compile_seconds == 0
    assert outcome.compile.facts()["cut_compile"].startswith("off: not tried: about 4")
    assert "s to compile and try is more than 1% of the" in outcome.compile.reason
    assert not counters["stats"]


def test_auto_tries_where_the_run_is_long_enough_and_keeps_what_was_faster(tmp_path, monkeypatch):
    trials: list[compiling.Times] = []
    time_both = compiling.time_both

    def watched(*calls):
        trials.append(time_both(*calls))
        return trials[-1]

    monkeypatch.setattr(compiling, "time_both", watched)
    monkeypatch.setattr(compiling, "MAX_LOST", 1e9)
    plain, _ = train(tmp_path / "off", tiny.recipe(compile="off", learning_rate=1e-3))
    weights, outcome = train(tmp_path / "auto", tiny.recipe(learning_rate=1e-3))
    verdict = outcome.compile
    assert [trial.won for trial in trials] == [verdict.compiled]
    assert (verdict.eager_step_seconds, verdict.compiled_step_seconds) == trials[0][:2]
    assert outcome.progress.compiled == verdict.compiled and verdict.compile_seconds > 0
    close(weights, plain)


def test_a_missing_compiler_means_eager_and_the_reason_is_told(tmp_path, monkeypatch):
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("/nowhere/g++",))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(inductor, "fx_graph_cache", False)
    plain, _ = train(tmp_path / "off", tiny.recipe(compile="off"))
    weights, outcome = train(tmp_path / "on", tiny.recipe(compile="on"))
    assert outcome.compile.compiled is False and "does not compile here" in outcome.compile.reason
    assert_equal(weights, plain)


@pytest.mark.parametrize(
    ("eager", "compiled", "won", "left", "on", "steps", "words"),
    [
        (0.10, 0.08, True, 1000, True, 500, "pays off, break-even after 500 of 1000"),
        (0.10, 0.08, True, 400, True, 500, "does not pay off any more"),
        (0.10, 0.08, False, 1000, False, 500, "not faster in each of 5 pairs"),
        (0.10, 0.11, False, 1000, False, None, "slower than eager"),
    ],
)
def test_judge_weighs_what_is_left_not_what_is_spent(eager, compiled, won, left, on, steps, words):
    verdict = compiling.judge(eager, compiled, 10.0, won, left, insist=False)
    assert verdict.compiled == on and words in verdict.reason
    assert verdict.break_even_steps == pytest.approx(steps, abs=1) if steps else not verdict.break_even_steps
    assert verdict.facts()["break_even_steps"] == (verdict.break_even_steps if on else None)


def test_one_slow_compiled_call_of_five_loses_the_trial():
    def slept(*compiled: float):
        """Eager calls of 0.02 s, before each of ``compiled``."""
        seconds = [second for pair in zip((0.02,) * 6, compiled, strict=True) for second in pair]
        return partial(next, map(time.sleep, seconds))

    assert compiling.time_both(slept(*(0.0,) * 6)).won
    assert not compiling.time_both(slept(0.0, 0.0, 0.0, 0.06, 0.0, 0.0)).won


def test_a_trial_of_long_steps_is_charged_its_timed_ones():
    assert compiling.refuse_untried(1.0, 5_300) is None
    assert "about 160 s to compile and try" in (compiling.refuse_untried(10.0, 1_100) or "")


class SmallCard(CompletionLoss):
    """A device with room for at most ``most`` tokens: two rows, or what four share."""

    most = 2 * 64

    def forward(self, ids, positions, targets):
        if ids.numel() > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
        return super().forward(ids, positions, targets)


def test_out_of_memory_halves_the_micro_batch_once_and_trains_the_same(tmp_path):
    recipe = tiny.recipe(micro_batch_size=4, method="lora", lora_dropout=0.0, learning_rate=1e-3)
    wanted, whole = train(tmp_path / "large", recipe)
    found, outcome = train(tmp_path / "small", recipe, make_loss=SmallCard)
    assert (outcome.micro_batch_size, whole.micro_batch_size) == (2, 4)
    assert (outcome.out_of_memory, whole.out_of_memory) == (True, False)
    assert [r["tokens"] for r in outcome.progress.curve] == [r["tokens"] for r in whole.progress.curve]
    for a, b in zip(outcome.progress.curve, whole.progress.curve, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    close(found, wanted)


def test_out_of_memory_again_ends_the_run_and_says_what_to_lower(tmp_path):
    with pytest.raises(MemoryError, match="micro-batches of 4 rows .*lower recipe.micro_batch_size"):
        train(tmp_path, tiny.recipe(micro_batch_size=8, tokens_per_step=512), make_loss=SmallCard)
