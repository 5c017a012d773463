"""Keep the checkpoint with the lowest valid loss, and use it in place of the last one."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from safetensors.torch import save_file
from torch import nn

from deepcuts.components.core.recipe import Recipe
from deepcuts.components.core.store import Store, Torn, publish, retrieve
from deepcuts.components.training.checkpoints import load_weights, whole_weights
from deepcuts.components.training.render import Rendered
from deepcuts.components.training.sampling import FORWARD_SHARE

EVALUATIONS = 8
MAX_SHARE = 0.01
"""Share of a training's cost that scoring the valid split in the loop may take, if no watcher scores it."""


def with_evaluations(recipe: Recipe, valid: Sequence[Rendered], processes: int) -> Recipe:
    """Return ``recipe`` with up to ``EVALUATIONS`` in its loop if the data is small and they cost little.

    Over a hundred epochs, a model degrades long before the end, and a run of one minute ends before its
    first checkpoint, so no watcher could notice.
    """
    if recipe.evaluations_in_loop or len(valid) < 2 or processes > 1:
        return recipe
    tokens = sum(len(rendered.ids) for rendered in valid)
    paid = int(MAX_SHARE * recipe.budget_tokens / (FORWARD_SHARE * tokens))
    return msgspec.structs.replace(recipe, evaluations_in_loop=min(EVALUATIONS, paid) if paid >= 2 else 0)


class Best:
    """Weights with the lowest loss so far, kept in the store so that a resumed run compares with them."""

    def __init__(self, store: Store, training_id: str, split_digest: str, budget_tokens: int) -> None:
        self._store = store
        self._key = f"trainings/{training_id}/kept-{split_digest[:16]}-{budget_tokens}"
        self.loss = float("inf")
        with tempfile.TemporaryDirectory(prefix="best-") as scratch:
            try:
                retrieve(store, self._key, Path(scratch) / "kept")
                self.loss = msgspec.json.decode((Path(scratch) / "kept/loss.json").read_bytes(), type=float)
            except (FileNotFoundError, Torn):
                pass

    def scoring(self, model: nn.Module, score: Callable[[], float]) -> Callable[[], float]:
        """Wrap ``score`` so that it keeps the weights of ``model`` whenever they are the best so far."""

        def scored() -> float:
            loss = score()
            if loss < self.loss:
                self.loss = loss
                self._keep(model)
            return loss

        return scored

    def put(self, model: nn.Module) -> None:
        """Load the best weights into ``model``.

        Raises:
            FileNotFoundError, Torn: no weights were kept.
        """
        with tempfile.TemporaryDirectory(prefix="best-") as scratch:
            retrieve(self._store, self._key, Path(scratch) / "kept")
            load_weights(model, Path(scratch) / "kept")

    def _keep(self, model: nn.Module) -> None:
        with tempfile.TemporaryDirectory(prefix="best-") as scratch:
            save_file(dict(whole_weights(model)), Path(scratch) / "weights.safetensors")
            (Path(scratch) / "loss.json").write_bytes(msgspec.json.encode(self.loss))
            publish(self._store, Path(scratch), self._key)


def step_of(curve: Sequence[dict[str, float]]) -> int:
    """Return the step with the lowest valid loss in a curve of one record per step; 0 if none was scored."""
    scored = [(record["valid_loss"], step) for step, record in enumerate(curve, 1) if "valid_loss" in record]
    return min(scored)[1] if scored else 0
