"""The finetune pipeline on a real pretrained model and real data, through the command."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from deepcuts.pipelines import pools
from deepcuts.pipelines.command import cli
from deepcuts.pipelines.runner import run_record
from tests.conftest import SHARED

BASE, DATA = SHARED / "models" / "stories260K", SHARED / "banking77" / "train.csv"
pytestmark = pytest.mark.skipif(not BASE.exists(), reason=f"no pretrained model at {BASE}")


def finetune(folder: Path, **parameters: Any) -> int:
    """Exit code of ``deepcuts run finetune`` with these parameters, run in ``folder``."""
    (folder / "run.yaml").write_text(json.dumps({"base_uri": str(BASE), "data_uri": "data.csv"} | parameters))
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys,
            "argv",
            ["deepcuts", "run", "finetune", "-f", str(folder / "run.yaml"), "--runs", str(folder / "runs")],
        )
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def ledger(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tasks/ledger/outputs/ledger/ledger.json").read_text())


def test_unusable_data_ends_the_run_before_the_gpu_and_still_counts_the_cost(tmp_path):
    (tmp_path / "data.csv").write_text("text,category\n" + ",\n" * 9)
    assert finetune(tmp_path) == 3
    (folder,) = (tmp_path / "runs").glob("finetune-*")
    run = run_record.read(folder)
    statuses = {name: task.status for name, task in run.tasks.items()}
    assert statuses == {
        "fetch-model": "done",
        "prepare": "failed",
        "finetune": "skipped",
        "watch": "skipped",
        "evaluate-before": "skipped",
        "judge": "skipped",
        "publish": "skipped",
        "ledger": "done",
    }
    book = ledger(folder)
    lost = [book["by_task"][name]["usd"] for name in ("ingest", "prepare_start")]
    assert sum(lost) == pytest.approx(book["wasted"]["usd"]) and lost[0] > 0
    assert book["verdict"] == "not measured" and "ingest could not use its input" in book["next_action"]
    assert (folder / "report.html").read_text().lstrip().startswith("<!doctype html>")


@pytest.mark.slow
def test_finetuning_makes_the_answers_likelier_and_a_rerun_costs_nothing(tmp_path, capsys):
    with DATA.open(newline="") as source, (tmp_path / "data.csv").open("w", newline="") as target:
        csv.writer(target).writerows(row for number, row in enumerate(csv.reader(source)) if number <= 600)
    parameters = {"recipe": {"learning_rate": 3e-3, "budget_tokens": 60_000}, "max_examples": 40}
    assert finetune(tmp_path, **parameters) == 0
    (folder,) = (tmp_path / "runs").glob("finetune-*")
    book = ledger(folder)
    assert book["verdict"] == "better"
    before, after = (book["scorecards"][name]["completion_loss"]["mean"] for name in ("before", "after"))
    assert after < before / 2
    assert book["total"]["usd"] > 0 and book["total"]["unknown"] == 0
    printed = capsys.readouterr().out
    assert "completion_loss" in printed and str(folder / "report.html") in printed

    assert finetune(tmp_path, **parameters) == 0
    (again,) = {*(tmp_path / "runs").glob("finetune-*")} - {folder}
    tasks = run_record.read(again).tasks
    assert {name for name, task in tasks.items() if not task.cached} == {"publish", "ledger"}
    assert ledger(again)["reused"]["usd"] > 0.9 * book["total"]["usd"]


@pytest.mark.slow
def test_a_run_that_its_budget_ends_has_a_model_scores_and_a_ledger_that_says_so(tmp_path):
    with DATA.open(newline="") as source, (tmp_path / "data.csv").open("w", newline="") as target:
        csv.writer(target).writerows(row for number, row in enumerate(csv.reader(source)) if number <= 300)
    known = pools.prices()["pools"]
    fast = {"flops_per_second": 1e18, "usd_per_hour": 360.0}  # plan expects a minute; $0.1 a second
    parameters = {
        "recipe": {"learning_rate": 3e-3, "budget_tokens": 3_000_000},  # half an hour here
        "max_examples": 40,
        "nodepools": {"pools": [pool | fast if pool["name"] == "gpu" else pool for pool in known]},
        "quantize_candidates": ["gguf-q8_0"],
    }
    assert finetune(tmp_path, **parameters, budget_usd=0.5) == 2  # a minute alone is 6 dollars
    assert finetune(tmp_path, **parameters, budget_usd=8) == 0
    refused, folder = sorted((tmp_path / "runs").glob("finetune-*"))
    assert "the cheapest training" in run_record.read(refused).tasks["prepare"].message
    facts = json.loads((folder / "tasks/finetune/receipt.json").read_text())["facts"]
    assert facts["ended_by_budget"] and 0 < facts["total_tokens"] < 1_500_000
    assert facts["paid_seconds"] < 1.1 * facts["budget_seconds"] and 60 < facts["budget_seconds"] < 72
    book = ledger(folder)
    assert book["bound"]["ended"] == "finetune" and abs(book["bound"]["over_usd"]) < 1.5
    assert book["verdict"] == "better" and "raise budget_usd" in book["next_action"]
    assert run_record.read(folder).tasks["publish"].status == "done"
