"""The ledger's sums and verdicts, from argv to files."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.core import cli, scorecards
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.receipts import Meter, Receipt
from deepcuts.components.core.scorecards import Comparison, Score
from deepcuts.components.ledger import charges as ledger_lines
from deepcuts.components.ledger.charges import charges, total, totals
from deepcuts.components.ledger.ledger import balance, next_action, verdict
from deepcuts.components.ledger.outcome import lengths
from deepcuts.components.ledger.step import gather, ledger

CPU = {
    "name": "cpu",
    "selector": {"node-pool": "cpu"},
    "cpu_cores": 4,
    "memory_bytes": 2**34,
    "usd_per_hour": 0.36,  # 0.0001 a second
    "price_source": "price sheet",
    "price_date": "2026-11-20",
}
SPOT = CPU | {"name": "l4-spot", "usd_per_hour": 1.8, "spot": True}  # 0.0005 a second
LAB = {key: value for key, value in CPU.items() if "price" not in key and "usd" not in key} | {"name": "lab"}
POOLS = {pool["name"]: msgspec.convert(pool, NodePool) for pool in (CPU, SPOT, LAB)}


def receipt(step: str, pool: str, wall_seconds: float, **known: Any) -> Receipt:
    fields: dict[str, Any] = {
        "step": step,
        "pool": pool,
        "attempt": 1,
        "started_at": "2026-11-24T10:00:00.000+00:00",
        "wall_seconds": wall_seconds,
        "cpu_seconds": wall_seconds / 2,
        "device_seconds": 0.0,
        "peak_resident_bytes": 2**29,
        "peak_device_bytes": 0,
        "tokens": 0,
        "end_reason": "ok",
        "facts": {},
    }
    return Receipt(**(fields | known))


class LedgerRun:
    """A folder with the receipts, scorecards and curves of a run, and the ledger made of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.receipts: dict[str, str] = {}
        self.scorecards: dict[str, str] = {}
        self.curves: dict[str, str] = {}
        self.plans: dict[str, str] = {}

    def task(self, name: str, *attempts: Receipt) -> None:
        """Earlier attempts lie beside the last one, as the local runner leaves them."""
        place = self.folder / f"task-{len(self.receipts)}" / "receipt"
        place.parent.mkdir()
        for earlier in attempts[:-1]:
            place.with_name(f"receipt.attempt-{earlier.attempt}").write_bytes(msgspec.json.encode(earlier))
        for last in attempts[-1:]:
            place.write_bytes(msgspec.json.encode(last))
        self.receipts[name] = str(place)

    def scorecard(self, name: str, nats: float, ids: range = range(40)) -> None:
        """Every example ``nats`` a token, give or take the same for all models."""
        scores = [Score(id=str(i), answer_nats=4 * (nats + i % 5 / 10), answer_tokens=4) for i in ids]
        place = self.folder / f"scorecard-{name}"
        scorecards.write(place, scorecards.summarise(scores, "model", "split", seed=0), scores)
        self.scorecards[name] = str(place)

    def close(self, *pools: dict[str, Any], **more: str) -> int:
        """Run the step; its exit code."""
        flags = {
            "--run": "",
            "--receipts": json.dumps(self.receipts),
            "--scorecards": json.dumps(self.scorecards),
            "--curves": json.dumps(self.curves),
            "--plans": json.dumps(self.plans),
            "--studies": "",
            "--nodepools": json.dumps({"pools": pools or (CPU, SPOT, LAB)}),
            "--margin-nats": "0.05",
            **{f"--{name}": str(self.folder / name) for name in ("ledger", "summary", "report", "receipt")},
            **{f"--{name.replace('_', '-')}": value for name, value in more.items()},
        }
        return cli.run(ledger, [word for pair in flags.items() for word in pair])

    @property
    def book(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "ledger" / "ledger.json").read_text())
        return found

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "ledger" / "ledger.jsonl").open()]

    @property
    def summary(self) -> str:
        return (self.folder / "summary").read_text()

    @property
    def report(self) -> str:
        return (self.folder / "report").read_text()

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / "receipt").read_text())["facts"]
        return facts


@pytest.fixture
def run(tmp_path: Path) -> LedgerRun:
    return LedgerRun(tmp_path)


