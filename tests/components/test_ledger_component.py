"""The KFP face of the ledger: compiled, read back by kfp, and run for real."""

import json
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler, components, dsl

from deepcuts.components.ledger.component import ledger
from deepcuts.pipelines import pools, stages
from deepcuts.pipelines.placement import on
from deepcuts.pipelines.runner import local
from deepcuts.pipelines.runner.run_record import RunRecord
from tests.components.test_ledger import CPU
from tests.pipelines.toys.faces import fail, make, wait


@dsl.pipeline(name="charged")
def charged(nodepools: dict):
    bill = stages.task("ledger", ledger, stages.CPU, stages.BOOKKEEPING)(
        scorecards={},
        curves={},
        plans={},
        studies="",
        nodepools=nodepools,
        margin_nats=0.05,
    ).set_caching_options(False)
    with dsl.ExitHandler(bill, name="run"):
        on_cpu = {"cpu": 1, "memory": "1Gi", "max_hours": 1}
        good = make(text="x", number=1, rate=0.5, flag=True, words=["a"], config={})
        retried = fail(way="store", until=2)
        broken = fail(way="data", until=9)
        after = wait(source=broken.outputs["out"], seconds=0.0, checkpoint="")
        for task in (good, retried, broken, after):
            on(pools.named(stages.CPU), task, **on_cpu)
        retried.set_retry(1, backoff_duration="0s")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "charged.yaml"
    compiler.Compiler().compile(charged, str(path))
    return path


def test_exit_task_takes_parameters_only_and_kfp_reads_it_back(package):
    task = components.load_component_from_file(str(package)).pipeline_spec.root.dag.tasks["ledger"]
    assert not task.inputs.artifacts
    assert task.trigger_policy.strategy == task.trigger_policy.ALL_UPSTREAM_TASKS_COMPLETED


def test_ledger_of_a_failed_run_charges_what_ran(package, tmp_path):
    done = run(package, tmp_path)
    assert done.exit_code == 3 and done.tasks["ledger"].status == "done"
    assert done.tasks["wait"].status == "skipped"
    rows, book = read(done)
    assert {(row["task"], row["attempt"], row["end_reason"], row["pool"]) for row in rows} == {
        ("fail", 1, "infrastructure", "cpu"),
        ("fail", 2, "ok", "cpu"),
        ("fail_2", 1, "data", "cpu"),
        ("make", 1, "ok", "cpu"),
    }
    assert all(row["EffectiveCost"] is not None and not row["reused"] for row in rows)
    assert book["next_action"].startswith("fail_2 could not use its input: ")


def test_ledger_of_a_rerun_says_what_an_earlier_run_paid_for(package, tmp_path):
    first, _ = read(run(package, tmp_path, "first"))
    second, book = read(run(package, tmp_path, "second"))
    assert {row["task"]: row["reused"] for row in second} == {
        "fail": True,
        "fail_2": False,
        "make": True,
    }
    paid = {row["task"]: row["EffectiveCost"] for row in first}
    assert {row["task"]: row["EffectiveCost"] for row in second}["make"] == paid["make"]
    assert book["reused"]["usd"] >= paid["make"] > 0


def run(package: Path, folder: Path, name: str = "run") -> RunRecord:
    return local.run(
        package,
        {"nodepools": {"pools": [CPU]}},
        folder / name,
        parallel=2,
        fresh=False,
        cached=folder / "cache",
        show=lambda record: None,
    )


def read(done: RunRecord) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(charges, ledger) of a run."""
    folder = Path(done.tasks["ledger"].artifacts["ledger"])
    rows = [json.loads(line) for line in folder.joinpath("ledger.jsonl").open()]
    return rows, json.loads(folder.joinpath("ledger.json").read_text())
