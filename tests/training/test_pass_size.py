"""Passes on a CPU hold as little as is about as fast, and train the same."""

import msgspec
import pytest
import torch
from accelerate import Accelerator

from deepcuts.components.core.store import FileStore
from deepcuts.components.training import loop, models, pass_size
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.losses import CompletionLoss
from tests.training import tiny
from tests.training.test_prefixes import conversations

RECIPE = tiny.recipe(tokens_per_step=1024, seq_len=64, micro_batch_size=16, budget_tokens=3000)


@pytest.fixture
def small_passes(monkeypatch):
    """Sizes at which the tiny model's passes are taken for those of a large one."""
    torch.set_num_threads(1)
    monkeypatch.setattr(pass_size, "PASS_TOKENS", 128)
    monkeypatch.setattr(pass_size, "PASS_WORK", 0)


def test_a_pass_is_as_large_as_its_work_or_what_its_examples_share_needs(small_passes, monkeypatch):
    loss, data = CompletionLoss(tiny.model("llama")), conversations(60)
    assert pass_size.fewest_rows(loss, data, RECIPE, shared=False) == 2
    few, whole = (pass_size.fewest_rows(loss, data, RECIPE, shared=True) for _ in range(2))
    assert 2 < few < 16 and few == whole  # in passes of 128 tokens the prefixes would be computed too often
    weights = sum(weight.numel() for weight in loss.parameters())
    monkeypatch.setattr(pass_size, "PASS_WORK", 500 * weights)
    assert pass_size.fewest_rows(loss, data, RECIPE, shared=False) == 8
    monkeypatch.setattr(pass_size, "PASS_WORK", 5000 * weights)
    assert pass_size.fewest_rows(loss, data, RECIPE, shared=False) == 16


def test_smaller_passes_train_the_same_and_keep_less(small_passes, tmp_path, monkeypatch):
    recipe = msgspec.structs.replace(RECIPE, share_prefixes="off")

    def trained(name: str):
        loss = CompletionLoss(tiny.model("llama"))
        checkpoints = Checkpoints(FileStore(tmp_path / name), "run", 2)
        outcome = loop.train(loss, tiny.rendered(60), recipe, Accelerator(cpu=True), checkpoints)
        return models.trainable(loss), outcome

    small, outcome = trained("small")
    monkeypatch.setattr(pass_size, "PASS_TOKENS", 4096)
    large, whole = trained("large")
    assert (outcome.micro_batch_size, whole.micro_batch_size) == (2, 16) and not outcome.out_of_memory
    assert outcome.saved_tensor_bytes < 0.3 * whole.saved_tensor_bytes
    for one, other in zip(outcome.progress.curve, whole.progress.curve, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert all(torch.allclose(small[name], large[name], atol=1e-4) for name in large)
