"""Plan a whole pipeline before paying: pool, hours and dollars of each task, and of each pool.

The place of training is chosen by the same code as in the run (``components/plan``), from config.json.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deepcuts.components.core import pricing, recipe, strict
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.plan import architecture, scoring, speed
from deepcuts.components.plan import decision as decisions
from deepcuts.components.plan.budget import RESERVE_SHARE
from deepcuts.components.plan.choice import PlanOption, PlanTask
from deepcuts.components.plan.decision import PlanDecision, PlanTerms
from deepcuts.components.plan.placing import CompiledFor, Wish
from deepcuts.components.plan.scoring import ScoringWork
from deepcuts.components.plan.students import NO_TEACHER
from deepcuts.components.quantize import served
from deepcuts.components.tune.space import Dimension
from deepcuts.pipelines.run_file import places
from deepcuts.pipelines.runner import pipeline_spec, spec_types

TRAINING = {"finetune"}
SEARCHES = {"distill", "tune", "tune_katib", "prune", "quantize", "warmstart"}
"""Steps whose work is not predicted."""
BEGIN = "its start, without its data"
WAY_UNKNOWN = "not predicted"


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


class PoolPlan(NamedTuple):
    """The best way to train on one pool."""

    pool: str
    chosen: bool
    way: str
    hours_p50: float | None
    hours_p90: float | None
    usd_p50: float | None
    usd_p90: float | None
    reason: str


class WholePlan(NamedTuple):
    decision: PlanDecision
    tasks: list[TaskPlan]

    @property
    def usd(self) -> tuple[float | None, float | None]:
        """Return (p50, p90) of all tasks with a known price; None if a training's is unknown."""
        if any(row.usd_p50 is None for row in self.tasks if row.of == "training"):
            return None, None
        return sum(row.usd_p50 or 0.0 for row in self.tasks), sum(row.usd_p90 or 0.0 for row in self.tasks)

    @property
    def at_least(self) -> bool:
        """Tell whether the sum is incomplete."""
        return any(row.usd_p50 is None or row.of in (BEGIN, WAY_UNKNOWN) for row in self.tasks)

    @property
    def pools(self) -> list[PoolPlan]:
        """Return the best option of each pool, the chosen one first."""
        found: dict[str, PoolPlan] = {}
        for option in [self.decision.best, *sorted(self.decision.rejected, key=_rank)]:
            if option.pool not in found:
                known = option.estimate if not option.missing_bytes else None
                found[option.pool] = PoolPlan(
                    pool=option.pool,
                    chosen=option is self.decision.best,
                    way=option.name,
                    hours_p50=known.hours_p50 if known else None,
                    hours_p90=known.hours_p90 if known else None,
                    usd_p50=known.usd_p50 if known else None,
                    usd_p90=known.usd_p90 if known else None,
                    reason=option.reason,
                )
        return list(found.values())


def is_planned(pipeline: spec_types.Pipeline) -> bool:
    """Tell whether the pipeline trains a base by a recipe, so that ``make`` can plan it."""
    return {"base_uri", "recipe"} <= set(pipeline.root.input_definitions.parameters)


def make(
    pipeline: spec_types.Pipeline,
    given: Mapping[str, Any],
    pools: Mapping[str, NodePool],
    *,
    deadline_hours: float | None = None,
    objective: str = "cheapest",
    answer_share: float = 1.0,
) -> WholePlan:
    """Plan a run of ``pipeline`` with ``given``, whose deadline applies unless another is given.

    Raises:
        ValueError, FileNotFoundError, StoreError: as in the run's own plan, or the base's config is missing.
    """
    known = pipeline.root.input_definitions.parameters
    values = {name: pipeline_spec.whole(each.default_value) for name, each in known.items()} | dict(given)
    if deadline_hours is None:
        deadline_hours = float(values.get("deadline_hours") or 0)
    wanted = recipe.parse(values["recipe"] or {})
    leaves = dict(pipeline_spec.leaves(pipeline))
    asked = asked_by_run(leaves, values)
    bounds = float(values.get("budget_usd") or 0), asked.reserve_share
    with tempfile.TemporaryDirectory() as scratch:
        base = config_folder(str(values["base_uri"]), Path(scratch))
        task = PlanTask(architecture.read(base), wanted, answer_share)
    if healing := values.get("heal_method"):
        task = task._replace(teacher=None if healing == NO_TEACHER else task.shapes, single=True)
    if space := values.get("space"):
        dimensions = strict.decode(dict[str, Dimension], space, "space")
        task = decisions.heaviest(task, dimensions)._replace(copies=asked.parallel)
    terms = PlanTerms(deadline_hours, objective, *bounds)
    made = decisions.decide(task, pools, asked.wish, terms, asked.work)
    return WholePlan(made, [_row(path, leaf, pools, made) for path, leaf in leaves.items()])