def test_ledger_of_two_pools_and_a_failed_attempt_adds_up_to_the_cent(run):
    run.task("fetch", receipt("fetch", "cpu", 100.0))  # 0.01
    run.task(
        "finetune",
        receipt("finetune", "l4-spot", 600.0, end_reason="preempted"),  # 0.30, lost
        receipt("finetune", "l4-spot", 1200.0, attempt=2, tokens=1_000_000),  # 0.60
    )
    run.task("evaluate", receipt("evaluate", "cpu", 50.0))  # 0.005
    assert run.close() == 0
    assert run.book["total"] == {"usd": 0.915, "unknown": 0, "node_seconds": 1950.0, "tokens": 1_000_000}
    assert run.book["wasted"]["usd"] == 0.3
    assert {name: group["usd"] for name, group in run.book["by_task"].items()} == {
        "fetch": 0.01,
        "finetune": 0.9,
        "evaluate": 0.005,
    }
    assert {name: group["usd"] for name, group in run.book["by_pool"].items()} == {
        "cpu": 0.015,
        "l4-spot": 0.9,
    }
    assert {name: group["usd"] for name, group in run.book["by_cut"].items()} == {
        "fine-tune, don't pretrain": 0.91,
        "no cut": 0.005,
    }
    assert run.facts["usd"] == 0.915 and run.facts["wasted_usd"] == 0.3
    assert "$0.9150" in run.summary.splitlines()[0] and "$0.9150" in run.report


def test_ledger_reads_back_what_it_wrote(run):
    one = receipt("finetune", "l4-spot", 90.5, tokens=7, end_reason="gate", facts={"steps": 3})
    run.task("finetune", one)
    assert run.close() == 0
    path = run.folder / "ledger" / "ledger.jsonl"
    [row] = ledger_lines.read(path)
    assert (row.usd, row.facts, row.tokens, row.end_reason) == (0.04525, {"steps": 3}, 7, "gate")
    path.write_text('{"task": "x"}\n')
    with pytest.raises(DataError, match="not a ledger of this version"):
        ledger_lines.read(path)


def test_ledger_record_has_period_price_with_source_and_end_reason(run):
    run.task(
        "finetune", receipt("finetune", "l4-spot", 90.5, tokens=7, end_reason="gate", facts={"steps": 3})
    )
    assert run.close() == 0
    [row] = run.rows
    assert row["ChargePeriodStart"] == "2026-11-24T10:00:00.000+00:00"
    assert row["ChargePeriodEnd"] == "2026-11-24T10:01:30.500+00:00"
    assert row["price"] == {"usd_per_hour": 1.8, "source": "price sheet", "date": "2026-11-20"}
    assert row["EffectiveCost"] == 0.04525  # 90.5 s x 0.0005
    assert (row["BilledCost"], row["BillingCurrency"], row["ChargeCategory"]) == (None, "USD", "Usage")
    assert (row["ConsumedQuantity"], row["ConsumedUnit"], row["PricingUnit"]) == (90.5, "Seconds", "Hours")
    assert row["PricingQuantity"] * row["ContractedUnitPrice"] == pytest.approx(row["EffectiveCost"])
    assert (row["capacity"], row["end_reason"], row["tokens"]) == ("spot", "gate", 7)
    assert row["facts"] == {"steps": 3}


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        ("lab", "pool 'lab' has no price"),
        ("unknown", "its receipt names no node pool"),
        ("gone", "pool 'gone' is not among the node pools"),
    ],
)
def test_ledger_unknown_price_stays_unknown_and_says_why(run, pool, reason):
    run.task("fetch", receipt("fetch", "cpu", 100.0))
    run.task("finetune", receipt("finetune", pool, 600.0))
    assert run.close() == 0
    assert run.rows[1]["EffectiveCost"] is None and run.rows[1]["unknown_because"] == reason
    assert run.book["total"] == {"usd": 0.01, "unknown": 1, "node_seconds": 700.0, "tokens": 0}
    assert run.book["by_task"]["finetune"]["usd"] is None
    assert "at least $0.0100, 1 unknown" in run.summary.splitlines()[0]
    assert f"| unknown: {reason} |" in run.summary
    assert "at least $0.0100, 1 unknown" in run.report
    assert reason in run.book["next_action"]


def test_ledger_with_nothing_known_says_unknown_not_zero(run):
    run.task("finetune", receipt("finetune", "lab", 600.0))
    assert run.close() == 0
    assert run.book["total"]["usd"] is None and run.facts["usd"] is None
    assert "**Cost**: unknown" in run.summary and "$0.00" not in run.summary.splitlines()[0]


