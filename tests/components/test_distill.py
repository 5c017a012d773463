"""distill through its argv: every method, every way to a student, and what users get wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from components.core import cli, files
from components.distill.step import distill
from tests.training import tiny

RECIPE = tiny.RECIPE | {"budget_tokens": 1500}
GIVEN: dict[str, Any] = {
    "layers": "every-2",
    "config": "{}",
    "method": "forward-kl",
    "temperature": 2.0,
    "cross_entropy_weight": 0.5,
    "hidden_weight": 0.0,
    "cached_draws": 0,
    "max_new_tokens": 8,
    "extra_tokens": 0,
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def teacher(tmp_path):
    return tiny.base(tmp_path / "teacher", num_hidden_layers=4)


@pytest.fixture
def go(tmp_path, capsys):
    """Run distill through its argv; returns (exit code, folder of the outputs, facts, stderr)."""
    tiny.write_sums(tmp_path / "train.jsonl", 60)
    tiny.write_sums(tmp_path / "valid.jsonl", 5, seed=1)

    def run(teacher: Path, base: Path | None = None, recipe: Any = RECIPE, **changed: object):
        out = tmp_path / "out"
        files.remove(out)
        flags = {
            "teacher": teacher,
            "base": base or teacher,
            "train": tmp_path / "train.jsonl",
            "valid": tmp_path / "valid.jsonl",
            "model": out / "model",
            "curve": out / "curve.jsonl",
            "worth_tokens": out / "worth_tokens",
            "store": f"file://{tmp_path}/store",
            "recipe": json.dumps(recipe),
            "receipt": out / "receipt.json",
        }
        code = cli.run(distill, tiny.argv(flags | GIVEN | changed))
        return code, out, json.loads((out / "receipt.json").read_text())["facts"], capsys.readouterr().err

    return run


def done(result: Any) -> tuple[Path, dict[str, Any]]:
    code, out, facts, stderr = result
    assert code == 0, stderr
    names = ["curve.jsonl", "model", "receipt.json", "worth_tokens"]
    assert sorted(path.name for path in out.iterdir()) == names
    return out, facts


def refused(result: Any, code: int, *words: str) -> None:
    """The exit code, words of the message, no traceback, and no output but the receipt."""
    found, out, _, stderr = result
    assert (found, [path.name for path in out.iterdir()]) == (code, ["receipt.json"]), stderr
    assert all(word in stderr for word in words), stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_distill_writes_half_the_layers_as_a_model_that_transformers_loads(go, tmp_path, kind):
    layers = {"n_layer": 4} if kind == "gpt2" else {"num_hidden_layers": 4}
    out, facts = done(go(tiny.base(tmp_path / kind, kind, **layers)))
    student = AutoModelForCausalLM.from_pretrained(out / "model")
    assert student.config.num_hidden_layers == 2
    losses = [json.loads(line)["loss"] for line in (out / "curve.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.9 * losses[0]
    assert facts["student_bytes"] < 0.8 * facts["teacher_bytes"]
    assert 0 < facts["teacher_seconds"] < facts["distill_seconds"]
    assert facts["teacher_tokens"] >= facts["tokens"] == facts["total_tokens"]
    assert facts["teacher_precision"] == "float32" and facts["teacher_ms_per_token"] > 0


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "reverse-kl"},
        {"hidden_weight": 1.0},
        {"cached_draws": 20},
        {"layers": "0,3"},
        {"layers": "all", "config": '{"num_hidden_layers": 1, "hidden_size": 16}', "hidden_weight": 1.0},
    ],
    ids=str,
)
def test_every_way_to_teach_lowers_the_answer_loss(go, teacher, changed):
    none = done(go(teacher, recipe=RECIPE | {"budget_tokens": 300}, **changed))[1]["valid_loss"]
    assert done(go(teacher, **changed))[1]["valid_loss"] < none
