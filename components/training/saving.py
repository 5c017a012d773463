"""Decide when a training saves, and whether it ends there."""

import time
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import nn

from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training import ranks, sharding
from deepcuts.components.training.checkpoints import Checkpoints, TrainingProgress, assist


class Saver:
    """Commits checkpoints; ``seconds`` is the time they took, ``size_bytes`` the size of the last one.

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
        self._saved_at, self._last_seconds = time.monotonic(), 0.0
        self.seconds, self.size_bytes = 0.0, 0

    def due(self, step_seconds: float) -> bool:
        """Tell whether it is time to save, after a step that took ``step_seconds``."""
        late = time.monotonic() - self._saved_at >= self._recipe.save_every_seconds
        return self._out_of_time(step_seconds + self._last_seconds) or late

    def save(self, progress: TrainingProgress) -> bool:
        """Commit a checkpoint; return whether the run ends here. Called by every rank."""
        began = time.monotonic()
        if self._accelerator.is_main_process:
            self.size_bytes = self._checkpoints.save(self._loss, self._optimizer, progress)
        elif sharding.is_sharded(self._loss):
            assist(self._loss, self._optimizer)
        ends = self.ends(progress)
        self._saved_at = time.monotonic()
        self._last_seconds = self._saved_at - began
        self.seconds += self._last_seconds
        return ends

    def ends(self, progress: TrainingProgress) -> bool:
        """Tell whether the main process wants the run to end at ``progress``."""
        return ranks.agreed(self._ends_here, progress, self._accelerator)