def test_ledger_price_of_zero_is_known(run):
    run.task("finetune", receipt("finetune", "cpu", 600.0))
    assert run.close(CPU | {"usd_per_hour": 0.0}) == 0
    assert run.book["total"]["usd"] == 0.0 and run.book["total"]["unknown"] == 0
    assert "**Cost**: $0.00 " in run.summary


def test_ledger_missing_receipt_is_a_row_of_unknown_cost(run):
    run.task("fetch", receipt("fetch", "cpu", 100.0))
    run.task("finetune")
    assert run.close() == 0
    assert run.rows[1]["end_reason"] == "no receipt" and run.rows[1]["EffectiveCost"] is None
    assert run.book["total"]["unknown"] == 1 and run.book["wasted"]["unknown"] == 1
    assert run.book["next_action"].startswith("finetune left no receipt: read its log")
    assert "no receipt" in run.summary and "no receipt" in run.report


def test_ledger_attempts_without_receipt_before_a_later_one_are_unknown(run):
    run.task("finetune", receipt("finetune", "cpu", 100.0, attempt=3))
    assert run.close() == 0
    assert [(row["attempt"], row["end_reason"], row["EffectiveCost"]) for row in run.rows] == [
        (1, "no receipt", None),
        (2, "no receipt", None),
        (3, "ok", 0.01),
    ]


def test_ledger_charges_every_trial_of_a_folder(run, tmp_path):
    folder = tmp_path / "trials"
    folder.mkdir()
    for i, reason in enumerate(["ok", "ok", "data"]):
        trial = receipt("finetune", "cpu", 100.0 * (i + 1), end_reason=reason)
        (folder / f"{i}.json").write_bytes(msgspec.json.encode(trial))
    run.receipts["trials"] = str(folder)
    assert run.close() == 0
    assert run.book["total"]["usd"] == 0.06 and run.book["wasted"]["usd"] == 0.03


def test_ledger_quality_is_paired_and_stands_first(run):
    run.task("finetune", receipt("finetune", "cpu", 100.0))
    run.scorecard("before", 2.3)
    run.scorecard("after", 1.6)
    assert run.close() == 0
    assert run.book["verdict"] == "better" and run.book["next_action"] == "publish the model"
    assert run.book["comparisons"]["after"]["worse_by"] == pytest.approx(-0.7)
    first = run.summary.splitlines()[0]
    assert (
        "completion loss 2.500 → 1.800 nats/token, −0.700 (90\u00a0% interval −0.700 to −0.700): better"
        in first
    )
    assert "2.500 → 1.800" in run.report
    assert run.facts["completion_loss_after"] == pytest.approx(1.8) and run.facts["non_inferior"] is True


@pytest.mark.parametrize("present", [(), ("before",), ("after",)])
def test_ledger_without_both_scorecards_claims_no_quality(run, present):
    run.task("finetune", receipt("finetune", "cpu", 100.0))
    for name in present:
        run.scorecard(name, 2.0)
    run.scorecards |= {
        name: str(run.folder / "absent") for name in ("before", "after") if name not in present
    }
    assert run.close() == 0
    assert run.book["verdict"] == "not measured"
    assert "**Quality**: not measured" in run.summary and "not measured" in run.report
    assert run.book["next_action"].startswith("evaluate the model before and after")


def test_ledger_scorecards_of_different_examples_are_refused(run, capsys):
    run.task("finetune", receipt("finetune", "cpu", 100.0))
    run.scorecard("before", 2.3)
    run.scorecard("after", 1.6, ids=range(20))
    assert run.close() == 2
    assert "evaluate all of them on the same split" in capsys.readouterr().err


@pytest.mark.parametrize(
    "broken", [b"", b"{", b"\xff\xfe", b'{"step": "finetune"}', b'{"wall_seconds": "long"}']
)
def test_ledger_broken_receipt_is_a_data_error_and_writes_nothing(run, capsys, broken):
    run.task("finetune", receipt("finetune", "cpu", 100.0))
    Path(run.receipts["finetune"]).write_bytes(broken)
    assert run.close() == 3
    assert f"{run.receipts['finetune']} is not a receipt" in capsys.readouterr().err
    assert not (run.folder / "ledger").exists() and not (run.folder / "report").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("started_at", "yesterday"),
        ("wall_seconds", -1.0),
        ("wall_seconds", 1e300),
        ("attempt", 0),
        ("attempt", 10**9),
    ],
)
def test_ledger_impossible_receipt_is_a_data_error_naming_task_and_value(run, capsys, field, value):
    run.task("finetune", msgspec.structs.replace(receipt("finetune", "cpu", 1.0), **{field: value}))
    assert run.close() == 3
    message = capsys.readouterr().err
    assert "finetune: not a receipt of any run" in message and str(value) in message


