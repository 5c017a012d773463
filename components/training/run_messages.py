"""Messages between trainer and watcher: small objects in the store, next to the run's checkpoints.

``heartbeat`` (trainer, at the start and after every save), ``done`` and ``failed`` (trainer, at the end),
``stop`` (watcher: end at the next save).
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import msgspec

from deepcuts.components.core import clock, escape, records
from deepcuts.components.core.errors import Preempted, StoreError
from deepcuts.components.core.store import Store
from deepcuts.components.training.lease import Held, Lease


class Heartbeat(msgspec.Struct, frozen=True):
    at: records.Moment
    """UTC, for people and deepcuts clean; a waiting reader uses its own clock and checks for changes."""
    saved: list[int]
    """Steps of all checkpoints committed so far, including deleted ones."""

    def __post_init__(self) -> None:
        """Check the time; a decoder reports the error."""
        records.check_moment(self.at)


class TrainingDone(msgspec.Struct, frozen=True):
    budget_tokens: int
    """The Recipe's. A run with a larger budget has the same checkpoints but is not done."""
    step: int
    tokens: int
    budget_seconds: float = 0.0
    """The Recipe's, likewise."""


class TrainingFailed(msgspec.Struct, frozen=True):
    at: str
    error: str


class Stop(msgspec.Struct, frozen=True):
    """Asks the trainer to stop, because quality has not improved for a while."""

    budget_tokens: int
    scored_step: int
    """The checkpoint whose score decided it."""
    scored_tokens: int
    best_step: int
    best_weights: str
    """Key in the store of the best checkpoint's published weights."""


RunMessage = TypeVar("RunMessage", Heartbeat, TrainingDone, TrainingFailed, Stop)


class RunMessages:
    """The messages of a training run with one budget. Every method raises StoreError.

    A trainer writes none once its lease is lost, as they would be about its successor's run.
    """

    def __init__(
        self, store: Store, training_id: str, budget_tokens: int, budget_seconds: float = 0.0
    ) -> None:
        self._store, self._prefix = store, f"trainings/{training_id}"
        self._budget, self._budget_seconds = budget_tokens, budget_seconds
        self._lease: Lease | None = None

    def start(self) -> None:
        """Report that the trainer is alive, and clear an earlier attempt's failure."""
        if self._lease:
            self._lease.renew()
        self._store.delete(f"{self._prefix}/failed")
        self._beat([])

    def saved(self, step: int) -> None:
        """Report that the trainer has committed a checkpoint."""
        self._beat([step])

    def finish(self, step: int, tokens: int) -> None:
        """Report that the trainer has reached its budget or was stopped."""
        self._tell("done", TrainingDone(self._budget, step, tokens, self._budget_seconds))

    @contextmanager
    def failures(self, lease: Lease | None) -> Iterator[None]:
        """Report any exception in the body to the watcher, while ``lease`` is held.

        A preempted trainer has not failed, as it will be back. One that lost its lease has a successor, whose
        watcher must not leave.
        """
        self._lease = lease
        try:
            yield
        except (Preempted, Held):
            raise
        except Exception as error:
            with suppress(StoreError):  # including Held; the heartbeat then goes stale
                self._tell(
                    "failed", TrainingFailed(clock.utc(), escape.redacted(f"{type(error).__name__}: {error}"))
                )
            raise

    def ask_to_stop(self, scored_step: int, scored_tokens: int, best_step: int, best_weights: str) -> None:
        """Ask the trainer to stop."""
        self._put("stop", Stop(self._budget, scored_step, scored_tokens, best_step, best_weights))

    def heartbeat(self) -> Heartbeat | None:
        return self._get("heartbeat", Heartbeat)

    def done(self) -> TrainingDone | None:
        """Read the message for this budget."""
        done = self._get("done", TrainingDone)
        same = done and (done.budget_tokens, done.budget_seconds) == (self._budget, self._budget_seconds)
        return done if same else None

    def failed(self) -> TrainingFailed | None:
        return self._get("failed", TrainingFailed)

    def stop(self) -> Stop | None:
        """Read the message for this budget."""
        stop = self._get("stop", Stop)
        return stop if stop and stop.budget_tokens == self._budget else None

    def _beat(self, saved: list[int]) -> None:
        before = self.heartbeat()
        steps = sorted({*(before.saved if before else []), *saved})
        self._tell("heartbeat", Heartbeat(clock.utc(), steps))

    def _tell(self, name: str, message: Heartbeat | TrainingDone | TrainingFailed) -> None:
        """Write a message as the trainer; raises Held if another trainer holds the lease."""
        if self._lease:
            self._lease.renew()
        self._put(name, message)

    def _put(self, name: str, message: Heartbeat | TrainingDone | TrainingFailed | Stop) -> None:
        self._store.put_bytes(f"{self._prefix}/{name}", msgspec.json.encode(message))

    def _get(self, name: str, kind: type[RunMessage]) -> RunMessage | None:
        fix = "delete it: the trainer writes it again" if kind is Heartbeat else "delete it, and run again"
        try:
            return records.read(self._store, f"{self._prefix}/{name}", kind, fix)
        except FileNotFoundError:
            return None
