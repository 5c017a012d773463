"""A service's records in the store: one decision per window, one lease per paid retraining.

Under ``retraining/<service>/``: ``windows/<window>.json`` and ``leases/<number>.json``, written once and
never changed. Windows are ordered by name, so that neither clocks nor the order of triggers matter.
"""

import datetime
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from deepcuts.components.core import records
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.store import Store
from deepcuts.components.retrain import names
from deepcuts.components.retrain.policies import Advice, Policy


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model's result in one window."""

    service: str
    window: str
    run: str
    """The run that decided; only it retrains."""
    at: str
    """Time of the decision: UTC, ISO 8601."""
    model_digest: str
    """Digest of the model that served."""
    loss: float
    """Lower is better: nats per answer token, or the share of wrong answers."""
    usd_lost: float
    """``loss`` x value of a unit x predictions, at the window's prices."""


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whether to retrain after a window, and why."""

    seen: Window
    retrain: bool
    policy: Policy
    why: str
    cost_usd: float
    """Cost of the retraining in question."""
    numbers: Facts
    cycle_usd: list[float]
    """Dollars lost in each window since the last retraining."""
    alternatives: list[Advice]
    """What every policy says about the same windows."""


class WindowLease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The right to retrain once."""

    window: str
    run: str
    model_digest: str
    """Digest of the model to be replaced."""
    taken_at: records.Moment

    def __post_init__(self) -> None:
        """Check the time; a decoder reports the error."""
        records.check_moment(self.taken_at)


WindowRecord = TypeVar("WindowRecord", Decision, WindowLease)


class WindowLog:
    """The decisions and leases of ``service`` in ``store``."""

    def __init__(self, store: Store, service: str) -> None:
        self._store, self._prefix = store, f"retraining/{names.named('service', service)}"

    def decisions(self) -> list[Decision]:
        """Return all decisions, by window."""
        found = [self._read(key, Decision) for key in self._store.list(f"{self._prefix}/windows/")]
        return sorted(found, key=lambda decision: decision.seen.window)

    def leases(self) -> list[WindowLease]:
        """Return all leases, oldest first."""
        return [self._read(key, WindowLease) for key in self._store.list(f"{self._prefix}/leases/")]

    def decide(self, decision: Decision) -> Decision:
        """Store ``decision``; return it, or an earlier one on the same window."""
        return self._first(f"windows/{decision.seen.window}", decision)

    def lease(self, leases: Sequence[WindowLease], seen: Window, lease_seconds: float) -> WindowLease:
        """Take a lease for this window, or return the one that blocks it: one of ``leases``, or a rival's."""
        for lease in leases:
            if lease.window == seen.window or held(lease, seen, lease_seconds):
                return lease
        asked = WindowLease(seen.window, seen.run, seen.model_digest, seen.at)
        return self._first(f"leases/{len(leases):06d}", asked)

    def _first(self, name: str, record: WindowRecord) -> WindowRecord:
        key = f"{self._prefix}/{name}.json"
        text = msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
        return record if self._store.put_if_absent(key, text) else self._read(key, type(record))

    def _read(self, key: str, kind: type[WindowRecord]) -> WindowRecord:
        return records.read(self._store, key, kind, "remove it")


def held(lease: WindowLease, seen: Window, lease_seconds: float) -> bool:
    """Tell whether the retraining of ``lease`` may still be under way: recent, and no new model yet.

    With a clock set back, the lease stays held.
    """
    age = datetime.datetime.fromisoformat(seen.at) - datetime.datetime.fromisoformat(lease.taken_at)
    return lease.model_digest == seen.model_digest and age.total_seconds() < lease_seconds


def cycles(seen: Sequence[Window], leases: Sequence[WindowLease]) -> list[list[float]]:
    """Return dollars lost, one list per stretch of one model; a paid retraining also ends a stretch.

    If the new model was refused, the old one's windows start again from 0, as their loss was acted on once.
    """
    paid = {lease.window for lease in leases}
    found: list[list[float]] = []
    for number, window in enumerate(seen):
        before = seen[number - 1]
        if not number or before.window in paid or before.model_digest != window.model_digest:
            found.append([])
        found[-1].append(window.usd_lost)
    return found
