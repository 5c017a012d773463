"""Early stopping on real data: GSM8K's first 60 short examples, learned by heart within a few epochs."""

from pathlib import Path

import pytest

from deepcuts.components.core.recipe import Recipe
from tests.benchmarks import early_stop, gsm8k

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not gsm8k.BASE.exists(), reason=f"no pretrained model at {gsm8k.BASE}"),
]


def test_early_stopping_saves_tokens_and_loses_no_quality_on_a_run_that_overfits(tmp_path: Path):
    recipe = Recipe(
        method="full",
        learning_rate=2e-3,
        schedule="constant",
        budget_tokens=400_000,
        tokens_per_step=4096,
        micro_batch_size=4,
        compile="off",
        save_every_seconds=1.0,
    )
    found = early_stop.compare(
        early_stop.EarlyStopInputs(
            gsm8k.BASE,
            gsm8k.write(tmp_path / "train.jsonl", "train", 60),
            gsm8k.write(tmp_path / "valid.jsonl", "test", 100),
            gsm8k.write(tmp_path / "test.jsonl", "test", 150, skip=100),
            recipe,
            patience=3,
        ),
        seeds=3,
    )
    assert found["tokens_saved_share"][1] > 0.1
    assert found["non_inferior"]