class Asked(NamedTuple):
    """Arguments of the run's planning task."""

    wish: Wish
    work: ScoringWork
    reserve_share: float
    parallel: int


def asked_by_run(leaves: Mapping[str, pipeline_spec.Leaf], values: Mapping[str, Any]) -> Asked:
    """Return what the run itself asks of its plan.

    Raises:
        ValueError: the run has no planning task, or one of another version.
    """
    for leaf in leaves.values():
        if "plan" in _steps(leaf):
            known: dict[str, Any] = {}
            for name, source in leaf.task.inputs.parameters.items():
                if source.runtime_value is not None:
                    known[name] = source.runtime_value["constant"]
                elif source.component_input_parameter:
                    known[name] = values.get(source.component_input_parameter.rpartition("--")[2])
            if not {"pool", "spot", "compiled_for", "max_examples", "max_tokens"} <= known.keys():
                break
            watched = any("watch" in _steps(one) for one in leaves.values())
            compiled_for = strict.decode(CompiledFor, known["compiled_for"], "compiled_for")
            formats = known.get("candidates", [served.OFF]), known.get("serve_on", "cpu")
            sizes = int(known["max_examples"]), int(known["max_tokens"])
            return Asked(
                Wish(known["pool"], known["spot"], compiled_for, watched),
                scoring.work(*sizes, *formats),
                RESERVE_SHARE if "budget_usd" in known else 0.0,
                int(known.get("parallel", 1)),
            )
    raise ValueError("this file was compiled by another version: run deepcuts compile again")


def config_folder(uri: str, scratch: Path) -> Path:
    """Return a folder with the config.json of the model at ``uri``, downloading nothing else.

    Raises:
        ValueError, FileNotFoundError, StoreError: it is missing or may not be read.
    """
    if path := places.local(uri):
        return path
    pinned = places.pinned({"base_uri": uri}, None, lambda text: None)["base_uri"]
    from deepcuts.components.fetch import sources  # takes half a second to import

    sources.locate(pinned, "model").copy(["config.json"], scratch / "base")
    if not (scratch / "base" / "config.json").is_file():
        raise FileNotFoundError(f"base_uri {uri!r}: no config.json there: check the name")
    return scratch / "base"


def as_json(whole: WholePlan) -> dict[str, Any]:
    """Return the plan's tasks, sum and pools as JSON values."""
    low, high = whole.usd
    return {
        "tasks": [row._asdict() for row in whole.tasks],
        "total": {"usd_p50": low, "usd_p90": high, "at_least": whole.at_least},
        "pools": [row._asdict() for row in whole.pools],
    }


def _row(path: str, leaf: pipeline_spec.Leaf, pools: Mapping[str, NodePool], made: PlanDecision) -> TaskPlan:
    steps, place = _steps(leaf), pipeline_spec.place(leaf.placement)
    watch = made.watch.pool if made.watch else ""
    planned = {"train": made.best.pool, "scoring": made.scoring.pool, "watch": watch}
    name = planned.get(place, pipeline_spec.pool(leaf.placement))
    pool, estimate = pools.get(name), made.best.estimate
    title = leaf.task.task_info.get("name", path)
    assert estimate
    if TRAINING & steps:
        return TaskPlan(title, name, *estimate[1:], "training")
    if steps & SEARCHES and "evaluate" not in steps:
        return TaskPlan(title, name, None, None, None, None, WAY_UNKNOWN)
    if "watch" in steps:
        return _priced(title, name, pool, (estimate.hours_p50, estimate.hours_p90), "as long as training")
    if "evaluate" in steps and made.scoring.hours_p50 is not None and made.scoring.hours_p90 is not None:
        share = made.scoring.evaluate_share  # of evaluate and judge, which are placed together
        share = 1 - share if "accept" in steps else share
        hours = share * made.scoring.hours_p50, share * made.scoring.hours_p90
        more = " and trying formats" if "quantize" in steps else ""
        return _priced(title, name, pool, hours, f"scoring{more}")
    start = speed.START_SECONDS["p50"] / 3600, speed.START_SECONDS["p90"] / 3600
    return _priced(title, name, pool, start, BEGIN)


def _priced(task: str, name: str, pool: NodePool | None, hours: Sequence[float], of: str) -> TaskPlan:
    hourly = pool.usd_per_hour if pool else None
    usd = [pricing.usd(3600 * each, hourly) for each in hours]
    return TaskPlan(task, name, hours[0], hours[1], usd[0], usd[1], of)


def _steps(leaf: pipeline_spec.Leaf) -> set[str]:
    return {module.split(".")[2] for module in pipeline_spec.steps(leaf).values()}


def _rank(option: PlanOption) -> tuple[bool, float, float]:
    estimate = option.estimate
    if not estimate:
        return True, float("inf"), float("inf")
    usd = float("inf") if estimate.usd_p50 is None else estimate.usd_p50
    return bool(option.missing_bytes), usd, estimate.hours_p50
