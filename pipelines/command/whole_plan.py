"""Plan a whole pipeline before paying: pool, hours and dollars of each task, and of each pool.

The place of training is chosen by the same code as in the run (``components/plan``), from config.json.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deepcuts.components.core import epochs
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.plan import architecture
from deepcuts.components.plan import request as requests
from deepcuts.components.plan.choice import PlanOption
from deepcuts.components.plan.decision import PlanDecision
from deepcuts.pipelines.command import compiled_plan, preview, task_plans
from deepcuts.pipelines.command.task_plans import PlannedRun, TaskPlan
from deepcuts.pipelines.runner import pipeline_spec, spec_types

CONDITION = "condition-"
"""Start of the path of a task that only a decision in the run starts."""
SEARCHES = {"tune", "tune_katib"}


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
    length: str
    """Of a training given in epochs, in tokens; else empty."""

    @property
    def usd(self) -> tuple[float | None, float | None]:
        """Return (p50, p90) of all tasks with a known price; None if a training's is unknown."""
        return _sum(self.tasks)

    @property
    def usd_unconditional(self) -> tuple[float | None, float | None]:
        """Return (p50, p90) of the tasks that run regardless of decisions in the run."""
        return _sum([row for row in self.tasks if not row.conditional])

    @property
    def node_hours(self) -> tuple[float, float]:
        """Return (p50, p90) of the node hours of all tasks, as far as known."""
        low = sum(row.nodes * (row.hours_p50 or 0.0) for row in self.tasks)
        return low, sum(row.nodes * (row.hours_p90 or 0.0) for row in self.tasks)

    @property
    def at_least(self) -> bool:
        """Tell whether the sum is incomplete."""
        return any(row.usd_p50 is None or row.of == task_plans.BEGIN for row in self.tasks)

    @property
    def unbounded(self) -> bool:
        """Tell whether a task's work or price is unknown."""
        return any(row.usd_p90 is None for row in self.tasks)

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


def make(
    pipeline: spec_types.Pipeline,
    given: Mapping[str, Any],
    pools: Mapping[str, NodePool],
    *,
    deadline_hours: float | None = None,
    objective: str | None = None,
    answer_share: float | None = None,
    local: bool = False,
) -> WholePlan:
    """Plan a run of ``pipeline`` with ``given``; a deadline, objective or share passed here takes precedence.

    It is planned for a cluster, where a training may take several nodes, unless it is ``local``.

    Raises:
        ValueError, FileNotFoundError, StoreError: as in the run's own plan, or a model's config is missing.
    """
    known = pipeline.root.input_definitions.parameters
    values = {name: pipeline_spec.whole(each.default_value) for name, each in known.items()} | dict(given)
    named = {"deadline_hours": deadline_hours, "objective": objective, "answer_share": answer_share}
    length = ""
    with tempfile.TemporaryDirectory() as scratch:
        asked = compiled_plan.arguments(pipeline, values, Path(scratch))
        own = asked.given | {name: value for name, value in named.items() if value is not None}
        own |= {} if local else {"run": ""}
        if own["recipe"].epochs:
            tokens = preview.train_tokens(pipeline, values)
            own["recipe"] = epochs.settled(own["recipe"], tokens)
            length = f"at most {epochs.in_words(own['recipe'].budget_tokens, tokens)}; duplicates are dropped"
        request = requests.read(own, spent=())._replace(pools=pools)
        fetched = {name: architecture.read(folder) for name, folder in asked.bases.items()}
    made = request.decide()
    leaves = [
        (path, leaf, compiled_plan.inputs(leaf, values)) for path, leaf in pipeline_spec.leaves(pipeline)
    ]
    searches = [inputs["max_tokens"] for _, leaf, inputs in leaves if SEARCHES & compiled_plan.folders(leaf)]
    run = PlannedRun(request, made, fetched, own["taught"].method, max(searches, default=0))
    tasks = [
        row._replace(conditional=path.startswith(CONDITION))
        for path, leaf, inputs in leaves
        for row in task_plans.rows(path, leaf, inputs, run)
    ]
    return WholePlan(made, tasks, length)


def as_json(whole: WholePlan) -> dict[str, Any]:
    """Return the plan's tasks, sum and pools as JSON values."""
    (low, high), hours, sure = whole.usd, whole.node_hours, whole.usd_unconditional
    total = {"usd_p50": low, "usd_p90": high, "at_least": whole.at_least, "unbounded": whole.unbounded}
    total |= {"node_hours_p50": hours[0], "node_hours_p90": hours[1]}
    return {
        "length": whole.length,
        "tasks": [row._asdict() for row in whole.tasks],
        "total": total | {"unconditional_usd_p50": sure[0], "unconditional_usd_p90": sure[1]},
        "pools": [row._asdict() for row in whole.pools],
    }


def _sum(rows: Sequence[TaskPlan]) -> tuple[float | None, float | None]:
    if any(row.usd_p50 is None for row in rows if row.of == task_plans.TRAINING):
        return None, None
    return sum(row.usd_p50 or 0.0 for row in rows), sum(row.usd_p90 or 0.0 for row in rows)


def _rank(option: PlanOption) -> tuple[bool, float, float]:
    estimate = option.estimate
    if not estimate:
        return True, float("inf"), float("inf")
    usd = float("inf") if estimate.usd_p50 is None else estimate.usd_p50
    return bool(option.missing_bytes), usd, estimate.hours_p50
