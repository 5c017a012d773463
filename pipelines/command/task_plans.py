"""Predict pool, hours and dollars of each task of a planned run, or say that they are unknown."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from deepcuts.components.core import pricing, strict
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.plan import scoring, speed
from deepcuts.components.plan.architecture import Architecture
from deepcuts.components.plan.decision import PlanDecision
from deepcuts.components.plan.request import PlanRequest
from deepcuts.components.tune import asha, checks
from deepcuts.components.tune.space import Dimension
from deepcuts.components.tune_katib import algorithms
from deepcuts.pipelines.command.compiled_plan import folders
from deepcuts.pipelines.runner import pipeline_spec

TRAINING = "training"
BEGIN = "its start, without its data"
WAY_UNKNOWN = "not predicted"
ALIKE = "as long as its distillation"
WATCHING = "as long as training"
RESUMED = "its start: the best trial has trained its tokens"
FOLLOWING = "as long as its trials"
WRITES = "sequence"
"""Method of a distillation whose teacher writes answers, of unknown length."""
LOSS = "completion_loss"
"""The only measure whose work is known in advance."""
UNPREDICTED = {"prune", "quantize", "warmstart"}
"""Components that time their own result, or whose work depends on it."""
START_HOURS = speed.START_SECONDS["p50"] / 3600, speed.START_SECONDS["p90"] / 3600


class TaskPlan(NamedTuple):
    """Expected hours and dollars of one task; None is unknown, never 0."""

    task: str
    pool: str
    hours_p50: float | None
    hours_p90: float | None
    usd_p50: float | None
    usd_p90: float | None
    of: str
    """What the figures cover."""
    conditional: bool = False
    """Whether it starts only by a decision in the run."""
    nodes: int = 1
    """Nodes that it holds together."""


class PlannedRun(NamedTuple):
    """A run as known before it starts."""

    request: PlanRequest
    made: PlanDecision
    fetched: Mapping[str, Architecture]
    """Its initial models, by the task that fetches each."""
    teaching: str
    """Method of its distillation; empty without one."""
    searched_tokens: int
    """Tokens of the last rung of its search; 0 without one."""


def rows(path: str, leaf: pipeline_spec.Leaf, given: Mapping[str, Any], run: PlannedRun) -> list[TaskPlan]:
    """Return the row of one task, and another for trials on separate nodes.

    Args:
        path: Path of the task in the pipeline.
        leaf: The task.
        given: Its inputs known before the run.
        run: The planned run.
    """
    title, made, pools = leaf.task.task_info.get("name", path), run.made, run.request.pools
    watch = made.watch.pool if made.watch else ""
    planned = {"train": made.best.pool, "scoring": made.scoring.pool, "watch": watch}
    name = planned.get(pipeline_spec.place(leaf.placement), pipeline_spec.pool(leaf.placement))
    if "tune_katib" in folders(leaf):
        count, of, held, followed = _on_katib(given, run)
        trials = _priced(f"{title}: {count} trials", made.best.pool, pools, held, of)
        return [_priced(title, name, pools, followed, FOLLOWING), trials]
    hours, of = _hours(leaf, name, given, run)
    row = _priced(title, name, pools, hours, of)
    if "finetune" in folders(leaf) and made.best.nodes > 1 and (known := made.best.estimate):
        row = row._replace(usd_p50=known.usd_p50, usd_p90=known.usd_p90, nodes=made.best.nodes)
    return [row]


def _hours(
    leaf: pipeline_spec.Leaf, pool: str, given: Mapping[str, Any], run: PlannedRun
) -> tuple[Sequence[float] | None, str]:
    """Return (hours at p50 and p90, what they cover); None if unpredictable."""
    components, estimate, recipe = folders(leaf), run.made.best.estimate, run.request.task.recipe
    assert estimate
    training = estimate.hours_p50, estimate.hours_p90
    if "finetune" in components:
        same_horizon = recipe.annealed_tokens == run.searched_tokens >= recipe.budget_tokens
        return (START_HOURS, RESUMED) if same_horizon else (training, TRAINING)
    if "distill" in components:
        if run.teaching == WRITES:
            return None, WAY_UNKNOWN
        # a control gets its extra tokens, worth the teacher's time, from the task before it
        return training, TRAINING if "extra_tokens" in given else ALIKE
    if "watch" in components:
        return training, WATCHING
    if "tune" in components:
        search = _search(given)
        return _training(asha.resource(search), run), _of(search)
    if "evaluate" in components:
        return _scoring(leaf, pool, given, run)
    return (None, WAY_UNKNOWN) if components & UNPREDICTED else (START_HOURS, BEGIN)


def _scoring(
    leaf: pipeline_spec.Leaf, pool: str, given: Mapping[str, Any], run: PlannedRun
) -> tuple[Sequence[float] | None, str]:
    components, task = folders(leaf), run.request.task
    source = leaf.task.inputs.artifacts["model"].task_output_artifact if "accept" not in components else None
    shapes = run.fetched.get(source.producer_task, task.shapes) if source else task.shapes
    found = scoring.seconds(shapes, run.request.pools[pool], run.request.work)
    of = f"scoring{' and trying formats' if 'quantize' in components else ''}"
    if more := [measure for measure in given.get("measures", []) if measure != LOSS]:
        of += f", without {', '.join(map(str, more))}"  # the length of answers is unknown
    if found is None:
        return None, of
    evaluating, judging = found
    return [each / 3600 for each in (judging if "accept" in components else evaluating)], of


def _search(given: Mapping[str, Any]) -> asha.Search:
    """Return the search of a task of ``tune`` or ``tune_katib``; raises ValueError as the task would."""
    bounds = [given[name] for name in ("min_tokens", "max_tokens", "eta", "brackets", "configurations")]
    space = strict.decode(dict[str, Dimension], given["space"], "space")
    return algorithms.narrowed(checks.planned(*bounds), given.get("algorithm", algorithms.ASHA), space)


def _of(search: asha.Search) -> str:
    tokens = asha.resource(search)
    return f"{asha.trainings(search)} trainings, {tokens:,} tokens in all, each as the heaviest"


def _training(tokens: int, run: PlannedRun) -> tuple[float, float]:
    """Return the hours of training on ``tokens`` as planned."""
    task, best = run.request.task, run.made.best
    recipe = msgspec.structs.replace(
        task.recipe,
        budget_tokens=tokens,
        schedule_tokens=0,
        micro_batch_size=best.micro_batch_size,
        gradient_checkpointing=best.gradient_checkpointing,
    )
    pool = run.request.pools[best.pool]
    made = speed.estimate(task.shapes, recipe, pool, best.strategy, best.devices, task.answer_share, 0.0)
    return made.hours_p50, made.hours_p90


def _on_katib(given: Mapping[str, Any], run: PlannedRun) -> tuple[int, str, Sequence[float], Sequence[float]]:
    """Return (trials, what they train, hours of their nodes, hours until the last ends).

    Each starts a pod; p90 covers all that Katib may start.
    """
    search, parallel = _search(given), int(given["parallel"])
    count = asha.trainings(search)
    spare = algorithms.SPARE if len(search.levels) > 1 and parallel > 1 else 1.0
    low, high = _training(asha.resource(search), run)
    held = low + (count - 1) * START_HOURS[0], spare * (high + (count - 1) * START_HOURS[1])
    return count, _of(search), held, [each / min(parallel, count) for each in held]


def _priced(
    task: str, name: str, pools: Mapping[str, NodePool], hours: Sequence[float] | None, of: str
) -> TaskPlan:
    if hours is None:
        return TaskPlan(task, name, None, None, None, None, of)
    hourly = pools[name].usd_per_hour if name in pools else None
    usd = [pricing.usd(3600 * each, hourly) for each in hours]
    return TaskPlan(task, name, hours[0], hours[1], usd[0], usd[1], of)
