"""``deepcuts plan`` and the question before a run: the whole pipeline, before anything is bought."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deepcuts.components.core import carry, recipe
from deepcuts.components.plan import architecture, scoring
from deepcuts.components.plan.choice import PlanTask
from deepcuts.components.plan.decision import PlanTerms, decide
from deepcuts.components.plan.placing import CompiledFor, Wish
from deepcuts.pipelines import pools
from deepcuts.pipelines.command import packages
from tests.components.hub import COMMIT, Hub
from tests.pipelines.test_cli import deepcuts

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "pipelines" / "examples" / "support.yaml"
BASE = ROOT / "pipelines" / "examples" / "base"
PLACES = {"base_uri": "base", "data_uri": "support.jsonl"}


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code = deepcuts("plan", "-f", str(EXAMPLE), "--json", *words)
    printed = capsys.readouterr()
    assert code == 0, printed.err
    found: dict[str, Any] = json.loads(printed.out)
    return found


def test_the_whole_pipeline_is_planned_with_every_pool_and_the_decision_is_that_of_the_run(capsys):
    made = planned(capsys)
    assert [row["task"] for row in made["tasks"]] == [
        "Fetch model",
        "Prepare",
        "Evaluate before",
        "Finetune",
        "Watch",
        "Judge",
        "Publish",
        "Ledger",
    ]
    given = {
        "method": "lora",
        "lora_rank": 16,
        "learning_rate": 5e-3,
        "budget_tokens": 450000,
        "tokens_per_step": 4096,
        "seq_len": 512,
    }
    # what the compiled task of plan is given
    wish = Wish("auto", "allowed", CompiledFor("nvidia.com/gpu"), watched=True)
    task = PlanTask(architecture.read(BASE), recipe.parse(given), answer_share=1.0)
    made_in_run = decide(task, pools.read(), wish, PlanTerms(), scoring.work(400, 256, ["auto"], "cpu"))
    best, scored = made_in_run.best, made_in_run.scoring
    assert made["chosen"]["pool"] == best.pool == "cpu" and best.estimate
    assert made["chosen"]["estimate"]["usd_p50"] == best.estimate.usd_p50
    rows = {row["task"]: row for row in made["tasks"]}
    assert rows["Finetune"]["pool"] == "cpu" and rows["Finetune"]["usd_p50"] == best.estimate.usd_p50
    assert rows["Watch"]["hours_p90"] == rows["Finetune"]["hours_p90"]  # it is held as long
    assert {rows[name]["pool"] for name in ("Evaluate before", "Judge")} == {scored.pool}
    assert made["scoring"]["chosen"]["usd_p50"] == scored.usd_p50
    assert rows["Evaluate before"]["usd_p50"] + rows["Judge"]["usd_p50"] == pytest.approx(scored.usd_p50)
    assert made["total"]["usd_p50"] == pytest.approx(sum(row["usd_p50"] for row in made["tasks"]))
    assert made["total"]["at_least"]  # nobody has read the data
    assert [(row["pool"], row["chosen"]) for row in made["pools"]] == [
        ("cpu", True),
        ("gpu-spot", False),
        ("gpu", False),
    ]
    assert all(row["usd_p50"] > made["pools"][0]["usd_p50"] for row in made["pools"][1:])


def test_the_wishes_of_the_run_file_are_kept(capsys):
    assert planned(capsys, "--set", "pool=gpu")["chosen"]["pool"] == "gpu"
    dear = {"pools": [pool | {"usd_per_hour": 50.0} for pool in pools.prices()["pools"]]}
    dear["pools"][2]["usd_per_hour"] = 0.328
    words = ["--set", f"nodepools={json.dumps(dear)}"]
    assert planned(capsys, *words)["chosen"]["pool"] == "gpu-spot"
    never = planned(capsys, *words, "--set", "spot=never")
    assert never["chosen"]["pool"] != "gpu-spot"
    (spot,) = [row for row in never["pools"] if row["pool"] == "gpu-spot"]
    assert spot["reason"].startswith("cheaper: -") and "spot is never" in spot["reason"]
    late = ["--set", "deadline_hours=0.001"]
    assert deepcuts("plan", "-f", str(EXAMPLE), *late) == 2
    assert "the fastest, gpu single x1" in capsys.readouterr().err
    assert planned(capsys, *late, "--deadline-hours", "10")["chosen"]["pool"] == "cpu"


def test_epochs_are_counted_in_the_data_before_anything_is_bought(capsys, tmp_path):
    given = EXAMPLE.read_text().replace("budget_tokens: 450000", "epochs: 3")
    assert "epochs: 3" in given
    text = re.sub(r"^(base_uri|data_uri): (?!\S*://)(\S+)", rf"\1: {EXAMPLE.parent}/\2", given, flags=re.M)
    (tmp_path / "run.yaml").write_text(text)
    assert deepcuts("plan", "-f", str(tmp_path / "run.yaml"), "--json") == 0
    made = json.loads(capsys.readouterr().out)
    found = re.match(r"at most ([\d,]+) tokens = 3 epochs", made["length"])
    tokens = int(found[1].replace(",", ""))
    assert planned(capsys, "--set", f"recipe.budget_tokens={tokens}")["chosen"] == made["chosen"]
    both = ["--set", "recipe.epochs=3"]
    assert deepcuts("plan", "-f", str(EXAMPLE), *both) == 2
    assert "epochs 3 and budget_tokens 450000: both say the same" in capsys.readouterr().err


def test_unknown_keys_and_wrong_values_are_refused_together(capsys):
    wrong = ("colour=red", "spot=maybe", "pool=gup", "confirm_above_usd=-1", "budget_usd=-1")
    words = [word for pair in wrong for word in ("--set", pair)]
    assert deepcuts("plan", "-f", str(EXAMPLE), *words) == 2
    said = capsys.readouterr().err
    for line in ("colour: unknown key", "spot: ", "node pool 'gup'", "confirm_above_usd: ", "budget_usd: "):
        assert line in said, line


def test_a_base_in_a_store_is_planned_from_its_config_alone(capsys, tmp_path, s3_url):
    carry.put(f"{s3_url}/base/config.json", BASE / "config.json")
    assert planned(capsys, "--set", f"base_uri={s3_url}/base")["chosen"]["pool"] == "cpu"
    assert deepcuts("plan", "-f", str(EXAMPLE), "--set", f"base_uri={s3_url}/none") == 3
    assert "none" in capsys.readouterr().err


def test_a_base_on_the_hub_is_planned_from_its_config_alone(tmp_path):
    folder = tmp_path / "repository"
    shutil.copytree(BASE, folder)
    with Hub("models/org/name", folder) as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache")}
        environment |= {"HF_HUB_DISABLE_XET": "1"}
        for uri in ("hf://org/name", f"hf://org/name@{COMMIT}"):
            hub.sent.clear()
            words = ["plan", "-f", str(EXAMPLE), "--set", f"base_uri={uri}", "--json"]
            command = [sys.executable, "-m", "deepcuts.pipelines.command.cli", *words]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["chosen"]["pool"] == "cpu"
            assert hub.sent == ["config.json"]


def test_a_run_that_may_cost_more_than_its_limit_is_not_started_without_a_yes(capsys, tmp_path, monkeypatch):
    runs = ["--runs", str(tmp_path / "runs"), "--until", "fetch-model", "-f", str(EXAMPLE)]
    assert deepcuts("run", "finetune", *runs, "--set", "confirm_above_usd=0.01") == 2
    said = capsys.readouterr().err
    assert "at least $0.0" in said and "above confirm_above_usd 0.01: pass --yes" in said
    assert not list((tmp_path / "runs").glob("finetune-*"))
    assert deepcuts("run", "finetune", *runs, "--set", "confirm_above_usd=100") == 0
    assert deepcuts("run", "finetune", *runs, "--set", "confirm_above_usd=0.01", "--yes") == 0


def test_a_limit_cannot_be_kept_where_a_task_is_not_predicted(capsys, tmp_path):
    places = [f"{name}={EXAMPLE.parent / value}" for name, value in PLACES.items()]
    sets = [word for one in [*places, "confirm_above_usd=1000"] for word in ("--set", one)]
    assert deepcuts("run", "compress", "--runs", str(tmp_path), "--until", "fetch-model", *sets) == 2
    assert "which may be above confirm_above_usd 1000: pass --yes" in capsys.readouterr().err


def test_a_model_that_is_not_given_is_asked_for_and_a_pipeline_without_a_plan_is_refused(capsys, tmp_path):
    assert deepcuts("plan", "distill") == 2
    said = capsys.readouterr().err
    assert "teacher_uri: missing: give" in said and "student_uri: missing: give" in said
    package = tmp_path / "distill.yaml"
    packages.compile_to("distill", package)
    package.write_text(package.read_text().replace("- --answer-share", "- --share"))
    given = ("--set", f"teacher_uri={BASE}", "--set", f"student_uri={BASE}")
    assert deepcuts("plan", package, *given) == 2
    assert "compiled by another version" in capsys.readouterr().err
    package.write_text(package.read_text().replace("- plan\n", "- plan=ledger\n"))
    assert deepcuts("plan", package, *given) == 2
    assert "no training to plan" in capsys.readouterr().err
