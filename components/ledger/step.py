"""Ledger: add up the cost of a run, by task, and the quality it bought."""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from deepcuts.components.core import carry, cli, escape, files, run_records
from deepcuts.components.core import scorecards as scorecard_files
from deepcuts.components.core.attempts import RECEIPT
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.nodepools import NodePool, NodePools
from deepcuts.components.core.receipts import Facts, Receipt
from deepcuts.components.core.scorecards import Comparison
from deepcuts.components.core.strict import MALFORMED
from deepcuts.components.ledger import studied
from deepcuts.components.ledger.charges import Charge, charges, read_receipts, to_focus_row
from deepcuts.components.ledger.charts import CurvePoint
from deepcuts.components.ledger.ledger import AFTER, BEFORE, Ledger, answers, balance
from deepcuts.components.ledger.plans import Plan
from deepcuts.components.ledger.report import markdown, page

TRIAL_RECEIPTS = "trial_receipts"
SEED = 0
"""Seed of the bootstrap that compares quality; it moves the bounds by about 0.02 standard errors."""


def ledger(
    receipts: dict[str, Path],
    scorecards: dict[str, Path],
    curves: dict[str, Path],
    plans: dict[str, Path],
    run: str,
    studies: str,
    nodepools: NodePools,
    margin_nats: float,
    ledger: Path,
    summary: Path,
    report: Path,
) -> Facts:
    """Charge every attempt, compare quality after with before, and write ledger, summary and report.

    Outputs that a failed task did not leave may be missing; its cost or quality is then unknown, never 0.
    With ``run``, receipts are those the run's attempts left in the store (``core/run_records.py``), and the
    other artifacts are named ``TASK/OUTPUT``; cached work was paid for by the run that did it. If
    ``MLFLOW_TRACKING_URI`` is set, the run is logged there, too.

    Args:
        receipts: Receipt by task name.
        scorecards: Folders: ``before``, ``after``, and others.
        curves: Loss curve by training name, JSONL with at least ``tokens`` and ``loss``.
        plans: Decision and rejected options of ``plan`` by training name, JSON.
        run: URI of an artifact of this task; empty if ``receipts`` names files.
        studies: URI of the store with what studies found; empty for none.
        nodepools: Where steps run, and the price per hour.
        margin_nats: Largest rise of the completion loss that counts as equal quality.
        ledger: Folder for ``ledger.jsonl`` (one charge per attempt) and ``ledger.json`` (totals, verdict).
        summary, report: Markdown, and one HTML page.
    """
    if not receipts and not run:
        raise ValueError("receipts is empty: name at least one task with the path of its receipt, or run")
    with tempfile.TemporaryDirectory() as scratch:
        pools = nodepools.by_name
        found = gather(run, Path(scratch), scorecards, curves, plans, pools) if run else None
        if found:
            scorecards, curves, plans = found.scorecards, found.curves, found.plans
            rows = charges(found.receipts, pools, found.reused)
        else:
            read = {task: read_receipts(path) for task, path in receipts.items()}
            rows = charges(read, pools)
        cards = {name: scorecard_files.read(path) for name, path in scorecards.items() if path.exists()}
        said = answers({name: scorecard_files.read_samples(scorecards[name]) for name in cards})
        compared = compare({name: scorecards[name] for name in cards}, margin_nats)
        decided = {name: read_plan(path) for name, path in plans.items() if path.exists()}
        points = {name: read_curve(path) for name, path in curves.items() if path.exists()}
    known = studied.savings(studied.read(studies), rows)
    book = balance(rows, cards, compared, said, run_records.INTERRUPTED in os.environ, known)
    write(ledger, rows, book)
    with files.staged(summary) as staging:
        staging.write_text(markdown(book, rows))
    with files.staged(report) as staging:
        staging.write_text(page(book, rows, points, decided))
    totals = facts(book)
    if os.environ.get("MLFLOW_TRACKING_URI"):
        files_of = {"report.html": report, "summary.md": summary}
        files_of |= {name: ledger / name for name in ("ledger.json", "ledger.jsonl")}
        totals["mlflow_run"] = track(book, rows, points, files_of, totals)
    return totals


def write(folder: Path, rows: Sequence[Charge], book: Ledger) -> None:
    """Write ``ledger.jsonl`` and ``ledger.json`` into ``folder``, both or none."""
    with files.staged(folder) as staging:
        staging.mkdir()
        staging.joinpath("ledger.jsonl").write_bytes(lines_of(rows))
        cli.write_json(staging / "ledger.json", book)


