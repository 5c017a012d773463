"""Give hints on unknown keys: the recipe's, another tool's, or misspelled ones."""

import re
from collections.abc import Iterable

import msgspec

from deepcuts.components.core import strict
from deepcuts.components.core.other_names import OTHER_NAMES
from deepcuts.components.core.recipe import RECIPE_NAMES, Recipe

RECIPE_KEYS = {field.name for field in msgspec.structs.fields(Recipe)}


def unknown(name: str, known: Iterable[str], pipeline: str) -> str:
    """Return the message for a key of run.yaml that the pipeline does not accept."""
    known = set(known)
    plain = snake(name)
    shown = name if name.isprintable() else repr(name)
    if plain in known:
        return f"{shown}: unknown key: write {plain}"
    if "recipe" in known and plain in RECIPE_KEYS | set(RECIPE_NAMES):
        key = RECIPE_NAMES.get(plain, plain)
        return f"{shown}: a key of recipe: write recipe: {{{key}: VALUE}}, or --set recipe.{key}=VALUE"
    if plain in OTHER_NAMES:
        return f"{shown}: unknown key: {OTHER_NAMES[plain]}"
    if near := strict.nearest(plain, sorted(known)):
        return f"{shown}: unknown key: did you mean {near!r}?"
    if "recipe" in known and (near := strict.nearest(plain, sorted(RECIPE_KEYS))):
        return f"{shown}: unknown key: did you mean {near!r}, a key of recipe?"
    return f"{shown}: unknown key: deepcuts run {pipeline} --help lists all"


def snake(name: str) -> str:
    """Return ``learningRate``, ``learning-rate`` and ``LEARNING_RATE`` as ``learning_rate``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).replace("-", "_").lower()


def misplaced(name: str) -> str:
    """Return the message for a pipeline parameter written below ``recipe``."""
    return f"recipe.{name}: not a key of recipe: write {name} at the left margin, or --set {name}=VALUE"
