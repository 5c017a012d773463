"""The KFP face of the ledger: compiled, read back by kfp, and run for real."""

import inspect
import json
from pathlib import Path

import pytest
from kfp import compiler, components, dsl

from components.ledger.component import ledger_of
from components.ledger.step import ledger
from pipelines.command.settings import pool
from pipelines.placement import on
from pipelines.runner import local
from tests.components.test_ledger import CPU
from tests.pipelines.toys.faces import fail, make, wait

ledger_of_two = ledger_of(("make", "wait"), ("before",), ())


def test_component_passes_the_flags_its_step_accepts():
    args = ledger_of_two.component_spec.implementation.container.args
    flags = {f"--{name.replace('_', '-')}" for name in inspect.signature(ledger).parameters}
    assert set(args[::2]) == flags | {"--receipt", "--executor-input"}


def test_component_embeds_every_path_under_its_name():
    args = ledger_of_two.component_spec.implementation.container.args
    given = dict(zip(args[::2], args[1::2], strict=True))
    assert json.loads(given["--receipts"]) == {
        "make": "{{$.inputs.artifacts['receipt_make'].path}}",
        "wait": "{{$.inputs.artifacts['receipt_wait'].path}}",
    }
    assert json.loads(given["--scorecards"]) == {"before": "{{$.inputs.artifacts['scorecard_before'].path}}"}
    assert json.loads(given["--curves"]) == json.loads(given["--plans"]) == {}


@dsl.pipeline(name="charged")
def charged(nodepools: dict):
    on_cpu = {"cpu": 1, "memory": "1Gi", "max_hours": 1}
    good = make(text="x", number=1, rate=0.5, flag=True, words=["a"], config={})
    retried = fail(way="store", until=2)
    broken = fail(way="data", until=9)
    after = wait(source=broken.outputs["out"], seconds=0.0, checkpoint="")
    for task in (good, retried, broken, after):
        on(pool("cpu"), task, **on_cpu)
    retried.set_retry(1, backoff_duration="0s")
    tasks = {"good": good, "retried": retried, "broken": broken, "after": after}
    paths = {f"receipt_{name}": task.outputs["receipt"] for name, task in tasks.items()}
    bill = ledger_of(tuple(tasks), (), ())(nodepools=nodepools, margin_nats=0.05, **paths)
    on(pool("cpu"), bill.ignore_upstream_failure(), **on_cpu)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "charged.yaml"
    compiler.Compiler().compile(charged, str(path))
    return path


def test_pipeline_with_a_ledger_compiles_and_kfp_reads_it_back(package):
    task = components.load_component_from_file(str(package)).pipeline_spec.root.dag.tasks["ledger"]
    assert len(task.inputs.artifacts) == 4
    assert task.trigger_policy.strategy == task.trigger_policy.ALL_UPSTREAM_TASKS_COMPLETED


def test_ledger_of_a_failed_run_charges_what_ran_and_counts_what_did_not(package, tmp_path):
    done = local.run(
        package,
        {"nodepools": {"pools": [CPU]}},
        tmp_path / "run",
        parallel=2,
        fresh=True,
        cached=tmp_path / "cache",
        show=lambda record: None,
    )
    assert done.exit_code == 3 and done.tasks["ledger"].status == "done"
    folder = Path(done.tasks["ledger"].artifacts["ledger"])
    rows = [json.loads(line) for line in folder.joinpath("ledger.jsonl").open()]
    assert [(row["task"], row["attempt"], row["end_reason"], row["pool"]) for row in rows] == [
        ("good", 1, "ok", "cpu"),
        ("retried", 1, "infrastructure", "cpu"),
        ("retried", 2, "ok", "cpu"),
        ("broken", 1, "data", "cpu"),
        ("after", 1, "no receipt", "unknown"),
    ]
    assert [row["EffectiveCost"] is None for row in rows] == [False, False, False, False, True]
    book = json.loads(folder.joinpath("ledger.json").read_text())
    assert book["next_action"].startswith("broken ended with data (and 1 more failed): correct its input")
