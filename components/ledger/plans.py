"""Read the plan for the ledger: the choice, its alternatives, and how the run compared."""

import math
from collections.abc import Sequence

import msgspec

from deepcuts.components.core import step_facts
from deepcuts.components.core.attempts import NODE
from deepcuts.components.core.step_facts import BudgetFacts, EndedByBudget, PlanFacts, TrainingFacts
from deepcuts.components.ledger.charges import Charge

NODE_ROW = NODE.replace("-", "_")
"""Between a task's name and a number in the rows of its nodes."""


class PlannedEstimate(msgspec.Struct, frozen=True):
    hours_p50: float
    hours_p90: float
    usd_p50: float | None
    usd_p90: float | None


class PlannedOption(msgspec.Struct, frozen=True):
    """One way of training; the part of plan's option that people read."""

    pool: str
    strategy: str
    devices: int
    micro_batch_size: int
    gradient_checkpointing: bool | int
    estimate: PlannedEstimate | None
    reason: str


class Plan(msgspec.Struct, frozen=True):
    chosen: PlannedOption
    rejected: list[PlannedOption]


class PlanAccuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Estimate against actual of one training task."""

    task: str
    predicted_hours_p50: float
    predicted_hours_p90: float
    actual_hours: float
    """All attempts, including process start."""
    predicted_usd_p50: float | None
    predicted_usd_p90: float | None
    actual_usd: float | None


def plan_accuracy(rows: Sequence[Charge]) -> PlanAccuracy | None:
    """Compare the plan of the first training task with the actual run; None without a plan or training."""
    plans = [found for row in rows if row.step == "plan" and (found := step_facts.read(PlanFacts, row.facts))]
    trained = [row for row in rows if step_facts.read(TrainingFacts, row.facts) and row.quantity]
    if not plans or not trained:
        return None
    planned, task = plans[0], trained[0].task
    attempts = [row for row in rows if row.task == task]
    paid = attempts + [row for row in rows if row.task.startswith(f"{task}{NODE_ROW}")]
    known = [row.usd for row in paid if row.usd is not None]
    return PlanAccuracy(
        task=task,
        predicted_hours_p50=planned.predicted_hours_p50,
        predicted_hours_p90=planned.predicted_hours_p90,
        actual_hours=sum(row.quantity.node_seconds for row in attempts if row.quantity) / 3600,
        predicted_usd_p50=planned.predicted_usd_p50,
        predicted_usd_p90=planned.predicted_usd_p90,
        actual_usd=sum(known) if len(known) == len(paid) else None,
    )


class Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The budget of a run and how it was used."""

    budget_usd: float
    over_usd: float | None
    """Dollars charged beyond it; negative if some is left. Null if a charge is unknown."""
    ended: str | None
    """The training task that it ended before its tokens were spent."""
    trained_share: float | None
    """Share of its tokens that this task trained."""


def bound(rows: Sequence[Charge]) -> Bound | None:
    """Compare the budget with everything charged; None without a budget."""
    budgets = [step_facts.read(BudgetFacts, row.facts) for row in rows if row.step == "plan"]
    budget = next((found.budget_usd for found in budgets if found and found.budget_usd), None)
    if budget is None:
        return None
    known = [row.usd for row in rows if row.usd is not None]
    ends = [(row, found) for row in rows if (found := step_facts.read(EndedByBudget, row.facts))]
    ended, end = next(((row, found) for row, found in ends if found.ended_by_budget), (None, None))
    training = step_facts.read(TrainingFacts, ended.facts) if ended else None
    trained, tokens = (training.total_tokens if training else None), (end.budget_tokens if end else None)
    return Bound(
        budget_usd=budget,
        over_usd=round(math.fsum(known) - budget, 6) if len(known) == len(rows) else None,
        ended=ended.task if ended else None,
        trained_share=(trained or 0) / tokens if tokens else None,
    )


def goodput_share(rows: Sequence[Charge]) -> float | None:
    """Return the share of paid seconds of training tasks spent in steps that count; None without training.

    The rest is failed attempts, process starts, saves and compile trials.
    """
    trained = {row.task for row in rows if step_facts.read(TrainingFacts, row.facts)}
    paid = sum(row.quantity.node_seconds for row in rows if row.task in trained and row.quantity)
    seconds = (step_facts.read(TrainingFacts, row.facts) for row in rows if row.end_reason == "ok")
    useful = sum(found.train_seconds for found in seconds if found)
    return useful / paid if paid else None
