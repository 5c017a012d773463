"""The compress pipeline: what is judged against what; and a run of all of it on a real model."""

import csv
import json
import sys
from typing import Any

import pytest

from deepcuts.components.core import files, receipts
from deepcuts.components.publish.pull import pull
from deepcuts.pipelines.command import cli, packages
from deepcuts.pipelines.runner import pipeline_spec, run_record
from tests.conftest import SHARED

BASE, DATA = SHARED / "models" / "stories260K", SHARED / "banking77" / "train.csv"


def producer(task: Any, name: str) -> str:
    return str(task.inputs.artifacts[name].task_output_artifact.producer_task)


def test_each_gate_judges_a_cut_against_the_model_it_was_made_of(tmp_path):
    package = tmp_path / "compress.yaml"
    packages.compile_to("compress", package)
    tasks = {name: leaf.task for name, leaf in pipeline_spec.leaves(pipeline_spec.read(package))}
    judged = tasks["judge"]
    assert (producer(judged, "model"), producer(judged, "base")) == ("heal", "fetch-model")
    assert producer(tasks["publish"], "model") == "judge"
    evidence = tasks["publish"].inputs.parameters["evidence"].runtime_value["constant"]
    assert (evidence["candidate"], evidence["verdict"]) == ("judge/served", "judge/served_verdict")
    assert evidence["reference"] == "judge/scorecard"  # of whichever model the first gate passed on
    splits = [judged.inputs.artifacts[name].task_output_artifact for name in ("valid", "split")]
    # a format is chosen on one split and judged on another
    assert [split.output_artifact_key for split in splits] == ["valid", "test"]


@pytest.mark.slow
@pytest.mark.skipif(not BASE.exists(), reason=f"no pretrained model at {BASE}")
@pytest.mark.parametrize("heal_method", ["none", "forward-kl"])
def test_a_pruned_healed_and_quantized_model_is_better_and_smaller_than_its_base(tmp_path, heal_method):
    with DATA.open(newline="") as source, (tmp_path / "data.csv").open("w", newline="") as target:
        csv.writer(target).writerows(row for number, row in enumerate(csv.reader(source)) if number <= 600)
    parameters = {
        "base_uri": str(BASE),
        "data_uri": "data.csv",
        "recipe": {"method": "full", "learning_rate": 2e-3, "budget_tokens": 40_000},
        "heal_method": heal_method,
        "max_examples": 40,
        "release_name": "small",
    }
    (tmp_path / "run.yaml").write_text(json.dumps(parameters))
    argv = ["deepcuts", "run", "compress", "-f", str(tmp_path / "run.yaml"), "--runs", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        cli.main()
    assert ended.value.code == 0
    (folder,) = (tmp_path / "runs").glob("compress-*")
    book = json.loads((folder / "tasks/ledger/outputs/ledger/ledger.json").read_text())
    loss = {name: card["completion_loss"]["mean"] for name, card in book["scorecards"].items()}
    assert loss["pruned"] < loss["before"] / 2  # this base knows nothing of the data, so healing teaches it
    assert book["verdict"] == "better" and book["total"]["unknown"] == 0
    fetched = folder / "tasks/fetch-model/outputs/model"
    accepted = folder / "tasks/judge/outputs/accepted"
    assert files.size_bytes(accepted) < 0.7 * files.size_bytes(fetched)
    tasks = run_record.read(folder).tasks
    assert all(task.status == "done" for task in tasks.values())
    healing = receipts.read(folder / "tasks/heal/outputs/receipt").facts
    assert healing["total_tokens"] <= 40_000 + 8192  # the budget, up to a step
    assert (healing.get("teacher_tokens", 0) > 0) == (heal_method != "none")  # its seconds are in the receipt
    served = tmp_path / "served"
    pull((tmp_path / "runs/store").as_uri(), "small", "latest", served)
    assert files.digest(served / "model.safetensors") == files.digest(accepted / "model.safetensors")
