"""Decide when a training saves, wait for saves, and decide whether it ends there."""

import time
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from deepcuts.components.core.errors import Preempted
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training import ranks
from deepcuts.components.training.checkpoints import Checkpoints, Saved, TrainingProgress


class InFlight(NamedTuple):
    """A save that may not be committed yet."""

    progress: TrainingProgress
    saving: "futures.Future[Saved]"


class Saver:
    """Saves in the background, one at a time, while training continues.

    ``seconds`` is the time that training waited, ``size_bytes`` the size of the last checkpoint, and
    ``background_cpu_seconds`` the CPU time of uploads during training.
    ``ends_here`` and ``out_of_time`` are those of ``loop.train``.
    """

    def __init__(
        self,
        loss: nn.Module,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        accelerator: Accelerator,
        checkpoints: Checkpoints,
        ends_here: Callable[[TrainingProgress], bool],
        out_of_time: Callable[[float], bool],
    ) -> None:
        self._loss, self._optimizer, self._recipe = loss, optimizer, recipe
        self._accelerator, self._checkpoints = accelerator, checkpoints
        self._ends_here, self._out_of_time = ends_here, out_of_time
        self._in_flight: InFlight | None = None
        self._saved_at, self._last_seconds = time.monotonic(), 0.0
        self.seconds, self.background_cpu_seconds, self.size_bytes = 0.0, 0.0, 0

    def after(self, progress: TrainingProgress, step_seconds: float, preempted: bool, last: bool) -> bool:
        """Save if it is time to, after a step that took ``step_seconds``; return whether the run ends here.

        Called by every rank. The last save of a process, which is ``preempted``, out of time or at the end,
        is waited for.

        Raises:
            Preempted: SIGTERM arrived on a rank; a checkpoint is committed.
        """
        saves = 1 if self._in_flight is None else 2  # the one in flight has to end first
        out_of_time = self._out_of_time(step_seconds + saves * self._last_seconds)
        late = time.monotonic() - self._saved_at >= self._recipe.save_every_seconds
        unfinished = self._in_flight is not None and not self._in_flight.saving.done()
        late, preempted, now, unfinished = ranks.on_any(
            self._accelerator, late, preempted, out_of_time or preempted or last, unfinished
        )
        ends = (late or now or not unfinished) and self.settle()
        if late or now or ends:
            self._start(progress)
        if now or ends:
            ends |= self.settle()
        if preempted:
            raise Preempted(
                f"SIGTERM after step {progress.step}: checkpoint committed, the same command resumes from it"
            )
        return ends

    def _start(self, progress: TrainingProgress) -> None:
        began = time.monotonic()
        saving = self._checkpoints.save(self._loss, self._optimizer, progress)
        self._in_flight = InFlight(progress, saving)
        self._saved_at = time.monotonic()
        self.seconds += self._saved_at - began

    def settle(self) -> bool:
        """Wait for the save in flight, if any; return whether the run ends there. Called by every rank."""
        if self._in_flight is None:
            return False
        began, cpu_began = time.monotonic(), time.process_time()
        progress, saving = self._in_flight
        self._in_flight = None
        saved = saving.result()
        waited = time.process_time() - cpu_began  # this thread only waited, so the CPU time is the upload's
        self.background_cpu_seconds += max(0.0, saved.upload_cpu_seconds - waited)
        self.size_bytes, self._last_seconds = saved.size_bytes, saved.seconds
        ends = self.ends(progress)
        self.seconds += time.monotonic() - began
        return ends

    def ends(self, progress: TrainingProgress) -> bool:
        """Tell whether the main process wants the run to end at ``progress``."""
        return ranks.agreed(self._ends_here, progress, self._accelerator)

    def close(self) -> None:
        """Let the save in flight commit, after an error of training; its own error is the lesser one."""
        if self._in_flight:
            with suppress(Exception):
                self._in_flight.saving.result()
