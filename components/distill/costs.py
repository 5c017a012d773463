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

    def worth_tokens(self) -> int:
        """Return the tokens that the student alone could have trained on in the teacher's time."""
        return round(self.tokens * self.teacher_seconds / max(1e-9, self.seconds - self.teacher_seconds))


NOTHING = Costs(0, 0, 0.0, 0.0)


class TrainingClock:
    """Costs of one run: those committed by earlier processes, and this one's so far."""

    def __init__(self, store: Store, training_id: str) -> None:
        self._store, self._key = store, f"trainings/{training_id}/costs.json"
        self._began = time.monotonic()
        self._teacher_tokens, self._teacher_seconds = 0, 0.0
        known = store.exists(self._key)
        self._before = records.read(store, self._key, Costs, "delete it for 0") if known else NOTHING
        self.committed = self._before

    @contextmanager
    def teacher(self, tokens: int) -> Iterator[None]:
        """Charge the body's time to the teacher, and the ``tokens`` it reads."""
        _wait()
        began = time.monotonic()
        try:
            yield
        finally:
            _wait()
            self._teacher_tokens += tokens
            self._teacher_seconds += time.monotonic() - began

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
            )
            self._store.put_bytes(self._key, msgspec.json.encode(self.committed))
        return False


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
