"""Rank options, and explain why one was chosen and the others were not."""

from typing import TYPE_CHECKING

from deepcuts.components.plan.budget import Budget

if TYPE_CHECKING:
    from deepcuts.components.plan.choice import PlanOption

CHEAPEST = "cheapest"
SIMPLICITY = {"single": 0, "ddp": 1, "fsdp": 2, "hsdp": 3}
ALIKE = 1.05
"""Estimates this close count as equal, and the simplest option wins."""
GIB = 2**30


def score(option: "PlanOption", objective: str) -> float:
    """Return dollars, or hours if they are the objective; an unknown price ranks last."""
    assert option.estimate
    if objective == CHEAPEST:
        return float("inf") if option.estimate.usd_p50 is None else option.estimate.usd_p50
    return option.estimate.hours_p50


def complication(option: "PlanOption") -> tuple[int, int, bool, float]:
    """Rank options of equal cost, simpler ones first."""
    assert option.estimate
    simple = option.nodes, SIMPLICITY[option.strategy], bool(option.gradient_checkpointing)
    return *simple, option.estimate.hours_p50


def late_hours(option: "PlanOption") -> float:
    """Return an option's hours at p90."""
    assert option.estimate
    return option.estimate.hours_p90


def why(best: "PlanOption", fitting: "list[PlanOption]", objective: str) -> str:
    """Explain why ``best`` was chosen."""
    assert best.estimate
    words = [f"the {objective} of {len(fitting)} that fit"]
    alone = [o for o in fitting if o.pool == best.pool and o.devices == o.nodes == 1 and o.estimate]
    if best.nodes > 1:
        words.append(_why_several(best, [o for o in fitting if o.pool == best.pool and o.nodes == 1]))
    elif best.devices > 1 and alone:
        single = min(alone, key=late_hours)
        assert single.estimate
        faster = single.estimate.hours_p50 / best.estimate.hours_p50
        words.append(
            f"split although it fits on one device: {faster:.1f} times as fast as one device "
            f"({best.estimate.hours_p50:.3g} against {single.estimate.hours_p50:.3g} h), "
            "and the whole node is paid for"
        )
    elif best.devices > 1:
        words.append("split because it does not fit on one device of the node")
    if best.gradient_checkpointing:
        words.append("activations recomputed, because only that fits here or it allows larger passes")
    return "; ".join(words)


def _why_several(best: "PlanOption", smaller: "list[PlanOption]") -> str:
    """Explain why ``best`` takes several nodes; ``smaller`` are those on one node of its pool."""
    timed = [option for option in smaller if option.estimate]
    if not timed:
        return f"on {best.nodes} nodes because it does not fit on one node of this pool"
    quickest = min(timed, key=late_hours)
    assert quickest.estimate and best.estimate
    faster = quickest.estimate.hours_p50 / best.estimate.hours_p50
    return (
        f"on {best.nodes} nodes: {faster:.1f} times as fast as one ({best.estimate.hours_p50:.3g} against "
        f"{quickest.estimate.hours_p50:.3g} h), and every node is paid for"
    )


def why_not(
    option: "PlanOption",
    best: "PlanOption",
    deadline_hours: float,
    objective: str,
    budget: Budget | None,
    barred: str,
) -> str:
    """Explain why ``option`` lost; ``barred`` is why its pool cannot run the training, empty if it can."""
    if option.missing_bytes:
        return f"does not fit: {option.missing_bytes / GIB:.2f} GiB are missing, even with one row per pass"
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
        return "unknown price: it may not be the cheapest"
    if cost_of > lowest * ALIKE:
        return f"{'costs more' if objective == CHEAPEST else 'slower'}: {cost_of / lowest - 1:+.1%}"
    return f"{cost_of / lowest - 1:+.1%}, practically equal, but not simpler"
