"""Refuse invalid searches before the first trial is paid for, here and on Katib."""

from pathlib import Path
from typing import Any

import msgspec

from deepcuts.components.core import files, strict
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.recipe import EXECUTION, Recipe
from deepcuts.components.tune import asha
from deepcuts.components.tune import space as spaces
from deepcuts.components.tune.space import Space


def planned(min_tokens: int, max_tokens: int, eta: int, brackets: int, configurations: int) -> asha.Search:
    """Return the search between these budgets.

    Raises:
        ValueError: they give no rungs, or fewer than brackets.
    """
    levels = asha.levels(min_tokens, max_tokens, eta)
    if brackets > len(levels):
        raise ValueError(f"brackets {brackets} with {len(levels)} rungs {list(levels)}: give at most as many")
    return asha.Search(levels, eta, brackets, configurations)


def check(recipe: Recipe, space: Space, min_tokens: int, valid: Path) -> None:
    """Refuse settings with which every trial would fail.

    Raises:
        ValueError: all problems with space and budget, one per line.
        DataError: ``valid`` is empty.
    """
    check_space(recipe, space, min_tokens)
    if recipe.epochs:
        raise ValueError(
            f"recipe.epochs {recipe.epochs:g}: a search takes the last training's length in tokens, which "
            "plan makes of them: set recipe.budget_tokens"
        )
    if files.size_bytes(valid) == 0:
        raise DataError(f"{valid} is empty: trials are compared by it, give ingest a valid_share above 0")


def _unknown(name: str, known: list[str]) -> str:
    if name in ("epochs", "budget_tokens"):
        return f"space.{name}: a search sets its trials' length: give search_min_tokens, search_max_tokens"
    return strict.unknown_key("space", name, known)


def check_space(recipe: Recipe, space: Space, min_tokens: int) -> None:
    """Refuse a space in which every trial would fail; raises ValueError like ``check``."""
    spaces.check(space)
    known = [field for field in Recipe.__struct_fields__ if field not in EXECUTION | {"schedule_tokens"}]
    found = [_unknown(name, known) for name in space if name not in known]
    for name, dimension in space.items():
        ends: list[Any] = dimension.values or [dimension.fitted(value) for value in dimension.bounds]
        for value in ends if name in known else []:
            try:
                msgspec.convert({name: value}, Recipe)
            except msgspec.ValidationError as error:
                if "`$." in str(error):  # about this field only; contradictions are left to the trial
                    found.append(f"space.{name}: {value!r}: {error}")
    if min_tokens < recipe.tokens_per_step:
        found.append(
            f"min_tokens {min_tokens} is below recipe.tokens_per_step {recipe.tokens_per_step}: "
            "a rung holds at least one step; raise the one or lower the other"
        )
    if found:
        raise ValueError("\n".join(found))
