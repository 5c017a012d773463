"""Compare several runs, one line each: different parameters, cost and quality."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from deepcuts.components.core import scorecards, step_facts, verdicts
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.former_names import current
from deepcuts.components.core.scorecards import Comparison, Score, Scorecard
from deepcuts.components.core.step_facts import ModelFacts, TrainingFacts
from deepcuts.components.core.strict import MALFORMED
from deepcuts.components.ledger import charges, charts, formatting, outcome
from deepcuts.components.ledger.charges import Charge, Total
from deepcuts.components.ledger.ledger import AFTER, BEFORE
from deepcuts.components.ledger.plans import Bound
from deepcuts.components.ledger.report import environment
from deepcuts.pipelines.runner.run_record import RunRecord

SEED = 0
"""Seed of the bootstrap; it moves a bound by about 0.02 standard errors."""
NONE = "–"
HEAD = (
    "run",
    "differs in",
    "completion loss",
    "against before",
    "verdict",
    "against the first run",
    "cost",
    "wasted",
    "node time",
    "CPU time",
    "trained tokens",
    "model",
    "peak memory",
    "cuts refused",
)


FIRST = (
    "run",
    "differs in",
    "completion loss",
    "verdict",
    "against the first run",
    "cost",
    "node time",
    "model",
)
"""Columns the page shows at 1280 pixels; the rest is folded."""


class LedgerSummary(msgspec.Struct, frozen=True):
    """The compared part of ``ledger.json``, also of older versions."""

    total: Total
    wasted: Total
    scorecards: dict[str, Scorecard]
    comparisons: dict[str, Comparison]
    verdict: str
    bound: Bound | None = None


class Summary(msgspec.Struct, frozen=True):
    """A run's record, and its ledger if it has one."""

    name: str
    folder: Path
    run: RunRecord
    book: LedgerSummary | None
    rows: list[Charge]
    scores: list[Score]
    """Scores of the model after, by example; empty if it was not scored."""


def read(folder: Path, run: RunRecord, ledger: Path | None) -> Summary:
    """Return the run in ``folder``; ``ledger`` holds its outputs.

    Raises:
        DataError: it is not a ledger.
    """
    if not ledger:
        return Summary(folder.name, folder, run, None, [], [])
    try:
        book = msgspec.json.decode(
            current((ledger / "ledger" / "ledger.json").read_bytes()), type=LedgerSummary
        )
    except MALFORMED as error:
        raise DataError(f"{ledger}: not a ledger ({error}): run the pipeline again") from error
    rows = charges.read(ledger / "ledger" / "ledger.jsonl")
    return Summary(folder.name, folder, run, book, rows, scores_of(book.scorecards.get(AFTER), run))


def scores_of(card: Scorecard | None, run: RunRecord) -> list[Score]:
    """Return the scores summarised in ``card``, from the outputs of the run's tasks."""
    places = [
        Path(task.artifacts["scorecard"]) for task in run.tasks.values() if "scorecard" in task.artifacts
    ]
    for place in places:
        if card and place.is_dir() and scorecards.read(place) == card:
            return scorecards.read_scores(place)
    return []


def table(runs: Sequence[Summary]) -> list[list[str]]:
    """Return one line per run, with the columns of ``HEAD``."""
    different = differences([run.run.arguments for run in runs])
    return [line(run, differs, runs[0]) for run, differs in zip(runs, different, strict=True)]


def line(run: Summary, differs: str, first: Summary) -> list[str]:
    """Return the cells of one run."""
    book, versus_first = run.book, NONE if run is first else against(run, first)
    if not book:
        status = f"{run.run.status}, no ledger"
        return [run.name, differs, NONE, NONE, status, versus_first, *[NONE] * (len(HEAD) - 6)]
    before, after = (book.scorecards.get(name) for name in (BEFORE, AFTER))
    measured = [row.quantity for row in run.rows if row.quantity]
    peak = max((max(q.peak_resident_bytes, q.peak_device_bytes) for q in measured), default=0)
    said = [found for row in run.rows for found in verdicts.read(row.facts)]
    ended = book.bound and book.bound.ended
    refused = dict.fromkeys(formatting.short(found.cut, 32) for found in said if found.outcome == "refused")
    return [
        run.name,
        differs,
        " → ".join(f"{card.completion_loss.mean:.3f}" if card else NONE for card in (before, after)),
        change(book.comparisons[AFTER]) if AFTER in book.comparisons else NONE,
        ", ".join([*_ending(run), book.verdict, *(["ended by its budget"] if ended else [])]),
        versus_first,
        formatting.cost(book.total),
        formatting.cost(book.wasted),
        formatting.unbroken(formatting.duration(book.total.node_seconds)),
        formatting.unbroken(formatting.duration(sum(quantity.cpu_seconds for quantity in measured))),
        f"{sum(row.tokens or 0 for row in run.rows if step_facts.read(TrainingFacts, row.facts)):,}",
        formatting.size(size) if (size := model_bytes(run.rows)) else NONE,
        formatting.size(peak) if peak else NONE,
        ", ".join(refused) or NONE,
    ]