class Gathered(NamedTuple):
    """A run's records, downloaded."""

    receipts: dict[str, list[Receipt]]
    reused: frozenset[str]
    scorecards: dict[str, Path]
    curves: dict[str, Path]
    plans: dict[str, Path]


def gather(
    run: str,
    scratch: Path,
    scorecards: dict[str, Path],
    curves: dict[str, Path],
    plans: dict[str, Path],
    pools: Mapping[str, NodePool],
) -> Gathered:
    """Download the receipts of the run of the artifact ``run``, and the artifacts named ``TASK/OUTPUT``.

    Raises:
        StoreError: the store is unreachable.
    """
    left = run_records.read(run, pools)
    receipts, reused = dict(left.receipts), left.reused
    for name, uri in left.artifacts.items():
        task, _, output = name.partition("/")
        if output == TRIAL_RECEIPTS:  # of pods that are not tasks
            carry.get(uri, scratch / TRIAL_RECEIPTS)
            receipts["trials"] = read_receipts(scratch / TRIAL_RECEIPTS)
            reused |= {"trials"} if run_records.row(task, RECEIPT) in reused else frozenset()
    return Gathered(
        receipts,
        reused,
        run_records.bring(left, scorecards, scratch / "scorecards"),
        run_records.bring(left, curves, scratch / "curves"),
        run_records.bring(left, plans, scratch / "plans"),
    )


def track(
    book: Ledger,
    rows: list[Charge],
    points: dict[str, list[CurvePoint]],
    artifacts: dict[str, Path],
    found: Facts,
) -> str | None:
    """Log the run in MLflow and return its id; failures go to stderr, as the ledger matters more."""
    # before its import, so that it sends no telemetry
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.exceptions import MlflowException  # takes seconds to import

    from deepcuts.components.ledger import tracking

    try:
        return tracking.log(book, rows, points, artifacts, found)
    except (MlflowException, OSError, ImportError) as error:
        where = os.environ["MLFLOW_TRACKING_URI"]
        said = f"not logged to MLflow at {where} ({error}): check MLFLOW_TRACKING_URI"
        print(f"ledger: {escape.terminal(escape.redacted(said))}", file=sys.stderr)
        return None


def lines_of(rows: Sequence[Charge]) -> bytes:
    """Return the charges as JSON Lines with FOCUS columns."""
    return msgspec.json.Encoder().encode_lines(map(to_focus_row, rows))


def compare(folders: dict[str, Path], margin_nats: float) -> dict[str, Comparison]:
    """Return the completion loss of each scorecard against ``before``, paired by example."""
    if BEFORE not in folders:
        return {}
    scores = {name: scorecard_files.read_scores(path) for name, path in folders.items()}
    before = scores.pop(BEFORE)
    return {
        name: scorecard_files.compare([after], [before], "completion_loss", margin_nats, SEED)
        for name, after in scores.items()
    }


def read_curve(path: Path) -> list[CurvePoint]:
    """Read a loss curve, ignoring columns that are not drawn.

    Raises:
        DataError: a line is not a point.
    """
    try:
        return msgspec.json.Decoder(CurvePoint).decode_lines(path.read_bytes())
    except MALFORMED as error:
        raise DataError(f"{path}: not a loss curve ({error}): run finetune again") from error


def read_plan(path: Path) -> Plan:
    """Read a plan's chosen and rejected options.

    Raises:
        DataError: the file is not a plan.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except MALFORMED as error:
        raise DataError(f"{path}: not a plan ({error}): run plan again") from error


def facts(book: Ledger) -> Facts:
    """Return the figures by which runs are compared in a list."""
    change = book.comparisons.get(AFTER)
    loss: Facts = {
        f"completion_loss_{name}": card.completion_loss.mean for name, card in book.scorecards.items()
    }
    return loss | {
        "usd": book.total.usd,
        "unknown_charges": book.total.unknown,
        "wasted_usd": book.wasted.usd,
        "goodput_share": book.goodput_share,
        "budget_usd": book.bound.budget_usd if book.bound else None,
        "over_budget_usd": book.bound.over_usd if book.bound else None,
        "ended_by_budget": bool(book.bound and book.bound.ended),
        "loss_change_nats": change.worse_by if change else None,
        "non_inferior": change.non_inferior if change else None,
    }


if __name__ == "__main__":
    cli.main(ledger)
