"""Studies: their files, the runs they ask for, and what is made of the results."""

import html
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from deepcuts.components.core import scorecards
from deepcuts.components.core.cli import write_json
from deepcuts.components.core.scorecards import Score
from deepcuts.components.ledger import charges, studied
from deepcuts.components.ledger.charges import charges as charged
from deepcuts.components.ledger.step import lines_of
from deepcuts.pipelines import pools
from deepcuts.pipelines.command import packages, report
from deepcuts.pipelines.run_file import settings
from deepcuts.pipelines.runner import pipeline_spec
from deepcuts.pipelines.runner.run_record import RunRecord, TaskRecord
from deepcuts.pipelines.studies import ablation, ablation_report, deposit, savings, study_spec
from deepcuts.pipelines.studies.savings import RunCost, TrialResult
from deepcuts.pipelines.studies.study_spec import Arm, Study, StudyTrial
from tests.components.test_ledger import POOLS, receipt
from tests.conftest import ROOT

FILES = sorted((packages.HERE / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_study_asks_for_runs_that_its_pipeline_takes(path, tmp_path):
    study = study_spec.read(path)
    assert study.name == path.stem
    pipeline = packages.read(study.pipeline)
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    parameters = pipeline.root.input_definitions.parameters
    needed = [name for name in parameters if name.endswith("uri") and parameters[name].default_value]
    base = (ROOT / "pipelines/examples/base").as_uri()
    given = {name: tmp_path.as_uri() if name in ("data_uri", "store_uri") else base for name in needed}
    wanted = {name for arm in study.arms for name in study.tasks(arm.name)}
    pipeline_spec.left_out(pipeline, sorted(wanted))  # refuses a name that is not there
    for arm in study.arms:
        task, _, output = study.judges(arm.name).partition("/")
        leaf = dict(pipeline_spec.leaves(pipeline))[task]
        assert output in leaf.component.output_definitions.artifacts
    found = list(study_spec.trials(study))
    assert len(set(found)) == len(found)
    for trial in found:
        arguments = settings.complete(pipeline, study_spec.parameters(study, trial, given), {})
        assert arguments["recipe"]["budget_tokens"] == trial.budget_tokens
        assert arguments["recipe"]["seed"] == arguments["data_seed"] == trial.seed


def test_a_study_that_names_arms_which_are_not_there_says_all_of_it(tmp_path):
    arms = [{"name": "a", "why": "", "against": ["x"]}, {"name": "a", "why": "", "search": ["y"]}]
    text = msgspec.json.encode(
        {"name": "s", "question": "?", "set": {}, "seeds": [0], "budgets": [1], "arms": arms}
    )
    (tmp_path / "s.yaml").write_bytes(text)
    with pytest.raises(ValueError, match=r"arm 'a' is given twice; the.*|.*'x'.*'y'") as error:
        study_spec.read(tmp_path / "s.yaml")
    assert "'x'" in str(error.value) and "'y'" in str(error.value)


def test_an_arm_may_run_other_tasks_beside_than_the_study():
    arms = (Arm(name="a", why=""), Arm(name="b", why="", beside=()))
    study = Study(name="s", question="?", set={}, seeds=(0,), budgets=(1,), beside=("Watch",), arms=arms)
    assert study.tasks("a") == ("judge", "Watch") and study.tasks("b") == ("judge",)


def test_an_arm_may_be_judged_by_another_task_than_the_study():
    arms = (Arm(name="a", why=""), Arm(name="b", why="", judged="judge/of_control"))
    study = Study(
        name="s",
        question="?",
        set={},
        seeds=(0,),
        budgets=(1,),
        judged="evaluate-student/scorecard",
        arms=arms,
    )
    assert study.tasks("a") == ("evaluate-student",) and study.tasks("b") == ("judge",)


def test_an_arm_on_one_pool_pays_its_price_for_every_task():
    arms = (Arm(name="a", why=""), Arm(name="b", why="", pool="gpu"))
    study = Study(name="s", question="?", set={}, seeds=(0,), budgets=(1,), arms=arms)
    paid = study_spec.parameters(study, StudyTrial("b", 1, 0), {})["nodepools"]["pools"]
    assert {pool["usd_per_hour"] for pool in paid} == {pools.named("gpu").usd_per_hour}
    assert "nodepools" not in study_spec.parameters(study, StudyTrial("a", 1, 0), {})
    own = {"pools": [{"name": "cpu", "usd_per_hour": 1.0}, {"name": "gpu", "usd_per_hour": 9.0}]}
    paid = study_spec.parameters(study, StudyTrial("b", 1, 0), {"nodepools": own})["nodepools"]["pools"]
    assert [pool["usd_per_hour"] for pool in paid] == [9.0, 9.0]
    with pytest.raises(ValueError, match="'tpu' is not among the node pools"):
        study_spec.at_price_of("tpu", own)


def cost(seconds: float) -> RunCost:
    return RunCost(seconds + 10, seconds, seconds + 10, seconds / 100, round(seconds), {})


def result(arm: str, budget: int, seed: int, loss: float, seconds: float) -> TrialResult:
    """20 examples of one token; noise that is the same for every arm of a seed."""
    nats = [loss + 0.01 * ((7 * i + seed) % 5) for i in range(20)]
    scores = [Score(f"q{i}", n, 1) for i, n in enumerate(nats)]
    return TrialResult(StudyTrial(arm, budget, seed), sum(nats) / 20, scores, cost(seconds))


STUDY = Study(
    name="s",
    question="?",
    set={},
    seeds=(0, 1, 2),
    budgets=(100, 200),
    reference="plain",
    joint="both",
    naive="bad",
    arms=(
        Arm(name="plain", why="", search=("tried",)),
        Arm(name="tried", why="", seeds=(0,), budgets=(200,)),
        Arm(name="good", why="", against=("plain",), adds="good"),
        Arm(name="bad", why="", against=("plain",), adds="bad"),
        Arm(name="both", why="", against=("plain", "good")),
    ),
)
LOSSES = {"plain": (2.0, 1.5), "good": (1.5, 1.4), "bad": (2.5, 2.5), "both": (1.5, 1.5)}
RESULTS = [
    *(
        result(arm, budget, seed, loss, budget)
        for arm, losses in LOSSES.items()
        for seed in range(3)
        for budget, loss in zip((100, 200), losses, strict=True)
    ),
    result("tried", 200, 0, 1.9, 200),
]


def test_cost_to_quality_is_the_smallest_rung_and_charges_the_search():
    found = {saving.arm: saving for saving in savings.find(STUDY, RESULTS, []).savings}
    assert set(found) == {"plain", "good", "bad", "both"}
    assert (found["plain"].budget_tokens, found["good"].budget_tokens) == (200, 100)
    assert found["plain"].cost.train_cpu_seconds == 200 + 200  # the run and its search
    assert found["good"].train_ratio == pytest.approx(400 / 100)
    assert found["good"].cpu_ratio == pytest.approx((210 + 210) / 110)


def test_an_arm_that_never_reaches_the_quality_bounds_its_ratio_by_what_it_spent():
    found = savings.find(STUDY, RESULTS, [])
    bad = next(saving for saving in found.savings if saving.arm == "bad")
    assert not bad.reached and bad.budget_tokens == 200 and bad.train_ratio == pytest.approx(400 / 200)
    assert found.naive_ratio == pytest.approx(200 / 100) and not found.naive_reached
    text = html.unescape(ablation_report.markdown(found).replace("\\", ""))
    assert "| bad | not by 200 | +1.000" in text and "| < 2.00 | < 2.00 |" in text
    assert "together they give 4.00, and more than 2.00 against the naive arm." in text


def test_predicted_product_takes_a_cut_that_never_pays_as_one():
    found = savings.find(STUDY, RESULTS, [])
    assert found.predicted_ratio == pytest.approx(4.0) and found.joint_ratio == pytest.approx(4.0)


def test_predicted_product_leaves_out_a_cut_that_costs_more():
    dear = [msgspec.structs.replace(r, cost=cost(1000)) if r.trial.arm == "good" else r for r in RESULTS]
    assert savings.find(STUDY, dear, []).predicted_ratio == pytest.approx(1.0)


def test_a_joint_arm_that_never_reaches_the_quality_has_no_ratio():
    lost = [r for r in RESULTS if r.trial.arm != "both"]
    lost += [result("both", budget, seed, 2.5, budget) for seed in range(3) for budget in (100, 200)]
    found = savings.find(STUDY, lost, [])
    assert found.joint_ratio is None and found.naive_ratio is None


def test_what_a_study_found_is_left_for_the_runs_that_train_as_its_arms_did(tmp_path):
    made = [
        msgspec.structs.replace(
            r,
            trainings=[{"training_id": f"{r.trial.arm}-{r.trial.budget_tokens}-{r.trial.seed}"}],
            ended_at=f"2026-11-2{r.trial.seed}T10:00:00+00:00",
            cost=cost(r.cost.train_cpu_seconds + 10 * r.trial.seed * (r.trial.arm == "good")),
        )
        for r in RESULTS
    ]
    record = deposit.record(STUDY, made)
    deposit.leave(record, tmp_path.as_uri())
    assert studied.read(tmp_path.as_uri()) == [record]
    arms = {(arm.arm, arm.budget_tokens): arm for arm in record.arms}
    assert record.date == "2026-11-22" and record.reference == "plain" and ("tried", 200) not in arms
    good = arms["good", 100]
    assert good.trainings == [[{"training_id": f"good-100-{seed}"}] for seed in range(3)]
    # plain's run and its search, 200 + 200, over 100, 110 and 120 seconds
    assert good.train_ratio == pytest.approx(400 / 110)
    assert (good.train_ratio_low, good.train_ratio_high) == pytest.approx((400 / 120, 400 / 100))
    assert good.comparison.non_inferior and not arms["bad", 200].comparison.non_inferior
    assert deposit.record(msgspec.structs.replace(STUDY, reference=""), made) is None


def test_rows_compare_with_the_named_arm_and_refusals_are_listed():
    found = savings.find(STUDY, RESULTS, ["good-100-1"])
    text = ablation_report.markdown(found)
    assert "bad at 200 tokens: worse than plain, +1.000" in text
    assert "both at 200 tokens: worse than good, +0.100" in text and text.count("| both | 200 | 3 |") == 2
    assert "bad: the reference's quality at no budget up to 200 tokens" in text and "good-100-1" in text
    assert "Single cuts multiply to 4.00 times less training cost; together they give 4.00" in text
    page = ablation_report.page(found)
    assert page.count("<svg") == 2 and "<script" not in page and len(page) < 300_000
    assert "mathdefault" not in page


def test_what_steps_said_stands_once_with_its_arms_and_apart_from_refusals():
    told = {"compile": "off: not tried", "candidate": "passed on", "checkpointing": "off"}
    talking = [
        msgspec.structs.replace(r, cost=msgspec.structs.replace(r.cost, verdicts=told))
        for r in RESULTS
        if r.trial.arm in ("plain", "good")
    ]
    text = ablation_report.markdown(savings.find(STUDY, talking, []))
    assert text.count("compile: off: not tried (plain, good)") == 1
    assert "passed on" not in text and "checkpointing" not in text


def test_a_model_as_given_has_no_place_on_the_axis_of_cost():
    given = [result("plain", 200, seed, 1.5, 0) for seed in range(3)]
    study = msgspec.structs.replace(STUDY, reference="", joint="", naive="")
    with warnings.catch_warnings(action="error"):
        chart = ablation_report.quality(savings.find(study, given, []).rows)
    assert "plain" not in str(chart)


def test_results_of_fewer_seeds_compare_over_the_seeds_that_both_have():
    some = [r for r in RESULTS if r.trial.arm == "plain" or r.trial.seed < 2]
    rows = {(row.arm, row.budget_tokens): row for row in savings.find(STUDY, some, []).rows}
    assert rows["good", 200].seeds == rows["good", 200].comparisons["plain"].seeds == 2


def test_no_trial_can_go_on_from_the_checkpoints_of_another(tmp_path):
    found = list(study_spec.trials(STUDY))
    stores = {ablation.arguments_of(STUDY, trial, {}, tmp_path)["store_uri"] for trial in found}
    assert len(stores) == len(found)


MINI = """
name: mini
question: Does packing pay?
set: {recipe: {method: full}}
seeds: [0, 1]
budgets: [4096]
margin_nats: 0.2
reference: padded
arms:
  - {name: padded, why: a row for each example, set: {recipe.packing: false}}
  - {name: packed, why: several in a row, against: [padded]}
"""


def ran(trial: StudyTrial, study: Study, given: dict[str, Any], place: Path) -> None:
    """Leave what a finished trial leaves: its record, the judge's Scorecard, the ledger."""
    folder = place / trial.folder
    nats = [1.0 + i / 10 for i in range(8)]
    scores = [Score(f"q{i}", value, 1) for i, value in enumerate(nats)]
    scorecards.write(folder / "card", scorecards.summarise(scores, "m", "s", 0), scores)
    seconds = 50.0 if trial.arm == "packed" else 100.0
    facts = {
        "training_id": f"{trial.arm}{trial.seed}",
        "train_seconds": seconds,
        "train_cpu_seconds": seconds,
    }
    rows = charged({"finetune": [receipt("finetune", "cpu", seconds, facts=facts)]}, POOLS)
    (folder / "ledger").mkdir()
    (folder / "ledger/ledger.jsonl").write_bytes(lines_of(rows))
    tasks = {
        name: TaskRecord(name=name, step=name, pool="cpu", status="done", artifacts=artifacts)
        for name, artifacts in {
            "judge": {"candidate": str(folder / "card")},
            "ledger": {"ledger": str(folder / "ledger")},
        }.items()
    }
    record = RunRecord(
        pipeline="finetune",
        package_digest="",
        arguments=ablation.arguments_of(study, trial, given, place),
        parallel=1,
        started_at="2026-11-29T10:00:00+00:00",
        ended_at="2026-11-30T10:00:00+00:00",
        status="done",
        tasks=tasks,
    )
    write_json(folder / "run.json", record)


def test_ablate_leaves_what_it_found_in_the_store_of_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini.yaml").write_text(MINI)
    (tmp_path / "t.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "run.yaml").write_text(f"base_uri: {ROOT}/pipelines/examples/base\ndata_uri: t.jsonl\n")
    study, (given, _) = study_spec.read(Path("mini.yaml")), settings.given(Path("run.yaml"), [])
    for trial in study_spec.trials(study):
        ran(trial, study, given, tmp_path / "runs/mini")
    with pytest.raises(typer.Exit) as ended:
        report.ablate(Path("mini.yaml"), Path("run.yaml"), [], Path("runs"), parallel=1)
    assert ended.value.exit_code == 0 and "studies/mini.json" in capsys.readouterr().out
    rows = charged({"finetune": [receipt("finetune", "cpu", 1.0, facts={"training_id": "packed1"})]}, POOLS)
    (found,) = studied.savings(studied.read((tmp_path / "runs/store").as_uri()), rows)
    assert found.saves and found.what.startswith("took 0.50 of the training CPU time (0.50 to 0.50 by seed)")
    assert "study mini of 2026-11-30, 2 seeds, arm packed, 4,096 tokens" in found.what


def test_a_file_of_results_is_all_that_another_machine_needs_to_go_on(tmp_path, monkeypatch):
    (tmp_path / "mini.yaml").write_text(MINI)
    study, found = study_spec.read(tmp_path / "mini.yaml"), []
    for machine in ("first", "second"):
        (tmp_path / machine).mkdir()
        (tmp_path / machine / "t.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
        given = {"data_uri": (tmp_path / machine / "t.jsonl").as_uri()}
        place = tmp_path / machine / "runs/mini"
        if machine == "first":
            for trial in study_spec.trials(study):
                ran(trial, study, given, place)
                (place / trial.folder / "store/trainings").mkdir(parents=True)
        else:
            place.mkdir(parents=True)
            shutil.copy(tmp_path / "first/runs/mini/results.jsonl", place)
        found.append(ablation.run(study, given, place, parallel=1, say=lambda _: None))
    assert found[0] == found[1] and len(found[0]) == 4
    assert not list((tmp_path / "first").rglob("store"))  # a gigabyte of checkpoints each
    assert not list((tmp_path / "second").rglob("run.json"))  # nothing was run again

    (tmp_path / "second/t.jsonl").write_text('{"prompt": "a", "completion": "other data"}\n')
    monkeypatch.setattr(sys, "executable", "/bin/false")  # no trial may succeed
    assert ablation.run(study, given, place, parallel=1, say=lambda _: None) == []


@pytest.mark.slow  # minutes: every arm is a whole pipeline
def test_smoke_study_runs_every_arm_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # as a user does: everything is relative to where they are
    (tmp_path / "tickets.jsonl").symlink_to(packages.HERE / "examples/support.jsonl")
    words = [f"base_uri={(packages.HERE / 'examples/base').as_uri()}", "data_uri=tickets.jsonl"]
    with pytest.raises(typer.Exit) as ended:
        report.ablate(packages.HERE / "studies/smoke.yaml", None, words, Path("runs"), parallel=2)
    assert ended.value.exit_code == 0
    first = (tmp_path / "runs/smoke/ablation.json").read_bytes()
    (record,) = studied.read((tmp_path / "runs/store").as_uri())
    trial = tmp_path / "runs/smoke/length-8192-1"
    rows = charges.read(trial / "tasks/ledger/outputs/ledger/ledger.jsonl")
    (found,) = studied.matching([record], rows)
    assert (found.arm.arm, found.arm.budget_tokens) == ("length", 8192)
    with pytest.raises(typer.Exit):
        report.ablate(packages.HERE / "studies/smoke.yaml", None, words, Path("runs"), parallel=2)
    assert (tmp_path / "runs/smoke/ablation.json").read_bytes() == first
