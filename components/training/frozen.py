"""Keep weights frozen at the start of a run (``recipe.frozen``)."""

import math

from torch import nn

from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training import adapters


class Frozen:
    """The weights of ``recipe.frozen``, until they are unfrozen."""

    def __init__(self, loss: nn.Module, recipe: Recipe, tokens: int) -> None:
        self._loss, self._parts = loss, recipe.frozen
        share = recipe.frozen_until_ratio
        self._until_tokens = share * recipe.annealed_tokens if share < 1 else math.inf
        self._digest = adapters.frozen_digest(loss) if self._parts else ""
        self.unfreeze_after(tokens)

    def unfreeze_after(self, tokens: int) -> None:
        """Unfreeze them once this many tokens are trained."""
        if self._parts and tokens >= self._until_tokens:
            self.check()
            adapters.unfreeze(self._loss)
            self._parts = []

    def check(self) -> None:
        """Raise AssertionError if a frozen weight has changed."""
        if self._parts and adapters.frozen_digest(self._loss) != self._digest:
            raise AssertionError(f"weights of {self._parts} changed although they are frozen")
