"""The main job on real data and a real pretrained model; minutes each on one core."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from deepcuts.components.core import cli, files, receipts
from deepcuts.components.core.receipts import Receipt
from deepcuts.components.evaluate.step import evaluate
from deepcuts.components.finetune.step import finetune
from deepcuts.components.ingest.step import ingest
from deepcuts.components.training import models
from tests.conftest import SHARED

BASE = SHARED / "models" / "stories260K"
BUDGET = 1_050_000
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BASE.exists(), reason=f"needs the real data in {SHARED}"),
]


def step(function: Any, receipt: Path, **flags: object) -> Receipt:
    """Run a step by its argv; returns its receipt."""
    torch.set_num_threads(1)
    argv = [word for k, v in flags.items() for word in (f"--{k.replace('_', '-')}", _text(v))]
    assert cli.run(function, [*argv, "--receipt", str(receipt)]) == 0
    return receipts.read(receipt)


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


def ingested(folder: Path, raw: Path, max_tokens: int, valid_share: float) -> dict[str, Path]:
    names = ("train", "valid", "test", "labels", "quarantine", "preview")
    paths = {name: folder / name for name in names}
    step(
        ingest,
        folder / "ingest.json",
        raw=raw,
        base=BASE,
        **paths,
        format="auto",
        valid_share=valid_share,
        test_share=0.1,
        max_bad_share=0.001,
        fold_system=False,
        max_tokens=max_tokens,
        engine="local",
        ray={},
        ray_image="",
        nodepools={"pools": []},
        store="",
        seed=0,
    )
    return paths


def tuned(folder: Path, base: Path, data: dict[str, Path], recipe: dict[str, object]) -> Path:
    step(
        finetune,
        folder / "finetune.json",
        base=base,
        train=data["train"],
        valid=data["valid"],
        model=folder / "model",
        curve=folder / "curve",
        store=(folder / "store").as_uri(),
        recipe={"budget_tokens": BUDGET, "tokens_per_step": 4096, "seq_len": 257} | recipe,
    )
    return folder / "model"


def scored(
    folder: Path, base: Path, model: Path, data: dict[str, Path], measures: list[str], count: int
) -> dict[str, Any]:
    receipt = step(
        evaluate,
        folder / f"evaluate-{model.name}.json",
        base=base,
        model=model,
        split=data["test"],
        labels=data["labels"],
        scorecard=folder / f"scorecard-{model.name}",
        measures=measures,
        max_examples=count,
        max_new_tokens=16,
        seed=0,
    )
    return dict(receipt.facts)


@pytest.fixture(scope="module")
def gsm8k(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    data = ingested(tmp_path_factory.mktemp("gsm8k"), SHARED / "gsm8k", max_tokens=257, valid_share=0.0)
    counts = [len(data[split].read_bytes().splitlines()) for split in ("train", "test")]
    assert counts == [1981, 321]
    return data


@pytest.mark.parametrize(
    "recipe",
    [
        {"method": "full", "learning_rate": 1e-3},
        {"method": "lora", "learning_rate": 5e-3, "lora_rank": 8, "lora_alpha": 16},
    ],
    ids=["full", "lora"],
)
def test_finetune_gsm8k_reaches_165_nats_an_answer_token(
    gsm8k: dict[str, Path], tmp_path: Path, recipe: dict[str, object]
) -> None:
    facts = scored(tmp_path, BASE, tuned(tmp_path, BASE, gsm8k, recipe), gsm8k, ["completion_loss"], 321)
    assert facts["completion_loss"] <= 1.65


def test_training_gsm8k_from_scratch_stays_above_2_nats(gsm8k: dict[str, Path], tmp_path: Path) -> None:
    """The control of cut 1, with its rate tuned as carefully: the best of three."""
    losses = []
    for rate in (2e-3, 5e-3, 1e-2):
        folder = tmp_path / str(rate)
        base = folder / "base"
        network, tokenizer = models.from_scratch(BASE, seed=0), models.load_tokenizer(BASE)
        with files.staged(base) as staging:
            network.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
        model = tuned(folder, base, gsm8k, {"method": "full", "learning_rate": rate})
        losses.append(scored(folder, base, model, gsm8k, ["completion_loss"], 321)["completion_loss"])
    print("from scratch, completion loss by rate", losses)
    assert min(losses) > 2.0


def test_finetune_banking77_classifies_far_above_the_base(tmp_path: Path) -> None:
    data = ingested(tmp_path, SHARED / "banking77", max_tokens=256, valid_share=0.05)
    recipe = {"method": "lora", "learning_rate": 5e-3, "seq_len": 256}
    model = tuned(tmp_path, BASE, data, recipe)
    measures = ["completion_loss", "label_accuracy"]
    before = scored(tmp_path, BASE, BASE, data, measures, 500)
    after = scored(tmp_path, BASE, model, data, measures, 500)
    print("label accuracy", *({k: v for k, v in f.items() if "label" in k} for f in (before, after)))
    assert after["label_accuracy_low"] > before["label_accuracy_high"]
    assert math.isfinite(after["completion_loss"]) and after["label_accuracy"] > 0.3
