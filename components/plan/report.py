"""Write the plan in Markdown, for the Kubeflow UI and the terminal."""

from deepcuts.components.core import escape
from deepcuts.components.core.markdown import table
from deepcuts.components.plan.choice import PlanOption
from deepcuts.components.plan.decision import PlanDecision
from deepcuts.components.plan.ranking import GIB
from deepcuts.components.plan.scoring import ScoringOption


def markdown(made: PlanDecision) -> str:
    """Return what to run, its memory on a device, and each alternative with the reason against it."""
    best, rejected, budget = made.best, made.rejected, made.money
    assert best.estimate
    lines = [f"# Plan: {escape.markdown(best.name)}", "", f"{escape.markdown(best.reason)}.", ""]
    held = f"all {best.nodes} nodes" if best.nodes > 1 else "the whole node"
    lines += [f"{_hours(best)} h, {_usd(best)} (p50 to p90) for {held}.", ""]
    lines += [f"{budget}: ${budget.left_usd:.3g} is left for training.", ""] if budget else []
    parts = [(part, f"{size / GIB:.3f}") for part, size in best.memory._asdict().items()]
    parts += [(f"**total** of {best.room_bytes / GIB:.1f}", f"**{best.memory.total / GIB:.3f}**")]
    lines += [table(("on each device", "GiB"), parts, right=(1,)), ""]
    others = [
        (
            escape.markdown(option.name),
            f"{option.memory.total / GIB:.2f} of {option.room_bytes / GIB:.1f}",
            _hours(option),
            _usd(option),
            escape.markdown(option.reason),
        )
        for option in rejected
    ]
    lines += [table(("rejected", "GiB per device", "hours", "dollars", "why"), others, right=(1, 2, 3))]
    lines += ["", f"Evaluated and judged on {_place(made.scoring)}."]
    lines += [f"Watched on {_place(made.watch)}."] if made.watch else []
    return "\n".join([*lines, ""])


def _place(option: ScoringOption) -> str:
    usd = "" if option.usd_p50 is None else f", ${option.usd_p50:.3g} to ${option.usd_p90:.3g}"
    return escape.markdown(f"{option.pool}: {option.reason}") + usd


def _hours(option: PlanOption) -> str:
    estimate = option.estimate
    return f"{estimate.hours_p50:.3g} to {estimate.hours_p90:.3g}" if estimate else "unknown"


def _usd(option: PlanOption) -> str:
    estimate = option.estimate
    if not estimate or estimate.usd_p50 is None:
        return "unknown"
    return f"${estimate.usd_p50:.3g} to ${estimate.usd_p90:.3g}"
