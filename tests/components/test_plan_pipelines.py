"""``deepcuts plan`` of every pipeline: what its own plan decides in the run, and what each task takes."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deepcuts.components.core import carry
from deepcuts.components.plan.step import as_json
from deepcuts.pipelines import pools
from deepcuts.pipelines.command import compiled_plan, packages, whole_plan
from deepcuts.pipelines.command.whole_plan import WholePlan
from deepcuts.pipelines.runner import spec_types
from tests.pipelines.test_cli import deepcuts

EXAMPLES = Path(__file__).parents[2] / "pipelines" / "examples"
BASE = EXAMPLES / "base"
PIPELINES = ("compress", "distill", "finetune", "retrain", "tune", "tune_katib")
SMALL = {
    "data_uri": (EXAMPLES / "support.jsonl").as_uri(),
    "max_examples": 20,
    "max_tokens": 256,
    "recipe": {"budget_tokens": 8192, "tokens_per_step": 2048, "seq_len": 256},
}


SERVICE = {"service": "example", "usd_per_unit": 0.01, "predictions": 10_000, "retraining_usd": 1.0}


@cache
def pipeline(name: str) -> spec_types.Pipeline:
    return packages.read(name)


def planned(name: str, **given: Any) -> WholePlan:
    models = dict.fromkeys(compiled_plan.models(pipeline(name)), BASE.as_uri())
    return whole_plan.make(pipeline(name), models | SMALL | given, pools.read())


def by_task(whole: WholePlan) -> dict[str, Any]:
    return {row.task: row for row in whole.tasks}


@pytest.mark.slow  # 40 CPU seconds each: data are read and selected, and the training is rehearsed
@pytest.mark.parametrize("name", PIPELINES)
def test_the_plan_is_the_decision_of_the_task_that_prepares_in_the_run(name, tmp_path):
    models = dict.fromkeys(compiled_plan.models(pipeline(name)), BASE.as_uri())
    run = tmp_path / "run.yaml"
    run.write_text(json.dumps(models | SMALL | (SERVICE if name == "retrain" else {})))
    task = "prepare-data" if name in ("compress", "retrain") else "prepare"
    words = ("run", name, "-f", run, "--runs", tmp_path / "runs", "--until", task)
    assert deepcuts(*words) == 0
    (decision,) = (tmp_path / "runs").glob(f"{name.replace('_', '-')}-*/tasks/{task}/outputs/decision")
    assert json.loads(json.dumps(as_json(planned(name).decision))) == json.loads(decision.read_text())


def test_a_distillation_is_planned_with_its_teacher_and_a_control_of_equal_cost():
    whole, alone = planned("distill"), planned("distill", method="none")
    rows, without = by_task(whole), by_task(alone)
    assert rows["Distill"].hours_p50 > without["Distill"].hours_p50  # which asks nobody
    assert rows["Control"][1:6] == rows["Distill"][1:6]
    teacher, student = rows["Evaluate teacher"], rows["Evaluate student"]
    assert teacher.hours_p50 > student.hours_p50 == rows["Judge"].hours_p50  # every second layer is gone
    assert whole.usd[0] == pytest.approx(sum(row.usd_p50 for row in whole.tasks))
    assert whole.at_least and not whole.unbounded


def test_a_teacher_that_writes_takes_nobody_knows_how_long():
    whole = planned("distill", method="sequence")
    rows = by_task(whole)
    assert [rows[task].usd_p90 for task in ("Distill", "Control")] == [None, None]
    assert whole.at_least and whole.unbounded
    assert whole.usd[0] == pytest.approx(sum(row.usd_p50 or 0 for row in whole.tasks)) and whole.usd[0] > 0


def test_teacher_and_student_in_a_store_are_planned_from_their_configs_alone(tmp_path, s3_url):
    small = json.loads((BASE / "config.json").read_text()) | {"num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(small))
    carry.put(f"{s3_url}/teacher/config.json", BASE / "config.json")
    carry.put(f"{s3_url}/student/config.json", tmp_path / "config.json")
    there = {"teacher_uri": f"{s3_url}/teacher", "student_uri": f"{s3_url}/student"}
    whole = planned("distill", **there, layers="all")
    shutil.copytree(BASE, tmp_path / "here", ignore=shutil.ignore_patterns("config.json", "*.safetensors"))
    shutil.copy(tmp_path / "config.json", tmp_path / "here")
    here = planned("distill", student_uri=(tmp_path / "here").as_uri(), layers="all")
    assert whole == here
    assert (
        by_task(whole)["Distill"].hours_p50 < by_task(planned("distill", layers="all"))["Distill"].hours_p50
    )


def test_what_only_a_decision_starts_stands_apart_from_what_a_retraining_costs_in_any_case():
    whole = planned("retrain")
    conditional = {row.task for row in whole.tasks if row.conditional}
    assert conditional == {"Select", "Finetune", "Judge", "Publish"}
    (low, high), sure = whole.usd, whole.usd_unconditional
    assert low == pytest.approx(sum(row.usd_p50 for row in whole.tasks))
    assert sure[0] == pytest.approx(sum(row.usd_p50 for row in whole.tasks if not row.conditional))
    assert sure[1] < high
    total = whole_plan.as_json(whole)["total"]
    assert (total["usd_p50"], total["unconditional_usd_p90"]) == (low, sure[1])


def test_a_search_is_planned_with_the_tokens_of_its_rungs_and_its_best_trial_is_not_trained_twice():
    space = {"learning_rate": {"kind": "float", "min": 1e-5, "max": 1e-2, "log": True}}
    search = {"search_min_tokens": 2048, "search_max_tokens": 8192, "configurations": 9, "eta": 2}
    rows = by_task(planned("tune", space=space, **search))
    # 9 + 5 + 3 trainings of 2048, then 2048 and 4096 tokens more
    assert (
        rows["Tune"].of
        == f"17 trainings, {9 * 2048 + 5 * 2048 + 3 * 4096:,} tokens in all, each as the heaviest"
    )
    assert "the best trial" in rows["Finetune"].of
    longer = by_task(planned("tune", space=space, **search | {"search_max_tokens": 16384}))
    assert longer["Finetune"].of == "training" and longer["Tune"].hours_p50 > rows["Tune"].hours_p50


def test_trials_on_nodes_of_their_own_are_paid_for_beside_the_task_that_follows_them():
    whole = planned("tune_katib", pool="gpu", parallel=4, configurations=9)
    rows = by_task(whole)
    (trials,) = [row for row in whole.tasks if row.task.endswith("trials")]
    assert (trials.pool, rows["Tune"].pool) == ("gpu", "cpu")
    assert trials.hours_p50 == pytest.approx(4 * rows["Tune"].hours_p50)
    assert trials.usd_p50 == pytest.approx(trials.hours_p50 * pools.read()["gpu"].usd_per_hour)
    every = by_task(planned("tune_katib", pool="gpu", parallel=4, configurations=9, algorithm="random"))
    (alike,) = [row.of for name, row in every.items() if name.endswith("trials")]
    assert alike.startswith("9 trainings, 9,000,000 tokens")  # without rungs all are trained to the end


def test_measures_whose_work_nobody_knows_are_named():
    rows = by_task(planned("retrain", measures=["completion_loss", "exact_match"]))
    assert rows["Evaluate service"].of == "scoring, without exact_match"
    assert by_task(planned("retrain"))["Judge"].of == "scoring"


def test_an_unknown_price_is_unknown_in_the_sum():
    unknown = {name: msgspec.structs.replace(pool, usd_per_hour=None) for name, pool in pools.read().items()}
    given = {"service_uri": BASE.as_uri()} | SMALL
    whole = whole_plan.make(pipeline("retrain"), given, unknown)
    assert whole.usd == (None, None) and whole.unbounded and whole.at_least
    assert whole.node_hours[0] > 0  # which are known all the same
