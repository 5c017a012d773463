"""Record every trial of a search in the store, so that a rerun resumes after a crash."""

import hashlib
import math
from typing import Literal

import msgspec

from deepcuts.components.core import records, step_facts
from deepcuts.components.core.receipts import Receipt
from deepcuts.components.core.recipe import Recipe, parse
from deepcuts.components.core.step_facts import TrialFacts
from deepcuts.components.core.store import Store
from deepcuts.components.tune.asha import Trial
from deepcuts.components.tune.space import Values, key

LOST = "the process left no receipt"


class TrialRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One training up to one rung; a promotion has its own record."""

    number: int
    """In the order of the assignments, from 0."""
    key: str
    values: Values
    rung: int
    budget_tokens: int
    state: Literal["running", "ok", "failed"]
    valid_loss: float | None
    """Nats per answer token; null if there is none or it is not finite."""
    tokens: int
    """Tokens trained beyond the previous rung; the rung's planned number if a failed trial left none."""
    attempts: int
    """Attempts begun so far, counted before each begins, so that those lost in a crash count, too."""
    receipts: list[Receipt]
    """Receipts of attempts that left one."""
    problem: str

    @property
    def lost_attempts(self) -> int:
        """Count attempts without a receipt, whose cost is unknown."""
        return self.attempts - len(self.receipts)

    @property
    def trial(self) -> Trial:
        """Convert the record for the search."""
        if self.state == "running":
            return Trial(self.values, self.rung, None)
        return Trial(self.values, self.rung, math.nan if self.valid_loss is None else self.valid_loss)


class Log:
    """The records of one search under ``searches/ID/``, one object each."""

    def __init__(self, store: Store, search_id: str) -> None:
        self._store, self._prefix = store, f"searches/{search_id}/"
        self.records = {
            record.number: record
            for record in (
                records.read(store, name, TrialRecord, "delete it: the trial is run again")
                for name in store.list(self._prefix)
            )
        }

    def put(self, record: TrialRecord) -> None:
        self._store.put_bytes(f"{self._prefix}{record.number:06d}.json", msgspec.json.encode(record))
        self.records[record.number] = record

    def in_order(self) -> list[TrialRecord]:
        return [self.records[number] for number in sorted(self.records)]


def search_id(*parts: object) -> str:
    """Identify a search by its inputs, without the number of concurrent trials."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def recipe_of(recipe: Recipe, values: Values, budget_tokens: int, schedule_tokens: int) -> Recipe:
    """Return the Recipe of a trial.

    Every rung has the same schedule; otherwise early rungs would rank by the schedule, and a promoted trial
    could not resume from its checkpoint.

    Raises:
        ValueError: the values are contradictory.
    """
    fields = msgspec.to_builtins(recipe) | values
    return parse(fields | {"budget_tokens": budget_tokens, "schedule_tokens": schedule_tokens}, "trial")


def begun(number: int, values: Values, rung: int, budget_tokens: int) -> TrialRecord:
    """Return the record of a starting trial."""
    return TrialRecord(
        number=number,
        key=key(values),
        values=values,
        rung=rung,
        budget_tokens=budget_tokens,
        state="running",
        valid_loss=None,
        tokens=0,
        attempts=0,
        receipts=[],
        problem="",
    )


def ended(record: TrialRecord, tokens_before: int) -> TrialRecord:
    """Return ``record`` with its outcome, read from its last receipt."""
    last = record.receipts[-1] if record.receipts else None
    if last is None or last.end_reason != "ok":
        planned = max(0, record.budget_tokens - tokens_before)
        return msgspec.structs.replace(record, state="failed", tokens=planned)
    found = step_facts.read(TrialFacts, last.facts) or TrialFacts(tokens_before, None)
    loss = found.valid_loss
    finite = loss is not None and math.isfinite(loss)
    return msgspec.structs.replace(
        record,
        state="ok" if finite else "failed",
        valid_loss=loss if finite else None,
        tokens=max(0, found.total_tokens - tokens_before),
        problem="" if finite else f"valid_loss is {loss}",
    )
