"""Decide how and where to train, and where to score models; for ``deepcuts plan`` and runs."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from deepcuts.components.core import pods
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.recipe import Recipe, parse
from deepcuts.components.ledger.charges import Charge
from deepcuts.components.plan import choice, placing, scoring
from deepcuts.components.plan.budget import Budget, budget
from deepcuts.components.plan.choice import Measurement, PlanOption, PlanTask
from deepcuts.components.plan.memory import predict
from deepcuts.components.plan.placing import CORES_OF_DEVICE, Wish
from deepcuts.components.plan.scoring import ScoringOption, ScoringWork
from deepcuts.components.tune.space import Dimension


class PlanTerms(NamedTuple):
    """Limits on the decision."""

    deadline_hours: float = 0.0
    objective: str = "cheapest"
    budget_usd: float = 0.0
    reserve_share: float = 0.0
    spent: Sequence[Charge] = ()


class PlanDecision(NamedTuple):
    best: PlanOption
    rejected: list[PlanOption]
    scoring: ScoringOption
    """Where models are evaluated and judged."""
    scoring_rejected: list[ScoringOption]
    watch: ScoringOption | None
    """Where checkpoints are scored during training; None without a watcher."""
    watch_rejected: list[ScoringOption]
    money: Budget | None


def decide(
    task: PlanTask,
    pools: Mapping[str, NodePool],
    wish: Wish,
    terms: PlanTerms,
    work: ScoringWork,
    calibrate: Measurement = Measurement(),  # noqa: B008  (frozen)
) -> PlanDecision:
    """Return the cheapest places that hold the work.

    Raises:
        ValueError: nothing fits, or meets the deadline or the budget.
    """
    not_scoring = placing.barred_scoring(pools, wish)
    scored, elsewhere = scoring.choose(
        task.largest, pools, not_scoring, work, task.answer_share, terms.objective
    )
    watch: ScoringOption | None = None
    other_watch: list[ScoringOption] = []
    if wish.watched:
        watch, other_watch = scoring.choose_watch(task.shapes, pools, not_scoring, task.answer_share)
    watcher = watch.pool if watch else ""
    money = budget(terms.budget_usd, terms.reserve_share, terms.spent, watcher, pools)
    alongside = tuple(pools[name] for name in sorted({scored.pool, watcher} - {""}))
    best, rejected = train(task._replace(alongside=alongside), pools, wish, terms, money, calibrate)
    return PlanDecision(best, rejected, scored, elsewhere, watch, other_watch, money)


def train(
    task: PlanTask,
    pools: Mapping[str, NodePool],
    wish: Wish,
    terms: PlanTerms,
    money: Budget | None,
    calibrate: Measurement,
) -> tuple[PlanOption, list[PlanOption]]:
    """Return (chosen option, rejected ones); raises the errors of ``decide``."""
    barred, recipe, context = placing.barred(pools, wish), task.recipe, task.shapes.tree.context
    if recipe.seq_len > context:
        raise ValueError(f"recipe.seq_len {recipe.seq_len} is above the model's context {context}: lower it")
    task = choice.calibrated(task, pools, calibrate)
    found = choice.options(task, pools)
    try:
        return choice.choose(found, terms.deadline_hours, terms.objective, barred, money)
    except ValueError as error:
        if all(option.missing_bytes for option in found):
            raise ValueError(f"{error}: {choice.nearest_change(task, pools)}") from error
        raise


def outputs(
    made: PlanDecision, task: PlanTask, pools: Mapping[str, NodePool], recipe: Recipe, work: ScoringWork
) -> dict[str, Any]:
    """Return the requests of a run's pods, by output of the component; ``recipe`` is the one decided."""
    pool, scored, best = pools[made.best.pool], pools[made.scoring.pool], made.best
    watch = pools[made.watch.pool] if made.watch else scored
    share = placing.share(pool, (scored, watch))
    cores = pods.cores(pool, share)
    if pool.accelerator:
        cores = min(cores, CORES_OF_DEVICE * best.devices)
        wanted = placing.host_bytes(task.shapes, recipe, best.memory, best.devices, best.nodes)
        wanted += scoring.stored_bytes(task.teacher) if task.teacher else 0
    else:
        wanted = float(best.memory.total)
    memory = placing.quantity(task.copies * wanted, share * pool.memory_bytes)
    if best.nodes > 1:
        asked = placing.spread(pool, best.nodes, cores, memory, best.devices, pools)
    else:
        asked = placing.pod("train", pool, cores, memory, best.devices) | {"train_nodes": {}}
    for place, where in (("scoring", scored), ("watch", watch)):
        # one size for all scoring, with or without formats: each input of a task is 1 kB of a run's status
        formats = work.quantizes if place == "scoring" else "no"
        needed = scoring.load(task.largest, where, task.answer_share, formats)
        part = pods.SCORING_SHARE if placing.meets(where, (pool,)) else pods.NODE_SHARE
        cores = pods.cores(where, part)
        if where.accelerator and formats != "cpu":  # llama.cpp runs on the CPU
            cores = min(cores, CORES_OF_DEVICE)
        asked |= placing.pod(place, where, cores, _of_node(needed.host, where), 1)
    return asked


def _of_node(wanted: float, pool: NodePool) -> str:
    """Return a memory request no larger than a node; pods that do not fit together wait."""
    return placing.quantity(wanted, pods.NODE_SHARE * pool.memory_bytes)


def heaviest(task: PlanTask, space: Mapping[str, Dimension]) -> PlanTask:
    """Return the task with the recipe of ``space`` that needs most memory, as every trial must fit.

    Tries each dimension at its ends, with the others unchanged; contradictory values are left to the trial.
    """
    recipes = [task.recipe]
    for name, dimension in space.items():
        ends = dimension.values or [dimension.fitted(value) for value in dimension.bounds]
        for recipe in tuple(recipes):
            for value in ends:
                with contextlib.suppress(ValueError, msgspec.ValidationError):
                    recipes.append(parse(msgspec.to_builtins(recipe) | {name: value}))
        recipes = [max(recipes, key=lambda recipe: _cpu_bytes(task, recipe))]
    return task._replace(recipe=recipes[0])


def _cpu_bytes(task: PlanTask, recipe: Recipe) -> int:
    batch = choice.load(recipe, False, task.answer_share)
    return predict(task.shapes, recipe, batch, "single", 1, False, 1.0).total
