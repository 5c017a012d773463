"""What a run file may not say, found before anything is paid for."""

from pathlib import Path

import pytest

from pipelines import pools
from pipelines.command import packages, settings


def places(folder: Path) -> dict[str, str]:
    """Arguments of a base, data with a train file, and a store in ``folder``."""
    (folder / "train.jsonl").write_text("")
    return {f"{name}_uri": folder.as_uri() for name in ("base", "data", "store")}


def test_a_curriculum_that_training_would_shuffle_away_is_refused(tmp_path):
    pipeline, given = packages.read("finetune"), places(tmp_path)
    length = {"curriculum_signal": "length"}
    with pytest.raises(ValueError, match="set recipe.order to given"):
        settings.complete(pipeline, given | length | {"recipe": {}}, {})
    kept = settings.complete(pipeline, given | length | {"recipe": {"order": "given"}}, {})
    assert kept["recipe"] == {"order": "given"}


def test_a_budget_with_a_pool_of_unknown_price_is_refused(tmp_path):
    pipeline, known = packages.read("finetune"), pools.prices()
    given = places(tmp_path)
    known["pools"] = [pool | {"usd_per_hour": None} for pool in known["pools"] if pool["name"] != "gpu-spot"]
    assert settings.complete(pipeline, given | {"nodepools": known}, {})["budget_usd"] == 0
    with pytest.raises(ValueError, match=r"budget_usd 5 with pools of unknown price \(cpu, gpu\)"):
        settings.complete(pipeline, given | {"nodepools": known, "budget_usd": 5}, {})