def test_ledger_without_tasks_is_a_configuration_error(run, capsys):
    assert run.close() == 2
    assert "receipts is empty: name at least one task" in capsys.readouterr().err


def test_ledger_reports_every_path_that_is_not_text(run, capsys):
    run.task("fetch", receipt("fetch", "cpu", 1.0))
    assert run.close(receipts='{"fetch": 3, "finetune": null}') == 2
    message = capsys.readouterr().err
    assert "receipts.fetch: expected a path" in message and "receipts.finetune: expected a path" in message


def test_ledger_pool_given_twice_is_a_configuration_error(run, capsys):
    run.task("fetch", receipt("fetch", "cpu", 1.0))
    assert run.close(CPU, CPU) == 2
    assert "a pool name is given twice: ['cpu', 'cpu']: rename one" in capsys.readouterr().err


def test_ledger_lets_an_input_be_missing_on_kfp(run):
    """A failed step's receipt reaches a KFP pod as a path without a file, its URI in the executor input."""
    run.task("fetch", receipt("fetch", "cpu", 100.0))
    run.task("finetune")
    missing = {"artifacts": [{"uri": f"file://{run.receipts['finetune']}"}]}
    output = run.folder / "executor_output.json"
    executor = {
        "inputs": {"artifacts": {"receipt_finetune": missing}},
        "outputs": {"outputFile": str(output)},
    }
    assert run.close(executor_input=json.dumps(executor)) == 0
    [told] = json.loads(output.read_text())["artifacts"]["receipt"]["artifacts"]
    assert told["metadata"]["usd"] == 0.01 and told["metadata"]["unknown_charges"] == 1


def test_ledger_broken_curve_is_a_data_error(run, capsys):
    run.task("finetune", receipt("finetune", "cpu", 1.0))
    curve = run.folder / "curve"
    curve.write_text('{"tokens": 1, "loss": 2.0}\n{"tokens": "many"}\n')
    run.curves["finetune"] = str(curve)
    assert run.close() == 3
    assert f"{curve}: not a loss curve" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.2, -0.1, "better"),
        (-0.2, 0.02, "equal within the margin"),
        (-0.02, 0.04, "equal within the margin"),
        (0.01, 0.04, "equal within the margin"),
        (-0.02, 0.06, "undecided"),
        (0.01, 0.06, "worse"),
        (0.1, 0.2, "worse"),
    ],
)
def test_verdict_follows_the_interval_not_the_mean(low, high, said):
    margin, mean = 0.05, (low + high) / 2
    compared = Comparison("completion_loss", margin, mean, low, high, high < margin, examples=9, seeds=1)
    assert verdict(compared) == said


def test_next_action_names_the_task_whose_last_attempt_failed():
    attempts = {
        "ingest": [receipt("ingest", "cpu", 1.0, end_reason="data")],
        "finetune": [
            receipt("finetune", "cpu", 1.0, end_reason="preempted"),
            receipt("finetune", "cpu", 1.0, attempt=2),
        ],
        "evaluate": [],
    }
    said = next_action(charges(attempts, POOLS), "better", None)
    assert said == "ingest could not use its input (and 1 more failed): correct its input, then rerun"


def test_next_action_takes_a_task_left_out_for_no_failure():
    given = {
        "ingest": [receipt("ingest", "cpu", 1.0)],
        "publish": [receipt("publish", "cpu", 0.0, end_reason="left out")],
    }
    rows = charges(given, POOLS)
    assert next_action(rows, "better", None) == "publish the model"
    assert [row.usd for row in rows if row.task == "publish"] == [0.0]


