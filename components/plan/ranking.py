"""Ranking: which of two options is better, and the words that say why one was taken and another was not."""

from typing import TYPE_CHECKING

from deepcuts.components.plan.budget import Budget

if TYPE_CHECKING:
    from deepcuts.components.plan.choice import PlanOption

CHEAPEST = "cheapest"
SIMPLICITY = {"single": 0, "ddp": 1, "fsdp": 2}
ALIKE = 1.05
"""Estimates this close are one estimate: of those the simplest is taken."""
GIB = 2**30


def score(option: "PlanOption", objective: str) -> float:
    """Return dollars, or hours if they are the objective; an unknown price is worse than every known one."""
    assert option.estimate
    if objective == CHEAPEST:
        return float("inf") if option.estimate.usd_p50 is None else option.estimate.usd_p50
    return option.estimate.hours_p50


def complication(option: "PlanOption") -> tuple[int, bool, float]:
    """Rank options of equal cost: the simpler first."""
    assert option.estimate
    return SIMPLICITY[option.strategy], bool(option.gradient_checkpointing), option.estimate.hours_p50


def late_hours(option: "PlanOption") -> float:
    """Return how long an option may take (p90)."""
    assert option.estimate
    return option.estimate.hours_p90


def why(best: "PlanOption", fitting: "list[PlanOption]", objective: str) -> str:
    """Say why ``best`` was chosen."""
    assert best.estimate
    words = [f"the {objective} of {len(fitting)} that fit"]
    alone = [o for o in fitting if o.pool == best.pool and o.devices == 1 and o.estimate]
    if best.devices > 1 and alone:
        single = min(alone, key=late_hours)
        assert single.estimate
        faster = single.estimate.hours_p50 / best.estimate.hours_p50
        words.append(
            f"split although one device holds it: {faster:.1f} times as fast as that device alone "
            f"({best.estimate.hours_p50:.3g} against {single.estimate.hours_p50:.3g} h), "
            "and the node is paid for whole"
        )
    elif best.devices > 1:
        words.append("split because no single device of the node holds it")
    if best.gradient_checkpointing:
        words.append("activations recomputed because that is what fits here, or passes get larger")
    return "; ".join(words)


def why_not(
    option: "PlanOption",
    best: "PlanOption",
    deadline_hours: float,
    objective: str,
    budget: Budget | None,
    barred: str,
) -> str:
    """Say why ``option`` lost; ``barred`` is why its pool cannot take the training, empty where it can."""
    if option.missing_bytes:
        return f"does not fit: {option.missing_bytes / GIB:.2f} GiB are missing, even with one row a pass"
    if option.estimate is None:
        return "unknown speed: the pool has no flops_per_second"
    if deadline_hours and option.estimate.hours_p90 > deadline_hours:
        return f"too late: {option.estimate.hours_p90:.3g} h (p90) against {deadline_hours:g} h"
    cost = budget.cost_usd(option.estimate) if budget else None
    if budget and cost is not None and cost > budget.left_usd:
        return f"over the budget: ${cost:.3g} (p50) against ${budget.left_usd:.3g} left"
    cost_of, lowest = score(option, objective), score(best, objective)
    if cost_of * ALIKE < lowest:  # it would have won
        better = "cheaper" if objective == CHEAPEST else "faster"
        assert barred, option.name
        return f"{better}: {cost_of / lowest - 1:+.1%}, but {barred}"
    if cost_of == float("inf"):
        return "unknown price: it cannot be called the cheapest"
    if cost_of > lowest * ALIKE:
        return f"{'costs more' if objective == CHEAPEST else 'slower'}: {cost_of / lowest - 1:+.1%}"
    return f"{cost_of / lowest - 1:+.1%}, as good as equal, but not simpler"
