"""Define the facts that one step writes into its receipt and another step reads.

All other facts are only shown. tests/core/test_step_facts.py fails if a writer renames one of these.
"""

from pathlib import Path
from typing import TypeVar

import msgspec

from deepcuts.components.core import receipts
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.receipts import Facts

T = TypeVar("T", bound=msgspec.Struct)


class PlanFacts(msgspec.Struct, frozen=True):
    """Written by ``plan``, read by the ledger."""

    predicted_hours_p50: float
    predicted_hours_p90: float
    predicted_usd_p50: float | None = None
    predicted_usd_p90: float | None = None


class BudgetFacts(msgspec.Struct, frozen=True):
    """Written by ``plan`` if the run has a budget, read by the ledger."""

    budget_usd: float


class TrainingFacts(msgspec.Struct, frozen=True):
    """Written by every step that trains, read by the ledger and the comparisons."""

    train_seconds: float
    train_cpu_seconds: float | None = None
    total_tokens: int | None = None
    """Over all attempts."""


class LengthFacts(msgspec.Struct, frozen=True):
    """Written by every step that trains, read for the end of a run."""

    total_tokens: int
    """Over all attempts."""
    data_tokens: int
    """Of one pass over the file it got."""


class EndedByBudget(msgspec.Struct, frozen=True):
    """Written by ``finetune`` if a budget may end it early, read by the ledger."""

    ended_by_budget: bool
    budget_tokens: int | None = None


class TrialFacts(msgspec.Struct, frozen=True):
    """Written by ``finetune``, read by both searches."""

    total_tokens: int
    valid_loss: float | None
    """None if nothing is held out; not finite if training failed."""


class ModelFacts(msgspec.Struct, frozen=True):
    """Written by steps that make a model, read by the comparisons."""

    model_bytes: int


class SelectFacts(msgspec.Struct, frozen=True):
    """Written by ``select``, together with a ``dropped_REASON`` for each reason; read by ``plan``."""

    examples: int
    kept: int
    tokens: int


class SourceFacts(msgspec.Struct, frozen=True):
    """Written by ``fetch``, read by ``publish``."""

    source: str
    digest: str


class AcceptFacts(msgspec.Struct, frozen=True):
    """Written by ``accept``, read by ``publish``."""

    accepted: bool


class ReleaseFacts(msgspec.Struct, frozen=True):
    """Written by ``publish``, read by the ledger."""

    release: str
    """Its URI, ``…/releases/NAME/VERSION``."""
    version: str
    bytes: int


class SavedFacts(msgspec.Struct, frozen=True):
    """Written by ``quantize``, read by the ledger."""

    bytes_before: int
    bytes_after: int


class PullFacts(msgspec.Struct, frozen=True):
    """Written by ``publish/pull``, read by ``retrain/start``."""

    version: str


def read(kind: type[T], facts: Facts) -> T | None:
    """Return the facts of ``kind``; None if the step did not write them."""
    try:
        return msgspec.convert(facts, kind)
    except msgspec.ValidationError:
        return None


def of(kind: type[T], receipt: Path) -> T:
    """Return the facts of ``kind`` in a receipt file.

    Raises:
        DataError: it is not a receipt, or it is another step's.
    """
    found = read(kind, receipts.read(receipt).facts)
    if found is None:
        names = ", ".join(kind.__struct_fields__)
        raise DataError(f"{receipt} has no {names}: it is another step's receipt; check the inputs")
    return found
