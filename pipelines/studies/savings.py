"""Compute what each arm of a study costs at the reference's quality."""

import math
from collections.abc import Sequence

import msgspec

from deepcuts.components.core import scorecards
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.scorecards import Comparison, Score
from deepcuts.pipelines.studies.study_spec import Study, StudyTrial

SEED = 0
"""Seed of the bootstrap; it moves bounds by about 0.02 standard errors."""


class RunCost(msgspec.Struct, frozen=True):
    """Cost of a whole run; search and serving are counted elsewhere."""

    cpu_seconds: float
    train_cpu_seconds: float
    """Time in forward, backward and optimizer, as the rest of a short run is process start."""
    wall_seconds: float
    """Summed over tasks, as a node for each would be billed."""
    usd: float | None
    """At the prices of the tasks' node pools; None if one is unknown."""
    trained_tokens: int
    verdicts: dict[str, str]
    """The steps' verdicts on their cuts."""


class TrialResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    trial: StudyTrial
    loss: float
    scores: Sequence[Score]
    cost: RunCost
    trainings: list[Facts] = []
    """What was trained, as the ledger of another run would recognise it."""
    ended_at: str = ""
    """UTC, ISO 8601."""


class SavingsRow(msgspec.Struct, frozen=True):
    """One arm at one budget, over its seeds."""

    arm: str
    why: str
    budget_tokens: int
    seeds: int
    loss: float
    """Mean over seeds, nats per answer token."""
    loss_sd: float | None
    """Standard deviation between seeds."""
    cost: RunCost
    """Mean over seeds, including its search."""
    comparisons: dict[str, Comparison | None]
    """Comparison with each of its arms at the same budget, paired by seed and example."""


class Saving(msgspec.Struct, frozen=True):
    """The smallest budget at which an arm is non-inferior to the reference at its largest budget."""

    arm: str
    reached: bool
    """False: at no budget. The other fields are then for the largest, and the ratios are upper bounds."""
    budget_tokens: int
    cost: RunCost
    comparison: Comparison | None
    """None if the two share no seed."""
    cpu_ratio: float | None = None
    """The reference's cost of that quality / this arm's, in CPU-seconds of all tasks; above 1 saves."""
    train_ratio: float | None = None
    """The same for training alone."""
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
    """The reference's training cost / the joint arm's; None if that never reaches the quality."""
    naive_ratio: float | None
    """The naive arm's / the joint arm's; a lower bound if the naive arm never reaches the quality."""
    naive_reached: bool
    missing: list[str]
    """Failed trials."""


def find(study: Study, results: Sequence[TrialResult], missing: Sequence[str]) -> Findings:
    """Return all comparisons that the results allow."""
    rows = [
        row(study, results, arm.name, budget)
        for arm in study.arms
        for budget in arm.budgets or study.budgets
        if chosen(results, arm.name, budget)
    ]
    saved = savings(study, results)
    by_arm = {saving.arm: saving for saving in saved}
    paid = {saving.arm: saving.train_ratio for saving in saved if saving.reached}
    # a cut that does not pay off is not used
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
    """Compare one arm at one budget with the arms it names."""
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
    """Return the cost of the reference's quality for every arm; empty without a reference."""
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
    """Return the smallest budget that is non-inferior to ``goal``; else the largest."""
    budgets = sorted({result.trial.budget_tokens for result in chosen(results, name, None)})
    compared = {budget: compare(study, chosen(results, name, budget), goal) for budget in budgets}
    reached = [budget for budget, comparison in compared.items() if comparison and comparison.non_inferior]
    budget = reached[0] if reached else budgets[-1]
    return Saving(name, bool(reached), budget, charged(study, results, name, budget), compared[budget])


def ratios(base: RunCost, cost: RunCost) -> dict[str, float | None]:
    """Return how many times cheaper ``cost`` is than ``base``."""
    usd = base.usd / cost.usd if base.usd and cost.usd else None
    cpu = base.cpu_seconds / cost.cpu_seconds
    return {"cpu_ratio": cpu, "train_ratio": ratio(base, cost), "usd_ratio": usd}


def ratio(base: RunCost, cost: RunCost) -> float | None:
    """Return how many times less training ``cost`` has than ``base``; None if nothing was trained."""
    return base.train_cpu_seconds / cost.train_cpu_seconds if cost.train_cpu_seconds else None


def chosen(results: Sequence[TrialResult], arm: str, budget_tokens: int | None) -> list[TrialResult]:
    """Return the results of an arm, at one budget or all, in order of seeds."""
    mine = [r for r in results if r.trial.arm == arm and budget_tokens in (None, r.trial.budget_tokens)]
    return sorted(mine, key=lambda result: result.trial.seed)


def compare(study: Study, mine: Sequence[TrialResult], other: Sequence[TrialResult]) -> Comparison | None:
    """Compare candidate and reference over their common seeds; None if there are none."""
    by_seed = {result.trial.seed: result.scores for result in other}
    pairs = [(r.scores, by_seed[r.trial.seed]) for r in mine if r.trial.seed in by_seed]
    if not pairs:
        return None
    ours, theirs = zip(*pairs, strict=True)
    return scorecards.compare(ours, theirs, "completion_loss", study.margin_nats, SEED)


def charged(study: Study, results: Sequence[TrialResult], name: str, budget_tokens: int) -> RunCost:
    """Return the mean cost of an arm's runs, plus the runs of the search for its settings."""
    cost = mean([result.cost for result in chosen(results, name, budget_tokens)])
    for searched in study.arm(name).search:
        arm = study.arm(searched)
        for budget in arm.budgets or study.budgets:
            for result in chosen(results, searched, budget):
                cost = add(cost, result.cost)
    return cost


def mean(costs: Sequence[RunCost]) -> RunCost:
    """Return the mean of each figure; dollars are unknown if one is. Verdicts are the first run's."""
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
