"""Savings: what each arm of a study costs at the reference's quality. Pure; results in, comparisons out."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from deepcuts.components.core import scorecards
from deepcuts.components.core.scorecards import Comparison, Score
from deepcuts.pipelines.studies.study_spec import Study, StudyTrial

SEED = 0
"""Of the bootstrap; it moves bounds by about 0.02 standard errors."""


class RunCost(msgspec.Struct, frozen=True):
    """All of a run: search and serving are counted elsewhere."""

    cpu_seconds: float
    train_cpu_seconds: float
    """In forward, backward and optimizer alone: the rest of a short run is the start of its processes."""
    wall_seconds: float
    """Added up over tasks, as a node of each would be billed."""
    usd: float | None
    """At the prices of the node pools that tasks are placed on; None if one is unknown."""
    trained_tokens: int
    verdicts: dict[str, str]
    """What steps said of their cuts."""


class TrialResult(NamedTuple):
    trial: StudyTrial
    loss: float
    scores: Sequence[Score]
    cost: RunCost


class SavingsRow(msgspec.Struct, frozen=True):
    """One arm at one budget, over its seeds."""

    arm: str
    why: str
    budget_tokens: int
    seeds: int
    loss: float
    """Mean over seeds, nats per answer token."""
    loss_sd: float | None
    """Between seeds."""
    cost: RunCost
    """Mean over seeds, its search included."""
    comparisons: dict[str, Comparison | None]
    """With each arm it is compared with at the same budget, paired by seed and example."""


class Saving(msgspec.Struct, frozen=True):
    """The smallest budget at which an arm is non-inferior to the reference at its largest."""

    arm: str
    reached: bool
    """False: at no budget. The rest is then of the largest, and the ratios are bounds from above."""
    budget_tokens: int
    cost: RunCost
    comparison: Comparison | None
    """None where the two share no seed."""
    cpu_ratio: float | None = None
    """The reference's own cost to that quality over this arm's, CPU-seconds of all tasks; above 1 saves."""
    train_ratio: float | None = None
    """The same of training alone."""
    usd_ratio: float | None = None


class Findings(msgspec.Struct, frozen=True):
    study: str
    question: str
    margin_nats: float
    rows: list[SavingsRow]
    savings: list[Saving]
    predicted_ratio: float | None
    """Product of the training ratios of the arms that add one cut; 1 for one that saves nothing."""
    joint_ratio: float | None
    """The reference's training cost over the joint arm's; None where that never reaches the quality."""
    naive_ratio: float | None
    """The naive arm's over the joint arm's; a bound from below where the naive arm never reaches it."""
    naive_reached: bool
    missing: list[str]
    """Trials that did not end well."""


def find(study: Study, results: Sequence[TrialResult], missing: Sequence[str]) -> Findings:
    """Return all comparisons that the results at hand allow."""
    rows = [
        row(study, results, arm.name, budget)
        for arm in study.arms
        for budget in arm.budgets or study.budgets
        if chosen(results, arm.name, budget)
    ]
    saved = savings(study, results)
    by_arm = {saving.arm: saving for saving in saved}
    paid = {saving.arm: saving.train_ratio for saving in saved if saving.reached}
    # a cut that does not pay is not taken
    known = [max(1.0, paid.get(arm.name) or 1.0) for arm in study.arms if arm.adds]
    joint, naive = by_arm.get(study.joint), by_arm.get(study.naive)
    return Findings(
        study=study.name,
        question=study.question,
        margin_nats=study.margin_nats,
        rows=rows,
        savings=saved,
        predicted_ratio=math.prod(known) if known and by_arm else None,
        joint_ratio=paid.get(study.joint),
        naive_ratio=ratio(naive.cost, joint.cost) if joint and naive and joint.reached else None,
        naive_reached=bool(naive and naive.reached),
        missing=list(missing),
    )


def row(study: Study, results: Sequence[TrialResult], name: str, budget_tokens: int) -> SavingsRow:
    """Return one arm at one budget against the arms it names."""
    arm, mine = study.arm(name), chosen(results, name, budget_tokens)
    losses = [result.loss for result in mine]
    mean = sum(losses) / len(losses)
    spread = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / (len(losses) - 1)) if mine[1:] else None
    return SavingsRow(
        arm=name,
        why=arm.why,
        budget_tokens=budget_tokens,
        seeds=len(mine),
        loss=mean,
        loss_sd=spread,
        cost=charged(study, results, name, budget_tokens),
        comparisons={
            other: compare(study, mine, chosen(results, other, budget_tokens)) for other in arm.against
        },
    )


def savings(study: Study, results: Sequence[TrialResult]) -> list[Saving]:
    """Return the cost to the reference's quality of every arm; empty without a reference."""
    if not study.reference:
        return []
    home = study.arm(study.reference)
    goal = chosen(results, home.name, max(home.budgets or study.budgets))
    searched = {name for arm in study.arms for name in arm.search}
    found = [
        cheapest(study, results, arm.name, goal)
        for arm in study.arms
        if arm.name not in searched and chosen(results, arm.name, None)
    ]
    base = next((saving.cost for saving in found if saving.arm == home.name and saving.reached), None)
    return [msgspec.structs.replace(saving, **ratios(base, saving.cost)) for saving in found] if base else []


