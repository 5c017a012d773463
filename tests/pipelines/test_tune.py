"""The tune pipeline: the best recipe reaches the last training; and a run of all of it."""

import csv
import json
import sys

import pytest

from deepcuts.pipelines.command import cli, packages
from deepcuts.pipelines.runner import pipeline_spec, run_record
from tests.conftest import SHARED

BASE, DATA = SHARED / "models" / "stories260K", SHARED / "banking77" / "train.csv"


def test_the_last_training_takes_the_recipe_that_the_search_found_and_the_same_data(tmp_path):
    package = tmp_path / "tune.yaml"
    packages.compile_to("tune", package)
    leaves = dict(pipeline_spec.leaves(pipeline_spec.read(package)))
    search, last = leaves["tune"].task.inputs, leaves["finetune"].task.inputs
    made = last.parameters["recipe"].task_output_parameter
    assert made and made.output_parameter_key == "best_recipe"
    assert last.artifacts == search.artifacts
    assert last.parameters["store"] == search.parameters["store"]
    assert {pipeline_spec.place(leaves[name].placement) for name in ("tune", "finetune")} == {"train"}
    judging = [leaves[name].task.inputs.artifacts for name in ("evaluate-before", "judge")]
    tested = {given["split"].task_output_artifact for given in judging}
    assert {split.output_artifact_key for split in tested if split} == {"test"}  # trials see valid only


@pytest.mark.slow
@pytest.mark.skipif(not BASE.exists(), reason=f"no pretrained model at {BASE}")
def test_the_best_trial_is_the_last_training_and_the_search_is_on_the_bill(tmp_path):
    with DATA.open(newline="") as source, (tmp_path / "data.csv").open("w", newline="") as target:
        csv.writer(target).writerows(row for number, row in enumerate(csv.reader(source)) if number <= 400)
    parameters = {
        "base_uri": str(BASE),
        "data_uri": "data.csv",
        "recipe": {"method": "full", "budget_tokens": 45_000, "tokens_per_step": 2048},
        "space": {"learning_rate": {"kind": "choice", "values": [3e-3, 1e-5, 1e-6]}},
        "search_min_tokens": 15_000,
        "search_max_tokens": 45_000,
        "configurations": 3,
        "max_examples": 30,
    }
    (tmp_path / "run.yaml").write_text(json.dumps(parameters))
    argv = ["deepcuts", "run", "tune", "-f", str(tmp_path / "run.yaml"), "--runs", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        cli.main()
    assert ended.value.code == 0
    (folder,) = (tmp_path / "runs").glob("tune-*")
    run = run_record.read(folder)
    assert run.tasks["tune"].parameters["best_recipe"]["learning_rate"] == 3e-3
    book = json.loads((folder / "tasks/ledger/outputs/ledger/ledger.json").read_text())
    assert book["verdict"] == "better" and book["total"]["unknown"] == 0
    assert book["by_task"]["tune"]["usd"] > book["by_task"]["finetune"]["usd"] > 0
    assert book["by_task"]["finetune"]["tokens"] == 0  # its checkpoint is the best trial's
    assert book["by_task"]["tune"]["tokens"] == pytest.approx(5 * 15_000, rel=0.2)
