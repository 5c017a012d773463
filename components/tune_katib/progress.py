"""Read an Experiment's progress from Katib's Trials and the attempts in the store."""

from collections.abc import Mapping, Sequence

import msgspec
from kubeflow_katib_api.models import V1beta1Experiment, V1beta1Trial

from deepcuts.components.core import clock, pricing
from deepcuts.components.core import records as stored
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.receipts import Receipt
from deepcuts.components.core.store import Store
from deepcuts.components.tune import space as spaces
from deepcuts.components.tune.asha import Search
from deepcuts.components.tune.report import best
from deepcuts.components.tune.space import Space, text
from deepcuts.components.tune.task import RESOURCE, Attempt, attempts_prefix
from deepcuts.components.tune.trials import LOST, TrialRecord, begun, ended

OVER = ("Succeeded", "Killed", "Failed", "MetricsUnavailable", "EarlyStopped")


class TrialAttempts:
    """The attempts of one search by trial; finished ones are read once."""

    def __init__(self, store: Store, search_id: str) -> None:
        self._store, self._prefix = store, attempts_prefix(search_id)
        self._ended: dict[str, Attempt] = {}

    def read(self) -> dict[str, list[Attempt]]:
        found: dict[str, list[Attempt]] = {}
        for key in self._store.list(self._prefix):
            fix = "delete it: the attempt is charged as one without a receipt"
            attempt = self._ended.get(key) or stored.read(self._store, key, Attempt, fix)
            if attempt.receipt:
                self._ended[key] = attempt
            found.setdefault(key.removeprefix(self._prefix).partition("/")[0], []).append(attempt)
        for attempts in found.values():
            attempts.sort(key=lambda attempt: attempt.begun_at)
        return found


def records(
    trials: Sequence[V1beta1Trial],
    attempts: Mapping[str, Sequence[Attempt]],
    space: Space,
    search: Search,
    all_over: bool,
) -> list[TrialRecord]:
    """Convert trials to the local engine's records; running ones are over if the Experiment is."""
    found: list[TrialRecord] = []
    for trial in trials:
        given = {a.name or "": a.value or "" for a in trial.spec.parameter_assignments or []}
        budget_tokens = int(given.pop(RESOURCE, search.levels[-1]))
        mine = attempts.get(_name(trial), [])
        record = msgspec.structs.replace(
            begun(len(found), spaces.read(space, given), search.levels.index(budget_tokens), budget_tokens),
            attempts=len(mine),
            receipts=[attempt.receipt for attempt in mine if attempt.receipt],
            problem=next((a.problem for a in reversed(mine) if a.problem), message(trial) or LOST),
        )
        if all_over or condition(trial) in OVER:
            record = ended(record, sum(r.tokens for r in found if r.key == record.key))
        found.append(record)
    return found


def condition(thing: V1beta1Trial | V1beta1Experiment) -> str:
    """Return the newest condition that is true; empty before the controller has seen the object."""
    return _newest(thing)[0]


def message(thing: V1beta1Trial | V1beta1Experiment) -> str:
    """Return the controller's message."""
    return _newest(thing)[1]


def _newest(thing: V1beta1Trial | V1beta1Experiment) -> tuple[str, str]:
    """Return (type, message) of the newest condition that is true; empty if none is."""
    conditions = (thing.status.conditions if thing.status else None) or []
    return next(((c.type, c.message or "") for c in reversed(conditions) if c.status == "True"), ("", ""))


def usd(
    attempts: Mapping[str, Sequence[Attempt]], trials: Sequence[V1beta1Trial], pool: NodePool
) -> float | None:
    """Return the dollars so far: finished attempts, and the newest of every running trial; None: no price."""
    seconds = sum(a.receipt.wall_seconds for mine in attempts.values() for a in mine if a.receipt)
    for trial in trials:
        running = [a for a in attempts.get(_name(trial), []) if a.receipt is None]
        if running and condition(trial) not in OVER:
            seconds += max(0.0, min(clock.seconds_since(a.begun_at) for a in running))
    return pricing.usd(seconds, pool.usd_per_hour)


def _name(trial: V1beta1Trial) -> str:
    return str(trial.metadata.name)


def line(found: Sequence[TrialRecord], dollars: float | None) -> str:
    """Format ``12 trials, 2 running, 1 failed  best 2.134 nats at 9 tokens (…)  $0.42 so far``."""
    states = [record.state for record in found]
    counts = f"{len(found)} trials, {states.count('running')} running, {states.count('failed')} failed"
    leader = best(found)
    named = " ".join(f"{n} {text(v)}" for n, v in sorted(leader.values.items())) if leader else ""
    shown = (
        f"  best {leader.valid_loss:.3f} nats at {leader.budget_tokens:,} tokens ({named})" if leader else ""
    )
    return counts + shown + ("  cost unknown" if dollars is None else f"  ${dollars:,.2f} so far")


def charged(attempts: Mapping[str, Sequence[Attempt]]) -> list[Receipt]:
    """Return the receipt of every attempt, numbered.

    Attempts without a receipt leave a gap in the numbers, by which the ledger knows of them.
    """
    every = [attempt for mine in attempts.values() for attempt in mine]
    lost = sum(attempt.receipt is None for attempt in every)
    left = sorted((a.receipt for a in every if a.receipt), key=lambda receipt: receipt.started_at)
    return [msgspec.structs.replace(r, attempt=lost + place) for place, r in enumerate(left, start=1)]
