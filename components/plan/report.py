"""The plan in Markdown, for the Kubeflow UI and the terminal."""

from components.core import escape
from components.plan.budget import Budget
from components.plan.choice import Option
from components.plan.ranking import GIB


def markdown(best: Option, rejected: list[Option], budget: Budget | None = None) -> str:
    """What to run, what it takes on a device, and each alternative with why it lost."""
    assert best.estimate
    lines = [f"# Plan: {escape.markdown(best.name)}", "", f"{escape.markdown(best.reason)}.", ""]
    lines += [f"{_hours(best)} h, {_usd(best)} (p50 to p90), the whole node paid for.", ""]
    lines += [f"{budget}: ${budget.left_usd:.3g} is left for training.", ""] if budget else []
    lines += ["| on each device | GiB |", "|---|---:|"]
    lines += [f"| {part} | {size / GIB:.3f} |" for part, size in best.memory._asdict().items()]
    lines += [f"| **total** of {best.room_bytes / GIB:.1f} | **{best.memory.total / GIB:.3f}** |", ""]
    lines += ["| rejected | GiB a device | hours | dollars | why |", "|---|---:|---:|---:|---|"]
    for option in rejected:
        size = f"{option.memory.total / GIB:.2f} of {option.room_bytes / GIB:.1f}"
        name, reason = escape.markdown(option.name), escape.markdown(option.reason)
        lines.append(f"| {name} | {size} | {_hours(option)} | {_usd(option)} | {reason} |")
    return "\n".join([*lines, ""])


def _hours(option: Option) -> str:
    estimate = option.estimate
    return f"{estimate.hours_p50:.3g} to {estimate.hours_p90:.3g}" if estimate else "unknown"


def _usd(option: Option) -> str:
    estimate = option.estimate
    if not estimate or estimate.usd_p50 is None:
        return "unknown"
    return f"${estimate.usd_p50:.3g} to ${estimate.usd_p90:.3g}"
