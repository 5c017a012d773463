"""Translate Katib's requests to the terms of the search."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from deepcuts.components.core import strict
from deepcuts.components.core.bounds import Count, Seed
from deepcuts.components.tune import space as spaces
from deepcuts.components.tune import suggestion_pb2 as pb
from deepcuts.components.tune.asha import RungEntry, Search, Trial
from deepcuts.components.tune.space import Dimension, Scalar, Space, Values, text

LEDGER = "asha-ledger"
STARTUP = 10
WORST = (pb.TrialStatus.FAILED, pb.TrialStatus.KILLED, pb.TrialStatus.METRICSUNAVAILABLE)
OVER = (pb.TrialStatus.SUCCEEDED, pb.TrialStatus.EARLYSTOPPED)


class SearchSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Algorithm settings of an Experiment."""

    resource: str
    """The parameter with a trial's budget."""
    min_resource: Count
    max_resource: Count
    eta: Annotated[int, Meta(ge=2)] = 3
    brackets: Count = 1
    startup: Count = STARTUP
    """Results of a rung before TPE replaces random draws."""
    seed: Seed = 0
    conditions: dict[str, dict[str, list[Scalar]]] = {}
    """``when`` by parameter (``space.py``). Inactive parameters get their first value, as Katib requires
    every parameter in every trial."""


def settings_of(algorithm: pb.AlgorithmSpec) -> SearchSettings:
    """Read the user's settings, which all come as text.

    Raises:
        ValueError: names unknown, missing and invalid settings.
    """
    given = {item.name: item.value for item in algorithm.algorithm_settings if item.name != LEDGER}
    return strict.decode(
        SearchSettings, {name: v if name == "resource" else _json(v) for name, v in given.items()}, "settings"
    )


def space_of(parameters: Sequence[pb.ParameterSpec], settings: SearchSettings) -> Space:
    """Return the parameters to search, without the resource.

    Raises:
        ValueError: the resource is missing, or a parameter cannot be searched.
    """
    if settings.resource not in {parameter.name for parameter in parameters}:
        raise ValueError(f"resource {settings.resource!r} is not among the parameters: declare it there")
    unknown = settings.conditions.keys() - {parameter.name for parameter in parameters}
    if unknown:
        raise ValueError(f"conditions on {sorted(unknown)}: no such parameters")
    space = {
        parameter.name: _dimension(parameter, settings.conditions.get(parameter.name, {}))
        for parameter in parameters
        if parameter.name != settings.resource
    }
    spaces.check(space)
    return space


def filled(space: Space, values: Values) -> Values:
    """Add the first value of every inactive dimension to ``values``."""
    resting = {
        name: dimension.values[0] if dimension.values else dimension.fitted(dimension.bounds[0])
        for name, dimension in space.items()
    }
    return resting | values


def known(
    request: pb.GetSuggestionsRequest, space: Space, search: Search, settings: SearchSettings, held: int
) -> tuple[list[Trial], list[RungEntry]]:
    """Return (trials of this experiment, all assignments that the controller still has).

    Trials not in the ledger are of an experiment of the same name in another namespace, as Katib sends them
    together. Of two with the same entry, the unfinished one counts, so that none is promoted too early. If
    the ledger is longer than the controller's list, its newest trials were dropped by a lowered
    parallelTrialCount and are assigned again.
    """
    sign = -1.0 if request.experiment.spec.objective.type == pb.MAXIMIZE else 1.0
    found = [
        trial for item in request.trials if (trial := _trial(item, space, search, settings, sign)) is not None
    ]
    stored = [s.value for s in request.experiment.spec.algorithm.algorithm_settings if s.name == LEDGER]
    if stored:
        ledger = msgspec.json.decode(stored[-1], type=list[RungEntry])
    else:
        ledger = [trial.entry for trial in found] if held else []
    shown = {trial.entry for trial in found}
    hidden = [place for place, entry in enumerate(ledger) if entry not in shown]
    gone = max(0, len(ledger) - held)
    for place in reversed(hidden[len(hidden) - min(gone, len(hidden)) :]):
        del ledger[place]
    ours = set(ledger)
    found.sort(key=lambda trial: trial.loss is None)
    return list({trial.entry: trial for trial in found if trial.entry in ours}.values()), ledger


def _trial(
    item: pb.Trial, space: Space, search: Search, settings: SearchSettings, sign: float
) -> Trial | None:
    """Convert a trial for the search; None if it cannot be one of ours."""
    given = {a.name: a.value for a in item.spec.parameter_assignments.assignments}
    resource, resources = given.pop(settings.resource, ""), [str(level) for level in search.levels]
    try:
        values, rung = spaces.read(space, given), resources.index(resource)
    except ValueError:
        return None
    loss = sign * _metric(item) if item.status.condition in OVER else None
    if item.status.condition in WORST:
        loss = math.nan
    return Trial(values, rung, loss)


def _metric(item: pb.Trial) -> float:
    """Return the objective's value; NaN if it is missing or does not parse (nan arrives as "")."""
    name = item.spec.objective.objective_metric_name
    found = [metric.value for metric in item.status.observation.metrics if metric.name == name]
    try:
        return float(found[0]) if found else math.nan
    except ValueError:
        return math.nan


def _dimension(parameter: pb.ParameterSpec, when: Mapping[str, list[Scalar]]) -> Dimension:
    space, name = parameter.feasible_space, parameter.name
    try:
        if parameter.parameter_type in (pb.DISCRETE, pb.CATEGORICAL):
            return Dimension(kind="choice", values=list(space.list), when=dict(when))
        if parameter.parameter_type not in (pb.DOUBLE, pb.INT):
            raise ValueError("its type is unknown: give double, int, discrete or categorical")
        if space.distribution not in (pb.DISTRIBUTION_UNSPECIFIED, pb.UNIFORM, pb.LOG_UNIFORM):
            raise ValueError("its distribution is neither uniform nor logUniform: take one of these")
        whole = parameter.parameter_type == pb.INT
        low, high = float(space.min), float(space.max)
        if space.step and not (whole and float(space.step) == 1):
            return Dimension(
                kind="choice", values=_steps(low, high, float(space.step), whole), when=dict(when)
            )
        log = space.distribution == pb.LOG_UNIFORM
        return Dimension(kind="int" if whole else "float", min=low, max=high, log=log, when=dict(when))
    except ValueError as error:
        raise ValueError(f"parameter {name!r}: {error}") from error


def _steps(low: float, high: float, step: float, whole: bool) -> list[Scalar]:
    if not step > 0 or (high - low) / step > spaces.MAX_LISTED:
        raise ValueError(f"step {step} from {low} to {high}: give at most {spaces.MAX_LISTED} steps")
    count = math.floor((high - low) / step + 1e-9) + 1
    values = [float(f"{low + place * step:.6g}") for place in range(count)]
    return [text(int(value) if whole else value) for value in values]


def _json(value: str) -> Any:
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value  # strict says what was expected
