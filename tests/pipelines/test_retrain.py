"""The retrain pipeline on the bundled example, through the command: real training, real decisions."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from deepcuts.components.core import files
from deepcuts.components.publish.pull import pull
from deepcuts.pipelines.command import cli, packages
from deepcuts.pipelines.examples import make_base
from deepcuts.pipelines.runner import pipeline_spec, run_record

EXAMPLES = Path(make_base.__file__).parent


@pytest.fixture
def window(tmp_path: Path) -> Path:
    """A folder with 300 rows of the example's corpus as the new window."""
    lines = (EXAMPLES / "support.jsonl").read_text().splitlines()[:300]
    (tmp_path / "window.jsonl").write_text("\n".join(lines))
    return tmp_path


def retrain(folder: Path, **parameters: Any) -> tuple[run_record.RunRecord, Path]:
    """What ``deepcuts run retrain`` did with these parameters, and where."""
    values = {
        "service_uri": str(EXAMPLES / "base"),
        "data_uri": "window.jsonl",
        "store_uri": (folder / "store").as_uri(),
        "service": "support",
        "release_name": "support",
        "window": "2026-W48",
        "usd_per_unit": 0.01,
        "predictions": 10_000,
        "retraining_usd": 1.0,
        "max_tokens": 256,
        "max_examples": 10,
        "recipe": {"learning_rate": 5e-3, "budget_tokens": 4000, "tokens_per_step": 1024},
    }
    (folder / "run.yaml").write_text(json.dumps(values | parameters))
    before = {*folder.glob("runs/retrain-*")}
    words = ["deepcuts", "run", "retrain", "-f", str(folder / "run.yaml"), "--runs", str(folder / "runs")]
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        cli.main()
    assert ended.value.code == 0
    (made,) = {*folder.glob("runs/retrain-*")} - before
    return run_record.read(made), made


def statuses(run: run_record.RunRecord) -> dict[str, str]:
    return {name.rpartition(".")[2]: task.status for name, task in run.tasks.items()}


def outputs(folder: Path, task: str) -> Path:
    (found,) = [path for path in folder.glob("tasks/*/outputs") if path.parent.name.split(".")[-1] == task]
    return found


def test_only_a_retraining_releases_and_only_after_it_was_held_against_the_model_in_service(tmp_path):
    package = tmp_path / "retrain.yaml"
    packages.compile_to("retrain", package)
    leaves = {
        name.rpartition(".")[2]: (name, leaf.task)
        for name, leaf in pipeline_spec.leaves(pipeline_spec.read(package))
    }
    (name, release), (judged, gate) = leaves["publish"], leaves["judge"]
    assert name.startswith("condition-") and name.rpartition(".")[0] == judged.rpartition(".")[0]
    assert release.inputs.artifacts["model"].task_output_artifact.producer_task == "judge"
    evidence = release.inputs.parameters["evidence"].runtime_value["constant"]
    assert evidence["reference"] == "evaluate-service/scorecard"
    assert "evaluate-service-scorecard" in gate.inputs.artifacts["reference"].component_input_artifact


@pytest.mark.slow
def test_a_window_that_calls_for_it_is_retrained_once_and_waiting_trains_nothing(window):
    first, folder = retrain(window, policy="always")
    assert statuses(first)["finetune"] == statuses(first)["judge"] == statuses(first)["publish"] == "done"
    pull((window / "store").as_uri(), "support", "latest", window / "served")
    card = json.loads((window / "served" / "scorecard" / "scorecard.json").read_text())
    assert card["model_digest"] == files.digest(outputs(folder, "judge") / "accepted")
    book = json.loads((outputs(folder, "ledger") / "ledger" / "ledger.json").read_text())
    assert book["by_task"]["finetune"]["usd"] > 0 and {"before", "after"} <= book["scorecards"].keys()

    again, _ = retrain(window, policy="always")
    assert statuses(again)["finetune"] == statuses(again)["publish"] == "skipped"

    waiting, folder = retrain(window, policy="res", window="2026-W49")
    assert statuses(waiting)["finetune"] == "skipped"
    assert json.loads((outputs(folder, "retrain") / "decision").read_text())["retrain"] is False
    book = json.loads((outputs(folder, "ledger") / "ledger" / "ledger.json").read_text())
    assert book["by_task"]["retrain"]["usd"] > 0 and "finetune" not in book["by_task"]
