"""Record the costs of a distillation over all attempts, in the store next to the checkpoints."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import torch

from deepcuts.components.core import records
from deepcuts.components.core.store import Store
from deepcuts.components.training.checkpoints import TrainingProgress


class Costs(msgspec.Struct, frozen=True):
    tokens: int
    """Trained by the student."""
    teacher_tokens: int
    """Read by the teacher, including padding."""
    seconds: float
    """Wall time of teacher, training and saving, without the start of the process."""
    teacher_seconds: float
    """Part of it spent loading and running the teacher."""
    writing_seconds: float = 0.0
    """Part of it in which the student wrote its own answers."""

    def worth_tokens(self) -> int:
        """Return the tokens the student alone could have trained on in the time of teacher and writing."""
        taught = self.teacher_seconds + self.writing_seconds
        return round(self.tokens * taught / max(1e-9, self.seconds - taught))


NOTHING = Costs(0, 0, 0.0, 0.0)


class TrainingClock:
    """Costs of one run: those committed by earlier processes, and this one's so far."""

    def __init__(self, store: Store, training_id: str) -> None:
        self._store, self._key = store, f"trainings/{training_id}/costs.json"
        self._began = time.monotonic()
        self._teacher_tokens, self._teacher_seconds, self._writing_seconds = 0, 0.0, 0.0
        known = store.exists(self._key)
        self._before = records.read(store, self._key, Costs, "delete it for 0") if known else NOTHING
        self.committed = self._before

    @contextmanager
    def teacher(self, tokens: int) -> Iterator[None]:
        """Charge the body's time to the teacher, and the ``tokens`` it reads."""
        began = _now()
        try:
            yield
        finally:
            self._teacher_tokens += tokens
            self._teacher_seconds += _now() - began

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Charge what runs inside to the student's answers."""
        began = _now()
        try:
            yield
        finally:
            self._writing_seconds += _now() - began

    def commit(self, progress: TrainingProgress) -> bool:
        """Save the costs with a checkpoint; return False, as costs never stop a run.

        A rerun that trains nothing adds nothing, so it reports the same as the first run.
        """
        if progress.tokens > self.committed.tokens or self.committed is NOTHING:
            self.committed = Costs(
                progress.tokens,
                self._before.teacher_tokens + self._teacher_tokens,
                self._before.seconds + time.monotonic() - self._began,
                self._before.teacher_seconds + self._teacher_seconds,
                self._before.writing_seconds + self._writing_seconds,
            )
            self._store.put_bytes(self._key, msgspec.json.encode(self.committed))
        return False


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()