seconds = st.floats(0, 1e6, allow_nan=False)
attempts = st.builds(
    receipt,
    step=st.sampled_from(["fetch", "finetune", "evaluate"]),
    pool=st.sampled_from(["cpu", "l4-spot", "lab", "unknown", "gone"]),
    wall_seconds=seconds,
    attempt=st.integers(1, 3),
    end_reason=st.sampled_from(["ok", "data", "preempted"]),
)


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(attempts, max_size=3), min_size=1))
def test_totals_are_the_known_rows_and_no_row_is_dropped(receipts):
    rows = charges(receipts, POOLS)
    for task, given_receipts in receipts.items():
        assert len([row for row in rows if row.task == task]) >= max(1, len(given_receipts))
    known = [row.usd for row in rows if row.usd is not None]
    book = balance(rows, {}, {})
    assert (book.total.usd or 0.0) == pytest.approx(sum(known), abs=1e-6)
    assert book.total.unknown == len(rows) - len(known)
    assert (book.total.usd is None) == (not known)
    for groups in (book.by_task, book.by_pool, book.by_cut):
        assert sum(group.usd or 0.0 for group in groups.values()) == pytest.approx(sum(known), abs=1e-5)
        assert sum(group.unknown for group in groups.values()) == book.total.unknown
    assert (book.wasted.usd or 0.0) <= (book.total.usd or 0.0)


def test_total_of_nothing_is_zero():
    assert total([]).usd == 0.0 and totals([], lambda row: row.task) == {}


PLANNED = {
    "predicted_hours_p50": 0.2,
    "predicted_hours_p90": 0.5,
    "predicted_usd_p50": 0.36,
    "predicted_usd_p90": 0.9,
}


def test_ledger_sets_the_plan_against_what_came_and_counts_only_steps_that_count(run):
    run.task("plan", receipt("plan", "cpu", 1.0, facts=PLANNED))
    run.task(
        "finetune",
        receipt("finetune", "l4-spot", 600.0, end_reason="preempted", facts={"train_seconds": 500.0}),
        receipt("finetune", "l4-spot", 1200.0, attempt=2, facts={"train_seconds": 900.0}),
    )
    assert run.close() == 0
    assert run.book["goodput_share"] == run.facts["goodput_share"] == pytest.approx(900 / 1800)
    assert run.book["plan_accuracy"] == {
        **PLANNED,
        "task": "finetune",
        "actual_hours": 0.5,
        "actual_usd": pytest.approx(0.9),
    }
    said = "planned 12 min 0 s to 30 min 0 s and $0.3600 to $0.9000 (p50 to p90), took 30 min 0 s and $0.9000"
    assert said in run.report and "Goodput: 50.0\u00a0%" in run.report


@pytest.mark.parametrize(
    ("seconds", "said"), [(1200.0, "$0.3999 is left"), (3600.0, "$0.8001 more was spent")]
)
def test_ledger_says_that_the_budget_ended_training_and_what_is_left_of_it(run, seconds, said):
    run.task("plan", receipt("plan", "cpu", 1.0, facts=PLANNED | {"budget_usd": 1.0}))
    facts = {"train_seconds": 900.0, "ended_by_budget": True, "total_tokens": 420, "budget_tokens": 1000}
    run.task("finetune", receipt("finetune", "l4-spot", seconds, facts=facts))
    assert run.close() == 0
    assert run.book["bound"] == {
        "budget_usd": 1.0,
        "over_usd": pytest.approx(0.0005 * seconds + 0.0001 - 1),
        "ended": "finetune",
        "trained_share": 0.42,
    }
    assert run.facts["ended_by_budget"] and run.facts["over_budget_usd"] == run.book["bound"]["over_usd"]
    assert "the budget ended finetune at 42\u00a0% of its tokens: raise budget_usd" in run.book["next_action"]
    for page in (run.report, run.summary.replace("\\", "")):
        assert f"Budget $1.00: {said}; it ended finetune at 42.0\u00a0% of its tokens" in page


def test_ledger_of_an_unpriced_charge_does_not_say_that_the_budget_was_kept(run):
    run.task("plan", receipt("plan", "cpu", 1.0, facts=PLANNED | {"budget_usd": 1.0}))
    run.task("finetune", receipt("finetune", "lab", 600.0, facts={"train_seconds": 1.0}))
    assert run.close() == 0
    assert run.facts["over_budget_usd"] is None and not run.facts["ended_by_budget"]
    assert "whether it was kept is unknown" in run.report


