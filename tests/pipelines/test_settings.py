"""What a run file may not say, found before anything is paid for."""

from pathlib import Path
from typing import Any

import pytest

from deepcuts.pipelines import pools
from deepcuts.pipelines.command import packages
from deepcuts.pipelines.run_file import settings


def places(folder: Path) -> dict[str, Any]:
    """A base, data and a store that are there."""
    (folder / "config.json").write_text("{}")
    (folder / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    return {name: folder.as_uri() for name in ("base_uri", "data_uri", "store_uri")}


def test_a_curriculum_that_training_would_shuffle_away_is_refused(tmp_path):
    pipeline = packages.read("finetune")
    given = places(tmp_path)
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
    with pytest.raises(ValueError, match=r"budget_usd 5 with pools of unknown price \(cpu\)"):
        settings.complete(pipeline, given | {"nodepools": known, "budget_usd": 5}, {})
    with pytest.raises(ValueError, match=r"budget_usd 5 with pools of unknown price \(cpu, gpu\)"):
        settings.complete(pipeline, given | {"nodepools": known, "budget_usd": 5, "pool": "gpu"}, {})
