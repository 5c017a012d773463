"""The model to plan for: its config.json, with sizes and traced bytes on demand.

The sizes come from the module tree (``sizes``), which needs torch; it is imported on first use, so that
commands that plan nothing do not wait for it.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.recipe import Recipe

if TYPE_CHECKING:
    from deepcuts.components.plan.profile import Profile
    from deepcuts.components.plan.sizes import ModelSizes

HALF = ("bfloat16", "float16")


class Architecture(NamedTuple):
    config: str
    """The text of config.json, with sorted keys."""

    @property
    def stored_half(self) -> bool:
        """Tell whether the weights are stored in 16 bits, by their config."""
        values = json.loads(self.config)
        return values.get("dtype", values.get("torch_dtype")) in HALF

    @property
    def tree(self) -> "ModelSizes":
        """Return the sizes from the module tree.

        Raises:
            ValueError: it is not a causal language model that transformers ships.
        """
        from deepcuts.components.plan import sizes

        return sizes.tree(self.config)

    def profile(self, recipe: Recipe, padding: float = 1.0, compute_bytes: int = 4) -> "Profile":
        """Return what the Recipe trains, and the bytes it keeps per row (``trace.profile``)."""
        from deepcuts.components.plan import trace

        return trace.profile(self.config, recipe, padding, compute_bytes)


def read(base: Path) -> Architecture:
    """Return the architecture of a model folder.

    Raises:
        FileNotFoundError, DataError: there is no config.json, or it is not one.
    """
    path = base / "config.json"
    try:
        return parse(json.loads(path.read_bytes()))
    except (TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: no model's configuration ({error}): fetch the model again") from error


def parse(config: dict[str, Any]) -> Architecture:
    """Parse the values of config.json; missing values have transformers' defaults."""
    if not isinstance(config, dict) or "model_type" not in config:
        raise TypeError("it names no model_type")
    return Architecture(json.dumps(config, sort_keys=True))