def against(run: Summary, first: Summary) -> str:
    """Compare this run's model with the first run's, paired by example, or say why that is not possible."""
    if not run.scores or not first.scores:
        return "not measured"
    if {score.id for score in run.scores} != {score.id for score in first.scores}:
        return "other examples"
    margin = run.run.arguments.get("margin_nats", 0.03)
    try:
        compared = scorecards.compare([run.scores], [first.scores], "completion_loss", margin, SEED)
    except ValueError:  # another tokenizer, or one example
        return "not comparable"
    return change(compared)


def change(compared: Comparison) -> str:
    """Return ``+0.012 [−0.004, +0.028]``: positive is worse; 90 % interval."""
    low, high = formatting.change(compared.low), formatting.change(compared.high)
    return f"{formatting.change(compared.worse_by)} [{low}, {high}]"


def _ending(run: Summary) -> list[str]:
    """Return how a run ended, where it did not end well."""
    status = outcome.status(run.rows, interrupted=run.run.status == "interrupted")
    return [status] if status in ("failed", "refused", "interrupted") else []


def differences(arguments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return each run's values of parameters that differ between runs, such as ``recipe.seed=1``."""
    flat = [flattened(each) for each in arguments]
    names = dict.fromkeys(name for each in flat for name in each)
    varied = [name for name in names if len({msgspec.json.encode(each.get(name)) for each in flat}) > 1]
    shown = [[f"{name}={each[name]}" for name in varied if name in each] for each in flat]
    return [formatting.short(", ".join(found), 160) or NONE for found in shown]


def flattened(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join nested keys with dots."""
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= flattened(item, f"{prefix}{name}.") if isinstance(item, dict) else {f"{prefix}{name}": item}
    return found


def model_bytes(rows: Sequence[Charge]) -> int:
    """Return the bytes of the last measured model; 0 if there is none."""
    found = [made for row in rows if (made := step_facts.read(ModelFacts, row.facts))]
    return found[-1].model_bytes if found else 0


def best(runs: Sequence[Summary]) -> Summary | None:
    """Return the run with the lowest completion loss after; None if fewer than two can be compared."""
    judged = [run for run in runs if run.book and AFTER in run.book.scorecards]
    if len(judged) < 2 or warning(runs):
        return None
    return min(judged, key=lambda run: _loss(run) or 0.0)


def warning(runs: Sequence[Summary]) -> str:
    """Return a warning if runs were scored on different examples, else empty."""
    cards = [run.book.scorecards[AFTER] for run in runs if run.book and AFTER in run.book.scorecards]
    if len({card.split_digest for card in cards}) < 2:
        return ""
    return (
        "These runs were scored on different examples: their losses cannot be compared. Give them the same "
        "data, test_share and seed."
    )


def page(runs: Sequence[Summary], target: Path) -> str:
    """Return one HTML page without scripts, with escaped values and links to the runs' reports.

    Args:
        runs: The runs to compare.
        target: Path of the page, to which links are relative.
    """
    templates = environment(Path(__file__).parent, Path(formatting.__file__).parent)
    first = best(runs)
    costs = {run.name: (run.book.total.usd, _loss(run)) for run in runs if run.book}
    points = {
        name: (usd, loss) for name, (usd, loss) in costs.items() if usd is not None and loss is not None
    }
    links = {
        run.name: os.path.relpath(run.folder.resolve() / "report.html", target.resolve().parent)
        for run in runs
        if (run.folder / "report.html").is_file()
    }
    return templates.get_template("comparison.html.jinja").render(
        head=HEAD,
        shown=[HEAD.index(name) for name in FIRST],
        lines=table(runs),
        dash=NONE,
        best=first.name if first else "",
        warning=warning(runs),
        links=links,
        chart=charts.trade(points),
    )


def _loss(run: Summary) -> float | None:
    card = run.book.scorecards.get(AFTER) if run.book else None
    return card.completion_loss.mean if card else None
