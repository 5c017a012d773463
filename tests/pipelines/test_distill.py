"""The distill pipeline: the control is given what the teacher was worth; and a run of all of it."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from deepcuts.components.core import files
from deepcuts.components.publish.pull import pull
from deepcuts.pipelines.command import cli, packages
from deepcuts.pipelines.runner import pipeline_spec, run_record
from tests.conftest import SHARED

TEACHER, DATA = SHARED / "models" / "stories260K", SHARED / "banking77" / "train.csv"


def test_the_control_trains_for_what_the_teacher_was_worth(tmp_path):
    package = tmp_path / "distill.yaml"
    packages.compile_to("distill", package)
    tasks = {name: leaf.task for name, leaf in pipeline_spec.leaves(pipeline_spec.read(package))}
    student, control = tasks["distill"].inputs.parameters, tasks["control"].inputs.parameters
    differ = {name for name in student if student[name] != control[name]}
    assert differ == {"method", "extra_tokens"}
    assert control["method"].runtime_value == {"constant": "none"}
    made = control["extra_tokens"].task_output_parameter
    assert made and made.output_parameter_key == "worth_tokens"


def test_what_is_released_is_what_the_last_gate_passed_on(tmp_path):
    package = tmp_path / "distill.yaml"
    packages.compile_to("distill", package)
    tasks = {name: leaf.task for name, leaf in pipeline_spec.leaves(pipeline_spec.read(package))}
    given = tasks["publish"].inputs.artifacts
    assert given["model"].task_output_artifact.producer_task == "judge"
    evidence = tasks["publish"].inputs.parameters["evidence"].runtime_value["constant"]
    assert (evidence["verdict"], evidence["accept_receipt"]) == ("judge/verdict", "judge/receipt")
    assert (evidence["candidate"], evidence["reference"]) == ("judge/of_best", "evaluate-teacher/scorecard")
    made = tasks["judge"].inputs.artifacts["of_teacher"].task_output_artifact
    assert f"{made.producer_task}/{made.output_artifact_key}" == evidence["reference"]


@pytest.mark.slow
@pytest.mark.skipif(not TEACHER.exists(), reason=f"no pretrained model at {TEACHER}")
def test_a_teacher_that_knows_nothing_is_beaten_by_the_control_and_a_rerun_costs_nothing(tmp_path):
    with DATA.open(newline="") as source, (tmp_path / "data.csv").open("w", newline="") as target:
        csv.writer(target).writerows(row for number, row in enumerate(csv.reader(source)) if number <= 300)
    parameters: dict[str, Any] = {
        "teacher_uri": str(TEACHER),
        "student_uri": str(TEACHER),
        "data_uri": "data.csv",
        "recipe": {"method": "full", "learning_rate": 1e-3, "budget_tokens": 20_000},
        "max_examples": 30,
    }
    (tmp_path / "run.yaml").write_text(json.dumps(parameters))
    run, folder = distilled(tmp_path)
    book = json.loads((folder / "tasks/ledger/outputs/ledger/ledger.json").read_text())
    loss = {name: card["completion_loss"]["mean"] for name, card in book["scorecards"].items()}
    assert loss["after"] == loss["control"] < loss["student"]  # this teacher knows nothing of the data
    assert book["by_task"]["distill"]["usd"] > 0 and book["total"]["unknown"] == 0
    pull((tmp_path / "runs/store").as_uri(), "model", "latest", tmp_path / "served")
    weights = folder / "tasks/judge/outputs/accepted/model.safetensors"
    assert files.digest(tmp_path / "served" / weights.name) == files.digest(weights)
    worth = run.tasks["distill"].parameters["worth_tokens"]
    tokens = {task: book["by_task"][task]["tokens"] for task in ("distill", "control")}
    assert tokens["control"] == pytest.approx(tokens["distill"] + worth, abs=2 * 8192)
    again, _ = distilled(tmp_path)
    assert {name for name, task in again.tasks.items() if not task.cached} == {"publish", "ledger"}


def distilled(folder: Path) -> tuple[run_record.RunRecord, Path]:
    """The run that ``deepcuts run distill`` made in ``folder``, and its own folder."""
    before = {*(folder / "runs").glob("distill-*")}
    argv = ["deepcuts", "run", "distill", "-f", str(folder / "run.yaml"), "--runs", str(folder / "runs")]
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        cli.main()
    assert ended.value.code == 0
    (made,) = {*(folder / "runs").glob("distill-*")} - before
    return run_record.read(made), made
