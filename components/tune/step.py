"""Tune: find a Recipe by successive halving that resumes promoted trials (cut 9)."""

from pathlib import Path

from deepcuts.components.core import cli, files, strict
from deepcuts.components.core.bounds import Count, Seed
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.core.store import open_store
from deepcuts.components.training import data_tokens
from deepcuts.components.tune import report, sampling
from deepcuts.components.tune.checks import check, planned
from deepcuts.components.tune.engine import LocalSearch, TrialInputs
from deepcuts.components.tune.space import Dimension
from deepcuts.components.tune.trials import Log, search_id

STARTUP = 10
"""Results of a rung before TPE replaces random draws; Optuna's default."""


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
    seed: Seed,
) -> Facts:
    """Try ``configurations`` of ``space`` on ``recipe``; continue the better ones, up to ``max_tokens``.

    Trials are ``finetune`` processes, ``parallel`` at a time, compared by the loss on ``valid``. All are in
    the ``store``: run the same command again to resume. ``best_recipe`` is the recipe with the best values
    and its own budget; ``trials`` has one JSON record per trial, including failed ones.
    """
    space = strict.current_names(Recipe, space, "space")
    recipe = data_tokens.settled(recipe, train, base)
    check(recipe, space, min_tokens, valid)
    search = planned(min_tokens, max_tokens, eta, brackets, configurations)
    digests = [files.digest(path) for path in (base, train, valid)]
    log = Log(open_store(store), search_id(digests, recipe, space, search, seed))
    inputs = TrialInputs(base, train, valid, store, recipe)
    LocalSearch(search, inputs, log, parallel, sampling.draw(space, seed, STARTUP)).run()
    return report.write(search, log.in_order(), recipe, best_recipe, trials, summary)


if __name__ == "__main__":
    cli.main(tune)
