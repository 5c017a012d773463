"""The goals of asynchronous evaluation, on real data: cut 11."""

from pathlib import Path

import pytest

from deepcuts.components.core.recipe import Recipe
from tests.benchmarks import gsm8k, stall

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not gsm8k.BASE.exists(), reason=f"no pretrained model at {gsm8k.BASE}"),
]


def test_evaluation_beside_the_trainer_adds_less_than_1_percent_and_20_times_less_than_in_its_loop(
    tmp_path: Path,
):
    recipe = Recipe(
        method="full",
        learning_rate=1e-3,
        budget_tokens=600_000,
        tokens_per_step=4096,
        micro_batch_size=4,
        compile="off",
        save_every_seconds=1e6,
    )
    train = gsm8k.write(tmp_path / "train.jsonl", "train", 400)
    valid = gsm8k.write(tmp_path / "valid.jsonl", "test", 128)
    found = stall.compare(stall.StallInputs(gsm8k.BASE, train, valid, recipe), pairs=1)
    assert found["scores_equal"]
    assert found["added_share_watched"][0] < 0.01
    assert found["added_ratio"][0] >= 20
    assert found["stall_ratio"][0] >= 10  # all saving counted, though both ways save
