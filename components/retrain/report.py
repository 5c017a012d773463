"""Write the report of a decision."""

from deepcuts.components.core import escape
from deepcuts.components.core.markdown import table
from deepcuts.components.retrain.windows import Decision


def markdown(decision: Decision, now: bool) -> str:
    """Return the decision, its figures, and what every other policy would have said."""
    seen, lost = decision.seen, decision.cycle_usd
    head = "Retrain" if decision.retrain else "Do not retrain"
    again = (
        ""
        if now or not decision.retrain
        else f" Decided by run {escape.markdown(seen.run)}, so this run does not."
    )
    figures = [
        ("loss of the window", f"{seen.loss:.4f}"),
        ("cost of that loss", f"${seen.usd_lost:,.4g}"),
        ("cost of retraining now", f"${decision.cost_usd:,.4g}"),
        ("windows since the last retraining", f"{len(lost)}, which cost ${sum(lost):,.4g}"),
        ("model", escape.markdown(seen.model_digest[:12])),
        ("decided", escape.markdown(seen.at)),
    ]
    others = [
        (escape.markdown(advice.policy), "retrain" if advice.retrain else "wait", escape.markdown(advice.why))
        for advice in decision.alternatives
    ]
    verdict = (
        f"**{head}** after window {escape.markdown(seen.window)} of {escape.markdown(seen.service)}, says "
        f"{escape.markdown(decision.policy)}: {escape.markdown(decision.why)}."
    )
    return f"""{verdict}{again}

{table(("", ""), figures)}

{table(("policy", "says", "because"), others)}
"""
