"""tune through its argv: real trials on a tiny model, crashes, and what users get wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from deepcuts.components.core import cli, files
from deepcuts.components.core.recipe import parse
from deepcuts.components.finetune.step import finetune
from deepcuts.components.tune.step import tune
from tests.conftest import ROOT
from tests.training import tiny

RECIPE = tiny.RECIPE | {"precision": "fp32", "save_every_seconds": 1e6}
RATES = {"learning_rate": {"kind": "choice", "values": [1e-2, 3e-3, 1e-5]}}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def flags(tmp_path):
    """The flags of a small search; ``changed`` goes over them."""
    tiny.base(tmp_path / "base")
    tiny.write_sums(tmp_path / "train.jsonl", 60)
    tiny.write_sums(tmp_path / "valid.jsonl", 5, seed=1)

    def made(**changed: object) -> list[str]:
        values = {
            "base": tmp_path / "base",
            "train": tmp_path / "train.jsonl",
            "valid": tmp_path / "valid.jsonl",
            "best_recipe": tmp_path / "out/best.json",
            "trials": tmp_path / "out/trials.jsonl",
            "summary": tmp_path / "out/summary.md",
            "store": f"file://{tmp_path}/store",
            "recipe": json.dumps(RECIPE),
            "space": json.dumps(RATES),
            "min_tokens": 512,
            "max_tokens": 1536,
            "eta": 3,
            "brackets": 1,
            "configurations": 3,
            "parallel": 2,
            "seed": 0,
            "receipt": tmp_path / "out/receipt.json",
        }
        return tiny.argv(values | changed)

    return made


def table(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/trials.jsonl").read_text().splitlines()]


def test_search_promotes_the_best_which_goes_on_where_it_stopped(flags, tmp_path):
    assert cli.run(tune, flags()) == 0
    records = table(tmp_path)
    assert Counter(record["rung"] for record in records) == {0: 3, 1: 1}
    first = min((r for r in records if r["rung"] == 0), key=lambda r: r["valid_loss"])
    (promoted,) = (record for record in records if record["rung"] == 1)
    assert promoted["values"] == first["values"]
    facts = promoted["receipts"][0]["facts"]
    assert facts["resumed_at_step"] > 0
    assert facts["training_id"] == first["receipts"][0]["facts"]["training_id"]

    receipt = json.loads((tmp_path / "out/receipt.json").read_text())
    facts = receipt["facts"]
    assert facts["trials"] == 4 and facts["failed"] == 0
    assert facts["tokens"] == sum(record["tokens"] for record in records)
    assert facts["unit_epochs"] == pytest.approx(5, rel=0.1)
    assert (facts["grid_unit_epochs"], facts["restarting_unit_epochs"]) == (9, 6)
    assert 0 < facts["trial_cpu_seconds"] <= receipt["cpu_seconds"]
    best = json.loads((tmp_path / "out/best.json").read_text())
    assert parse(best).learning_rate == promoted["values"]["learning_rate"]
    assert best["budget_tokens"] == RECIPE["budget_tokens"] and not best["schedule_tokens"]
    assert f"{promoted['valid_loss']:.4f}" in (tmp_path / "out/summary.md").read_text()

    trained_in_one_go(tmp_path, promoted)

    before = (tmp_path / "out/trials.jsonl").read_bytes()
    assert cli.run(tune, flags(parallel=1)) == 0
    assert (tmp_path / "out/trials.jsonl").read_bytes() == before


def trained_in_one_go(folder: Path, promoted: dict[str, Any]) -> None:
    """A promoted trial ends where a training without a stop at the lower rung ends."""
    recipe = RECIPE | promoted["values"] | {"budget_tokens": 1536, "schedule_tokens": 1536}
    straight = {
        "base": folder / "base",
        "train": folder / "train.jsonl",
        "valid": folder / "valid.jsonl",
        "model": folder / "straight",
        "curve": folder / "straight.jsonl",
        "store": f"file://{folder}/other",
        "recipe": json.dumps(recipe),
        "receipt": folder / "straight.json",
    }
    assert cli.run(finetune, tiny.argv(straight)) == 0
    receipt = json.loads((folder / "straight.json").read_text())
    assert receipt["facts"]["valid_loss"] == pytest.approx(promoted["valid_loss"], abs=1e-6)


@pytest.mark.slow  # 20 s or more on two busy cores
def test_trials_that_fail_are_recorded_and_charged_and_the_others_decide(flags, tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPCUTS_ATTEMPTS", f"file://{tmp_path}/attempts")
    space = {
        "learning_rate": {"kind": "choice", "values": [1e-2]},
        "seq_len": {"kind": "choice", "values": [64, 512]},  # 512 is above the batch and the context
    }
    assert cli.run(tune, flags(space=json.dumps(space), configurations=2)) == 0
    failed = [record for record in table(tmp_path) if record["state"] == "failed"]
    assert [record["values"]["seq_len"] for record in failed] == [512]
    assert "seq_len" in failed[0]["problem"] and failed[0]["tokens"] == 512
    assert json.loads((tmp_path / "out/best.json").read_text())["seq_len"] == 64
    assert json.loads((tmp_path / "out/receipt.json").read_text())["facts"]["failed"] == 1
    assert [path.name for path in (tmp_path / "attempts").iterdir()] == ["tune"]  # no trial is one of them


@pytest.mark.slow
def test_search_killed_in_the_middle_goes_on_and_repeats_no_trial(flags, tmp_path):
    argv = [sys.executable, "-m", "deepcuts.components.tune.step", *flags(parallel=1)]
    process = subprocess.Popen(
        argv, cwd=ROOT, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    logs = tmp_path / "store/searches"
    while not begun_after_two(logs):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = {path.name: path.read_bytes() for path in logs.rglob("0*.json") if b'"ok"' in path.read_bytes()}
    assert 2 <= len(done) < 4
    assert cli.run(tune, flags(parallel=1)) == 0
    records = table(tmp_path)
    assert len(records) == 4
    lost = sum(record["attempts"] - len(record["receipts"]) for record in records)
    receipt = json.loads((tmp_path / "out/receipt.json").read_text())
    assert receipt["facts"]["lost_attempts"] == lost == 1  # the killed search took its trial's receipt along
    assert {name: next(logs.rglob(name)).read_bytes() for name in done} == done


def begun_after_two(logs: Path) -> bool:
    """Two trials are done and another process has begun."""
    records = [json.loads(path.read_bytes()) for path in logs.rglob("0*.json")]
    states = Counter(record["state"] for record in records if record["attempts"])
    return states["ok"] == 2 and states["running"] == 1


def test_search_told_to_stop_ends_as_preempted_with_its_trials(flags, tmp_path):
    argv = [sys.executable, "-m", "deepcuts.components.tune.step", *flags()]
    process = subprocess.Popen(
        argv, cwd=ROOT, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    while not list((tmp_path / "store").rglob("0*.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert b"to resume" in process.communicate()[1] and process.returncode == 143
    assert not (tmp_path / "out/best.json").exists()


@pytest.mark.parametrize(
    ("changed", "code", "message"),
    [
        ({"space": '{"learning_rat": {"kind": "float", "min": 1, "max": 2}}'}, 2, "learning_rate"),
        ({"space": '{"budget_tokens": {"kind": "int", "min": 1, "max": 2}}'}, 2, "budget_tokens"),
        ({"space": '{"epochs": {"kind": "int", "min": 1, "max": 2}}'}, 2, "give search_min_tokens"),
        ({"space": '{"method": {"kind": "choice", "values": ["lora", "lorra"]}}'}, 2, "lorra"),
        ({"space": '{"beta1": {"kind": "float", "min": 0.5, "max": 2}}'}, 2, "beta1"),
        ({"space": "{}"}, 2, "space is empty"),
        ({"min_tokens": 10}, 2, "tokens_per_step"),
        ({"eta": 1}, 2, "eta 1"),
        ({"brackets": 3}, 2, "brackets 3"),
        ({"valid": os.devnull}, 3, ""),
    ],
)
def test_search_that_cannot_work_is_refused_before_the_first_trial(
    flags, tmp_path, capsys, changed, code, message
):
    if "valid" in changed:
        (tmp_path / "valid.jsonl").write_text("")
        changed = {}
    assert cli.run(tune, flags(**changed)) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "store/searches").exists() and not (tmp_path / "out/best.json").exists()


def test_search_whose_trials_all_fail_says_why(flags, tmp_path, capsys):
    assert cli.run(tune, flags(space='{"seq_len": {"kind": "choice", "values": [512]}}', eta=3)) == 3
    assert "seq_len" in capsys.readouterr().err
    files.remove(tmp_path / "out")
