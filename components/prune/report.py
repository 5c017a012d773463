"""Report a pruning: what was cut, and what it saves in storage and serving."""

from collections.abc import Mapping

from deepcuts.components.core import escape, verdicts
from deepcuts.components.core.markdown import table
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.verdicts import Verdict
from deepcuts.components.training.latency import Latency


def verdict(method: str, what: str, facts: Facts, timings: Mapping[int, Latency]) -> Verdict:
    """Summarise in one line what the cut saves; accept judges its quality after healing."""
    share = float(facts["bytes_after"] or 0) / float(facts["bytes_before"] or 1)
    times = ", ".join(f"{timing.ratio:.2f}x the time at batch {batch}" for batch, timing in timings.items())
    if facts["weights_after"] == facts["weights_before"]:
        reason = (
            f"{method}: saves nothing, as a dense format stores and multiplies zeros like all other weights: "
            f"{share:.2f}x the bytes, {times} ({what})"
        )
    else:
        reason = f"{method}: {share:.2f}x the bytes, {times} ({what}); heal, then judge"
    return Verdict("prune", "applied", reason)


def page(facts: Facts, timings: Mapping[int, Latency]) -> str:
    """Return the report as Markdown."""
    rows = [
        _row("bytes of the folder", facts, "bytes", ",.0f"),
        _row("weights", facts, "weights", ",.0f"),
        _row("nats per answer token, calibration text", facts, "nats", ".4f"),
    ]
    for batch, timing in timings.items():
        ratio = f"{timing.ratio:.3f} ({timing.low:.3f} to {timing.high:.3f})"
        times = (f"{timing.reference_ms:.3f}", f"{timing.candidate_ms:.3f}", ratio)
        rows.append((f"ms per token, batch {batch}", *times))
    return f"""# Prune

{escape.markdown(verdicts.read(facts)[0].reason)}.

{facts["zero_share"]:.1%} of the stored weights are zero.

{table(("", "before", "after", "after / before"), rows, right=(1, 2, 3))}

Times are medians of alternated decoding on this host, ratios with a 90 % interval. The loss is on the text
that importance was measured on, unhealed: heal the model, then evaluate it on a test split.
"""


def _row(name: str, facts: Facts, key: str, form: str) -> tuple[str, str, str, str]:
    before, after = float(facts[f"{key}_before"] or 0), float(facts[f"{key}_after"] or 0)
    return name, f"{before:{form}}", f"{after:{form}}", f"{after / before:.3f}"
