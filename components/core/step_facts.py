"""Facts that one step writes into its receipt and another one reads: one definition each.

Every other fact is only shown. tests/core/test_step_facts.py fails when a writer renames one of these.
"""

from typing import TypeVar

import msgspec

from components.core.receipts import Facts

T = TypeVar("T", bound=msgspec.Struct)


class PlanFacts(msgspec.Struct, frozen=True):
    """Written by ``plan``, read by the ledger."""

    predicted_hours_p50: float
    predicted_hours_p90: float
    predicted_usd_p50: float | None = None
    predicted_usd_p90: float | None = None


class BudgetFacts(msgspec.Struct, frozen=True):
    """Written by ``plan`` where the run has a budget, read by the ledger."""

    budget_usd: float


class TrainingFacts(msgspec.Struct, frozen=True):
    """Written by every step that trains, read by the ledger and the comparisons."""

    train_seconds: float
    total_tokens: int | None = None
    """Over all attempts."""


class EndedByBudget(msgspec.Struct, frozen=True):
    """Written by ``finetune`` where a budget may end it early, read by the ledger."""

    ended_by_budget: bool
    budget_tokens: int | None = None


def read(kind: type[T], facts: Facts) -> T | None:
    """Return the facts of ``kind``; None where the step did not write them."""
    try:
        return msgspec.convert(facts, kind)
    except msgspec.ValidationError:
        return None
