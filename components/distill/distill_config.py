"""DistillConfig: settings of a distillation; together with the recipe they determine its result."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from deepcuts.components.core import files
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example
from deepcuts.components.core.recipe import Recipe, training_id

METHODS = ("forward-kl", "reverse-kl", "on-policy", "sequence", "none")
WRITTEN = ("on-policy", "sequence")
"""What learns answers that are written to the questions of the data."""


class DistillConfig(msgspec.Struct, frozen=True):
    """Settings of a distillation, checked for contradictions; unused ones have no effect."""

    method: str
    temperature: float
    cross_entropy_weight: float
    hidden_weight: float
    cached_draws: int
    max_new_tokens: int

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is not known: give one of {', '.join(METHODS)}")
        if self.cached_draws and self.compares and (self.method != "forward-kl" or self.hidden_weight):
            raise ValueError(
                f"cached_draws {self.cached_draws} with method {self.method} and hidden_weight "
                f"{self.hidden_weight}: draws estimate the forward KL only; set cached_draws to 0"
            )
        if self.compares and self.cross_entropy_weight == 1:
            raise ValueError("cross_entropy_weight 1 ignores the teacher: lower it, or set method to none")

    @property
    def compares(self) -> bool:
        """Tell whether student and teacher are compared token by token and so need the same vocabulary."""
        return self.method in ("forward-kl", "reverse-kl", "on-policy")

    def used(self) -> dict[str, object]:
        """Return the settings that have an effect with this method."""
        compared = ["temperature", "cross_entropy_weight", "hidden_weight"]
        by_method = {
            "none": [],
            "sequence": ["max_new_tokens"],
            "on-policy": [*compared, "max_new_tokens"],
        }
        used = by_method.get(self.method, [*compared, "cached_draws"])
        return {name: getattr(self, name) for name in ["method", *used]}


def check_questions(records: Iterable[Example], method: str) -> None:
    """Check that there is something to answer where answers are written.

    Raises:
        DataError: an example is plain text.
    """
    if method not in WRITTEN:
        return
    for record in records:
        if len(record.messages) < 2 or record.form:
            raise DataError(
                f"method {method} writes answers, and example {record.id!r} answers nobody: "
                "set method to forward-kl, or give conversations"
            )


def only_one(layers: str, config: dict[str, Any]) -> None:
    """Raise ValueError if both layers to keep and a config for random weights are given."""
    if config and layers != "all":
        raise ValueError(
            f"layers {layers!r} with a config: a student of random weights keeps no layers: set layers to "
            "all, or leave the config empty"
        )


def kept_layers(layers: str, count: int) -> list[int]:
    """Parse ``all``, ``every-2`` (from the first) or ``0,2,4`` into indices below ``count``.

    Raises:
        ValueError: it is none of these, or a layer is repeated, out of order or does not exist.
    """
    if layers == "all":
        return list(range(count))
    if every := re.fullmatch(r"every-([1-9]\d*)", layers):
        return list(range(0, count, int(every[1])))
    if not re.fullmatch(r"\d+(,\d+)*", layers):
        raise ValueError(f"layers {layers!r}: give all, every-2, or indices such as 0,2,4")
    kept = [int(index) for index in layers.split(",")]
    if kept != sorted(set(kept)) or kept[-1] >= count:
        raise ValueError(f"layers {layers!r}: give indices from 0 to {count - 1}, each once, in rising order")
    return kept


def identity(
    recipe: Recipe,
    kd: DistillConfig,
    teacher: Path,
    base: Path,
    train: Path,
    layers: str,
    config: dict[str, Any],
) -> str:
    """Return the run's ``training_id``, from the student's origin, the settings and the teacher."""
    start = {
        "base": files.digest(base),
        "layers": layers,
        "config": config,
        "lesson": kd.used(),
        "teacher": None if kd.method == "none" else files.digest(teacher),
    }
    start_digest = hashlib.sha256(msgspec.json.encode(start, order="deterministic")).hexdigest()
    return training_id(recipe, start_digest, files.digest(train))


def longer(recipe: Recipe, extra_tokens: int) -> Recipe:
    """Return the recipe with a larger budget and a schedule that still ends with it."""
    horizon = recipe.schedule_tokens and recipe.schedule_tokens + extra_tokens
    return msgspec.structs.replace(
        recipe, budget_tokens=recipe.budget_tokens + extra_tokens, schedule_tokens=horizon
    )
