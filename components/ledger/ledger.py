"""Ledger: total charges and the quality they bought, with a verdict and the next action."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from deepcuts.components.core.receipts import FINE
from deepcuts.components.core.run_records import CHAIN, START
from deepcuts.components.core.scorecards import Comparison, Sample, Scorecard
from deepcuts.components.ledger import formatting
from deepcuts.components.ledger.charges import NO_RECEIPT, Charge, Price, Total, total, totals
from deepcuts.components.ledger.plans import Bound, PlanAccuracy, bound, goodput_share, plan_accuracy
from deepcuts.components.ledger.studied import StudySaving

BEFORE, AFTER = "before", "after"
"""Names of the scorecards of the model the run started from and of the one it made."""

QualityVerdict = Literal["better", "equal within the margin", "undecided", "worse", "not measured"]

QUALITY_ACTIONS: dict[QualityVerdict, str] = {
    "better": "publish the model",
    "equal within the margin": "keep the one that is cheaper to serve: quality did not change",
    "undecided": "score more examples: the interval still extends beyond the margin",
    "worse": "do not publish: keep the model from before",
    "not measured": "evaluate the model before and after: without that no cut has paid off",
}
RESUME = "run the same command to resume"
ENDINGS = {
    "config": ("is configured wrongly", "correct its configuration, then rerun"),
    "data": ("could not use its input", "correct its input, then rerun"),
    "infrastructure": (
        "failed because store, network, memory or disk were not available",
        "rerun, finished tasks come from the cache",
    ),
    "preempted": ("was preempted", "rerun, it resumes from its checkpoint"),
    "gate": ("was refused by its gate", "change what it refused, or the bound"),
    "bug": ("met a bug", "report the traceback in its log"),
    NO_RECEIPT: ("left no receipt", "read its log: it was killed, or never ran"),
}
"""How an attempt ended, in words, and what to do."""


class Answers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The models' answers to one question."""

    question: str
    expected: str
    said: dict[str, str]
    """By the name of the Scorecard: ``before``, ``after``."""


class Ledger(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema: Literal["ledger/1"]
    total: Total
    wasted: Total
    """Attempts that did not end ``ok``; an upper bound, as a preempted one leaves a checkpoint."""
    reused: Total = Total(usd=0.0, unknown=0, node_seconds=0.0, tokens=0)
    """Part of ``total`` that an earlier run paid for and this run took from a cache."""
    by_task: dict[str, Total]
    by_pool: dict[str, Total]
    by_cut: dict[str, Total]
    goodput_share: float | None
    """Share of paid seconds of training tasks in steps that count; null without training."""
    plan_accuracy: PlanAccuracy | None
    """The plan's prediction against the actual run."""
    bound: Bound | None
    """The budget and how it was used."""
    prices: dict[str, Price]
    """Prices of the charged pools."""
    scorecards: dict[str, Scorecard]
    comparisons: dict[str, Comparison]
    """Completion loss of every other scorecard against ``before``."""
    verdict: QualityVerdict
    """Measured on ``after``."""
    next_action: str
    samples: list[Answers] = []
    """Answers to the first scored examples, not selected by quality."""
    interrupted: bool = False
    """Whether the user stopped the run; its figures are then those so far."""
    studied: list[StudySaving] = []
    """What studies in the store say about a training exactly like this run's."""


def balance(
    rows: Sequence[Charge],
    scorecards: Mapping[str, Scorecard],
    comparisons: Mapping[str, Comparison],
    samples: Sequence[Answers] = (),
    interrupted: bool = False,
    studied: Sequence[StudySaving] = (),
) -> Ledger:
    """Make the Ledger from charges and quality."""
    quality, budget = verdict(comparisons.get(AFTER)), bound(rows)
    return Ledger(
        schema="ledger/1",
        total=total(rows),
        wasted=total(row for row in rows if row.end_reason != "ok"),
        reused=total(row for row in rows if row.reused),
        by_task=totals(rows, lambda row: row.task),
        by_pool=totals(rows, lambda row: row.pool),
        by_cut=totals(rows, lambda row: row.cut),
        goodput_share=goodput_share(rows),
        plan_accuracy=plan_accuracy(rows),
        bound=budget,
        prices={row.pool: row.price for row in rows if row.price},
        scorecards=dict(scorecards),
        comparisons=dict(comparisons),
        verdict=quality,
        next_action=RESUME if interrupted else next_action(rows, quality, budget),
        samples=list(samples),
        interrupted=interrupted,
        studied=list(studied),
    )


def answers(samples: Mapping[str, Sequence[Sample]]) -> list[Answers]:
    """Combine the models' answers to each question of ``before``, or of the first with samples."""
    first = samples.get(BEFORE) or next(iter(samples.values()), [])
    said = {name: {one.id: one.answer for one in given} for name, given in samples.items()}
    return [
        Answers(
            one.question,
            one.expected,
            {name: said[name][one.id] for name in (BEFORE, AFTER) if one.id in said.get(name, {})},
        )
        for one in first
    ]


def verdict(comparison: Comparison | None) -> QualityVerdict:
    """Judge the 90 % interval of the difference in loss; below 0 is better."""
    if comparison is None:
        return "not measured"
    if comparison.high < 0:
        return "better"
    if comparison.non_inferior:
        return "equal within the margin"
    return "worse" if comparison.low > 0 else "undecided"


def last_ends(rows: Sequence[Charge]) -> list[Charge]:
    """Return the last attempt of each task, in whose order the rows are."""
    return [*{row.task: row for row in rows}.values()]


def bad_ends(rows: Sequence[Charge]) -> list[Charge]:
    """Return the last attempts that did not end well; a chain only if its step left no receipt to say why."""
    bad = [row for row in last_ends(rows) if row.end_reason not in FINE]
    return [row for row in bad if row.step != CHAIN] or bad


def name_of(row: Charge) -> str:
    """Return the task of a charge; of a chain's own, the chain's."""
    return row.task.removesuffix(START) if row.step == CHAIN else row.task


def next_action(rows: Sequence[Charge], quality: QualityVerdict, budget: Bound | None) -> str:
    """Say what to do next: failed tasks first, then quality, then a budget too small, then prices."""
    failed = bad_ends(rows)
    if failed:
        task, reason = name_of(failed[0]), failed[0].end_reason
        others = f" (and {len(failed) - 1} more failed)" if len(failed) > 1 else ""
        ended, todo = ENDINGS.get(reason, (f"ended with {reason}", "read its log"))
        action = f"{task} {ended}{others}: {todo}"
    elif quality == "better" and any(row.step == "publish" and row.end_reason == "ok" for row in rows):
        action = "talk to the released model, then serve it"
    else:
        action = QUALITY_ACTIONS[quality]
    if budget and budget.ended:
        share = budget.trained_share
        trained = f"at {formatting.percent(share)} of its tokens" if share else "early"
        action += f"; the budget ended {budget.ended} {trained}: raise budget_usd and rerun to resume"
    unpriced = sorted({row.unknown_because for row in rows if row.quantity and row.unknown_because})
    return f"{action}; set missing prices: {'; '.join(unpriced)}" if unpriced else action
