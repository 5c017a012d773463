"""Tune: find a Recipe by successive halving that resumes what it promotes (cut 9)."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from components.core import cli, files, strict
from components.core.bounds import Count
from components.core.errors import DataError
from components.core.receipts import Facts
from components.core.recipe import EXECUTION, Recipe
from components.core.store import open_store
from components.tune import asha, report, sampling
from components.tune import space as spaces
from components.tune.engine import Engine, Inputs
from components.tune.space import Dimension, Space
from components.tune.trials import Log, search_id

STARTUP = 10
"""Results of a rung before TPE replaces random draws; Optuna's own default."""


def tune(
    base: Path,
    train: Path,
    valid: Path,
    best_recipe: Path,
    trials: Path,
    summary: Path,
    store: str,
    recipe: Recipe,
    space: dict[str, Dimension],
    min_tokens: Count,
    max_tokens: Count,
    eta: Count,
    brackets: Count,
    configurations: Count,
    parallel: Count,
    seed: Annotated[int, Meta(ge=0)],
) -> Facts:
    """Try ``configurations`` of ``space`` on ``recipe``; the better ones train on, up to ``max_tokens``.

    Trials are ``finetune`` processes, ``parallel`` of them at a time, and are compared by the loss on
    ``valid``. All are in the ``store``: re-run the same command to resume. ``best_recipe`` is the recipe
    with the best values and its own budget, ``trials`` one JSON record a trial, failed ones included.
    """
    space = strict.current_names(Recipe, space, "space")
    check(recipe, space, min_tokens, valid)
    search = planned(min_tokens, max_tokens, eta, brackets, configurations)
    digests = [files.digest(path) for path in (base, train, valid)]
    log = Log(open_store(store), search_id(digests, recipe, space, search, seed))
    inputs = Inputs(base, train, valid, store, recipe)
    Engine(search, inputs, log, parallel, sampling.draw(space, seed, STARTUP)).run()
    return report.write(search, log.in_order(), recipe, best_recipe, trials, summary)


def planned(min_tokens: int, max_tokens: int, eta: int, brackets: int, configurations: int) -> asha.Search:
    """Make the search between these budgets.

    Raises:
        ValueError: they make no rungs, or fewer than brackets.
    """
    levels = asha.levels(min_tokens, max_tokens, eta)
    if brackets > len(levels):
        raise ValueError(f"brackets {brackets} with {len(levels)} rungs {list(levels)}: give at most as many")
    return asha.Search(levels, eta, brackets, configurations)


def check(recipe: Recipe, space: Space, min_tokens: int, valid: Path) -> None:
    """Refuse what would fail every trial, before the first is paid for.

    Raises:
        ValueError: everything wrong with space and budget, one a line.
        DataError: ``valid`` is empty.
    """
    spaces.check(space)
    known = [field for field in Recipe.__struct_fields__ if field not in EXECUTION | {"horizon_tokens"}]
    found = [strict.unknown_key("space", name, known) for name in space if name not in known]
    for name, dimension in space.items():
        ends: list[Any] = dimension.values or [dimension.fitted(value) for value in dimension.bounds]
        for value in ends if name in known else []:
            try:
                msgspec.convert({name: value}, Recipe)
            except msgspec.ValidationError as error:
                if "`$." in str(error):  # of this field alone; what contradicts another one is a trial's own
                    found.append(f"space.{name}: {value!r}: {error}")
    if min_tokens < recipe.batch_tokens:
        found.append(
            f"min_tokens {min_tokens} is below recipe.batch_tokens {recipe.batch_tokens}: "
            "a rung holds at least one step; raise the one or lower the other"
        )
    if found:
        raise ValueError("\n".join(found))
    if files.size_bytes(valid) == 0:
        raise DataError(f"{valid} is empty: trials are compared by it, give ingest a valid_share above 0")


if __name__ == "__main__":
    cli.main(tune)