def cheapest(study: Study, results: Sequence[TrialResult], name: str, goal: Sequence[TrialResult]) -> Saving:
    """Return the first rung, from the smallest on, that is non-inferior to ``goal``; else the largest."""
    budgets = sorted({result.trial.budget_tokens for result in chosen(results, name, None)})
    compared = {budget: compare(study, chosen(results, name, budget), goal) for budget in budgets}
    reached = [budget for budget, comparison in compared.items() if comparison and comparison.non_inferior]
    budget = reached[0] if reached else budgets[-1]
    return Saving(name, bool(reached), budget, charged(study, results, name, budget), compared[budget])


def ratios(base: RunCost, cost: RunCost) -> dict[str, float | None]:
    """Return how many times less than ``base`` it costs."""
    usd = base.usd / cost.usd if base.usd and cost.usd else None
    cpu = base.cpu_seconds / cost.cpu_seconds
    return {"cpu_ratio": cpu, "train_ratio": ratio(base, cost), "usd_ratio": usd}


def ratio(base: RunCost, cost: RunCost) -> float | None:
    """Return how many times less training ``cost`` is than ``base``; None where nothing was trained."""
    return base.train_cpu_seconds / cost.train_cpu_seconds if cost.train_cpu_seconds else None


def chosen(results: Sequence[TrialResult], arm: str, budget_tokens: int | None) -> list[TrialResult]:
    """Return the results of an arm, at a budget or at all, in order of seeds."""
    mine = [r for r in results if r.trial.arm == arm and budget_tokens in (None, r.trial.budget_tokens)]
    return sorted(mine, key=lambda result: result.trial.seed)


def compare(study: Study, mine: Sequence[TrialResult], other: Sequence[TrialResult]) -> Comparison | None:
    """Compare candidate and reference over the seeds that both have; None if they share none."""
    by_seed = {result.trial.seed: result.scores for result in other}
    pairs = [(r.scores, by_seed[r.trial.seed]) for r in mine if r.trial.seed in by_seed]
    if not pairs:
        return None
    ours, theirs = zip(*pairs, strict=True)
    return scorecards.compare(ours, theirs, "completion_loss", study.margin_nats, SEED)


def charged(study: Study, results: Sequence[TrialResult], name: str, budget_tokens: int) -> RunCost:
    """Average the cost of an arm's runs, plus the runs that its settings were searched with."""
    cost = mean([result.cost for result in chosen(results, name, budget_tokens)])
    for searched in study.arm(name).search:
        arm = study.arm(searched)
        for budget in arm.budgets or study.budgets:
            for result in chosen(results, searched, budget):
                cost = add(cost, result.cost)
    return cost


def mean(costs: Sequence[RunCost]) -> RunCost:
    """Average of each figure; dollars unknown if one is. Verdicts are the first run's."""
    total = costs[0]
    for cost in costs[1:]:
        total = add(total, cost)
    n = len(costs)
    return RunCost(
        cpu_seconds=total.cpu_seconds / n,
        train_cpu_seconds=total.train_cpu_seconds / n,
        wall_seconds=total.wall_seconds / n,
        usd=None if total.usd is None else total.usd / n,
        trained_tokens=round(total.trained_tokens / n),
        verdicts=total.verdicts,
    )


def add(one: RunCost, other: RunCost) -> RunCost:
    """Add two costs; unknown dollars stay unknown."""
    return RunCost(
        cpu_seconds=one.cpu_seconds + other.cpu_seconds,
        train_cpu_seconds=one.train_cpu_seconds + other.train_cpu_seconds,
        wall_seconds=one.wall_seconds + other.wall_seconds,
        usd=None if one.usd is None or other.usd is None else one.usd + other.usd,
        trained_tokens=one.trained_tokens + other.trained_tokens,
        verdicts=one.verdicts,
    )