def test_ledger_shows_what_plan_rejected_and_why(run, tmp_path):
    option = {
        "pool": "l4",
        "strategy": "single",
        "devices": 1,
        "micro_batch_size": 8,
        "gradient_checkpointing": False,
        "memory": [1, 2],
        "estimate": {"hours_p50": 0.2, "hours_p90": 0.5, "usd_p50": None, "usd_p90": None},
        "reason": "the cheapest",
    }
    lost = option | {"pool": "<b>h100</b>", "estimate": None, "reason": "unknown speed"}
    (tmp_path / "plan.json").write_text(json.dumps({"chosen": option, "rejected": [lost]}))
    run.task("fetch", receipt("fetch", "cpu", 1.0))
    run.plans["finetune"] = str(tmp_path / "plan.json")
    assert run.close() == 0
    assert "&lt;b&gt;h100&lt;/b&gt;" in run.report and "unknown speed" in run.report
    (tmp_path / "plan.json").write_text("{}")
    assert run.close() == 3


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """A client of a tracking server in a file."""
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "study")
    client = MlflowClient()
    client.create_experiment("study", artifact_location=(tmp_path / "artifacts").as_uri())
    return client


def test_ledger_logs_settings_metrics_curves_and_report_to_mlflow(run, tmp_path, mlflow):
    facts = {"recipe_learning_rate": 0.001, "training_id": "abc", "valid_loss": 1.5, "broken": float("nan")}
    run.task("finetune <b>", receipt("finetune", "cpu", 3600.0, facts=facts))
    (tmp_path / "curve.jsonl").write_text('{"tokens": 256, "loss": 3.5}\n{"tokens": 512, "loss": null}\n')
    run.curves["finetune"] = str(tmp_path / "curve.jsonl")
    assert run.close() == 0
    logged = mlflow.get_run(run.facts["mlflow_run"])
    assert logged.data.params == {
        "finetune _b_.recipe_learning_rate": "0.001",
        "finetune _b_.training_id": "abc",
    }
    assert logged.data.metrics["usd"] == 0.36 and logged.data.metrics["finetune _b_.valid_loss"] == 1.5
    assert not any("broken" in name for name in logged.data.metrics)
    (point,) = mlflow.get_metric_history(logged.info.run_id, "finetune.curve")
    assert (point.value, point.step) == (3.5, 256)
    assert (logged.info.status, logged.data.tags["verdict"]) == ("FINISHED", "not measured")
    assert logged.info.end_time - logged.info.start_time == 3600 * 1000  # of the tasks, not of this logging
    files = {file.path for file in mlflow.list_artifacts(logged.info.run_id)}
    assert files == {"report.html", "summary.md", "ledger.json", "ledger.jsonl"}


def test_ledger_without_an_answer_of_mlflow_is_written_and_says_so(run, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run.task("fetch", receipt("fetch", "cpu", 1.0))
    assert run.close() == 0
    assert run.facts["mlflow_run"] is None and run.book["total"]["usd"] > 0
    assert "not logged to MLflow at http://127.0.0.1:9" in capsys.readouterr().err


def test_trials_of_a_search_from_the_cache_were_paid_by_the_run_that_searched(tmp_path):
    tasks = tmp_path / "tasks"
    once = Meter().receipt("tune", 0, {})
    for place in ("tune/attempts-reused/receipts/1/receipt", "tune/outputs/trial_receipts/0"):
        cli.write_json(tasks / place, once)
    (tasks / "ledger/outputs").mkdir(parents=True)
    found = gather((tasks / "ledger/outputs/ledger").as_uri(), tmp_path / "scratch", {}, {}, {}, {})
    assert found.receipts.keys() == {"tune", "trials"} and found.reused == {"tune", "trials"}


@pytest.mark.parametrize(
    ("select", "said"),
    [({"examples": 9, "kept": 8, "tokens": 30_000}, "15 epochs"), ({}, "1.12 epochs")],
)
def test_what_was_trained_is_said_in_tokens_and_passes_over_what_was_selected(select, said):
    """A curriculum's file is as long as the run: passes over it say nothing."""
    trained = {"total_tokens": 450_000, "data_tokens": 400_000}
    rows = charges(
        {
            "prepare": [receipt("select", "cpu", 1.0, facts=select)],
            "finetune": [receipt("finetune", "cpu", 1.0, facts=trained)],
        },
        POOLS,
    )
    assert lengths(rows) == [f"finetune trained 450,000 tokens = {said}"]
