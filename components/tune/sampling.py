"""Draw new configurations with Optuna's TPE (Bergstra et al. 2011), only from the trials."""

import random
import warnings
from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from deepcuts.components.tune.asha import Draw, Trial
from deepcuts.components.tune.space import Dimension, Scalar, Space, Values, active, grid, key, ordered, text

DRAWS = 20
"""Attempts to draw a new configuration before a finite space is listed instead."""


def draw(space: Space, seed: int, startup: int) -> Draw:
    """Draw at random until a rung has ``startup`` results, then by TPE on the highest such rung.

    The study is rebuilt each time, and random numbers depend only on the seed and the number of the
    assignment, so the same trials give the same answer, also in another process or after a restart.
    """

    def drawn(trials: Sequence[Trial], taken: frozenset[str], number: int) -> Values | None:
        for attempt in range(DRAWS):
            values = _ask(space, trials, startup, random.Random(f"{seed}/{number}/{attempt}").getrandbits(32))
            if key(values) not in taken:
                return values
        left = [values for values in grid(space) if key(values) not in taken]
        return random.Random(f"{seed}/{number}").choice(left) if left else None

    return drawn


def observations(trials: Sequence[Trial], startup: int) -> list[Trial]:
    """Return the finished trials of the highest rung with at least ``startup`` of them."""
    for rung in sorted({trial.rung for trial in trials}, reverse=True):
        finished = [trial for trial in trials if trial.rung == rung and trial.finished]
        if len(finished) >= startup:
            return finished
    return []


def _ask(space: Space, trials: Sequence[Trial], startup: int, seed: int) -> Values:
    seen = observations(trials, startup)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = (
            optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, constant_liar=True)
            if seen
            else optuna.samplers.RandomSampler(seed=seed)
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)
    if seen:
        study.add_trials([_frozen(space, trial) for trial in seen])
        study.add_trials([_frozen(space, trial) for trial in trials if trial.loss is None])
    asked = study.ask()
    values: Values = {}
    for name in ordered(space):
        dimension = space[name]
        if active(dimension, values):
            values[name] = _suggest(asked, name, dimension)
    return values


def _suggest(asked: optuna.Trial, name: str, dimension: Dimension) -> Scalar:
    low, high = dimension.bounds
    match dimension.kind:
        case "choice":
            return dimension.values[asked.suggest_categorical(name, range(len(dimension.values)))]
        case "int":
            return dimension.fitted(asked.suggest_int(name, int(low), int(high), log=dimension.log))
        case "float":
            return dimension.fitted(asked.suggest_float(name, low, high, log=dimension.log))


def _distribution(dimension: Dimension) -> BaseDistribution:
    low, high = dimension.bounds
    match dimension.kind:
        case "choice":  # by index, as Optuna takes True and 1 as equal
            return CategoricalDistribution(range(len(dimension.values)))
        case "int":
            return IntDistribution(int(low), int(high), log=dimension.log)
        case "float":
            return FloatDistribution(low, high, log=dimension.log)


def _frozen(space: Space, trial: Trial) -> FrozenTrial:
    texts = {name: [text(v) for v in space[name].values] for name in trial.values}
    return create_trial(
        state=TrialState.RUNNING if trial.loss is None else TrialState.COMPLETE,
        value=trial.loss,
        params={
            name: texts[name].index(text(value)) if texts[name] else value
            for name, value in trial.values.items()
        },
        distributions={name: _distribution(space[name]) for name in trial.values},
    )
