"""A decision in words."""

from components.core import escape
from components.retrain.windows import Decision


def markdown(decision: Decision, now: bool) -> str:
    """The decision, what it rests on, and what each other policy would have said."""
    seen, lost = decision.seen, decision.cycle_usd
    head = "Retrain" if decision.retrain else "Do not retrain"
    again = (
        ""
        if now or not decision.retrain
        else f" Decided by run {escape.markdown(seen.run)}, so this run does not."
    )
    rows = "\n".join(
        f"| {escape.markdown(advice.policy)} | {'retrain' if advice.retrain else 'wait'} "
        f"| {escape.markdown(advice.why)} |"
        for advice in decision.alternatives
    )
    verdict = (
        f"**{head}** after window {escape.markdown(seen.window)} of {escape.markdown(seen.service)}, says "
        f"{escape.markdown(decision.policy)}: {escape.markdown(decision.why)}."
    )
    return f"""{verdict}{again}

| | |
|---|---|
| loss of the window | {seen.loss:.4f} |
| what that cost | ${seen.usd_lost:,.4g} |
| a retraining now | ${decision.cost_usd:,.4g} |
| windows since the last retraining | {len(lost)}, which cost ${sum(lost):,.4g} |
| model | {escape.markdown(seen.model_digest[:12])} |
| decided | {escape.markdown(seen.at)} |

| policy | says | because |
|---|---|---|
{rows}
"""
