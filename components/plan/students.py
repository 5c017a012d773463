"""Describe the student of a distillation to the planner."""

import json
from pathlib import Path
from typing import Any

import msgspec

from deepcuts.components.core.recipe import Recipe
from deepcuts.components.distill.distill_config import kept_layers
from deepcuts.components.plan import architecture
from deepcuts.components.plan.architecture import Architecture
from deepcuts.components.plan.choice import PlanTask

NO_TEACHER = "none"
"""Method of a distillation without a teacher."""


class Teaching(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How ``distill`` makes a student; by default there is none."""

    teacher: str = ""
    """Folder of the teacher."""
    layers: str = "all"
    config: dict[str, Any] = {}
    method: str = ""
    """Method of ``distill``; empty if another step trains."""

    def task(self, base: Architecture, recipe: Recipe, answer_share: float) -> PlanTask:
        """Return the training of the student of ``base``; raises as ``student``."""
        asked = self.teacher and self.method not in ("", NO_TEACHER)
        teacher = architecture.read(Path(self.teacher)) if asked else None
        shapes = student(base, self.layers, self.config)
        task = PlanTask(shapes, recipe, answer_share, teacher=teacher, single=bool(self.method))
        return task._replace(writes=self.method == "on-policy")


def student(base: Architecture, layers: str, config: dict[str, Any]) -> Architecture:
    """Return the architecture of a student of ``base``, as ``distill`` builds it.

    Raises:
        ValueError: the base does not have these layers.
    """
    if layers == "all" and not config:
        return base
    values = json.loads(base.config) | config
    kept = kept_layers(layers, base.tree.layers)
    if layers != "all":
        values["n_layer" if "n_layer" in values else "num_hidden_layers"] = len(kept)
    kinds = values.pop("layer_types", None)  # from_config drops it, too, if the layers change
    if kinds and "num_hidden_layers" not in config:
        values["layer_types"] = [kinds[layer] for layer in kept]
    return base._replace(config=json.dumps(values, sort_keys=True))
