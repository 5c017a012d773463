"""Give hints on unknown keys: the recipe's, another tool's, or misspelled ones."""

from collections.abc import Iterable

import msgspec

from deepcuts.components.core import strict
from deepcuts.components.core.other_names import OTHER_NAMES
from deepcuts.components.core.recipe import RECIPE_NAMES, Recipe

RECIPE_KEYS = {field.name for field in msgspec.structs.fields(Recipe)}


def unknown(name: str, known: Iterable[str], pipeline: str) -> str:
    """Return the message for a key of run.yaml that the pipeline does not accept."""
    known = set(known)
    if "recipe" in known and name in RECIPE_KEYS | set(RECIPE_NAMES):
        key = RECIPE_NAMES.get(name, name)
        return f"{name}: a key of recipe: write recipe: {{{key}: VALUE}}, or --set recipe.{key}=VALUE"
    if name in OTHER_NAMES:
        return f"{name}: unknown key: {OTHER_NAMES[name]}"
    said = strict.unknown_key("", name, known)
    listed = f"deepcuts run {pipeline} --help lists all"
    return said if "did you mean" in said else f"{said.partition(': known keys')[0]}: {listed}"


def misplaced(name: str) -> str:
    """Return the message for a pipeline parameter written below ``recipe``."""
    return f"recipe.{name}: not a key of recipe: write {name} at the left margin, or --set {name}=VALUE"
