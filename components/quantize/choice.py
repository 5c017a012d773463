"""Choose the cheapest candidate that is not worse, by measurement, and write the table of all."""

from collections.abc import Sequence

from deepcuts.components.core import escape, markdown
from deepcuts.components.core.verdicts import Verdict
from deepcuts.components.quantize.candidates import FailedCandidate, MeasuredCandidate

OBJECTIVES = ("bytes", "latency", "throughput")
"""Bytes of the folder, time per token at batch 1, time per token at batch 16."""
BATCH_OF = {"latency": 1, "throughput": 16}


def cost(candidate: MeasuredCandidate, objective: str, reference_bytes: int) -> tuple[float, float]:
    """Return (share of the reference's cost, its upper bound); bytes are exact."""
    if objective == "bytes":
        share = candidate.bytes / reference_bytes
        return share, share
    timing = candidate.latencies[BATCH_OF[objective]]
    return timing.ratio, timing.high


def choose(
    candidates: Sequence[MeasuredCandidate | FailedCandidate], objective: str, reference_bytes: int
) -> MeasuredCandidate | None:
    """Choose the cheapest candidate that is surely cheaper than the reference and non-inferior, or None.

    A candidate that serves as the others' reference cannot be chosen.
    """
    fit = []
    for candidate in tried(candidates):
        if isinstance(candidate, MeasuredCandidate) and candidate.comparison.non_inferior:
            share, most = cost(candidate, objective, reference_bytes)
            if most < 1:
                fit.append((share, candidate.name, candidate))
    return min(fit)[2] if fit else None


def tried(
    found: Sequence[MeasuredCandidate | FailedCandidate],
) -> list[MeasuredCandidate | FailedCandidate]:
    """Return the candidates without F16 in llama.cpp, which is only the others' reference."""
    return [one for one in found if not isinstance(one, MeasuredCandidate) or one.against != "transformers"]


def verdict(
    chosen: MeasuredCandidate | None,
    objective: str,
    reference_bytes: int,
    found: Sequence[MeasuredCandidate | FailedCandidate],
) -> Verdict:
    """Summarise in one line which format was chosen and why, or that none was."""
    if chosen is None:
        formats = tried(found)
        reason = f"none of {len(formats)} formats is cheaper in {objective} and non-inferior"
        failed = [f"{one.name}: {one.reason}" for one in formats if isinstance(one, FailedCandidate)]
        if len(failed) == len(formats):
            reason = f"no candidate runs here ({'; '.join(failed)}), give others"
        reason += "; the reference is kept"
        return Verdict("quantize", "refused", reason)
    gap = chosen.comparison
    times = ", ".join(
        f"{timing.ratio:.2f}x the time at batch {batch}" for batch, timing in chosen.latencies.items()
    )
    times += f" of {chosen.against}"
    reason = (
        f"{chosen.name}: {chosen.bytes / reference_bytes:.2f}x the bytes, {times}, "
        f"{gap.worse_by:+.4f} nats ({gap.low:+.4f} to {gap.high:+.4f}); cheapest in {objective}"
    )
    return Verdict("quantize", "applied", reason)


def table(
    candidates: Sequence[MeasuredCandidate | FailedCandidate], line: str, reference_bytes: int, margin: float
) -> str:
    """Return the report as Markdown."""
    rows = []
    for candidate in candidates:
        if isinstance(candidate, FailedCandidate):
            name, reason = map(escape.markdown, (candidate.name, candidate.reason))
            rows.append([name, *"––––", f"not run: {reason}"])
            continue
        times = [
            f"{t.candidate_ms:.3f} against {t.reference_ms:.3f}: {t.ratio:.2f}x ({t.low:.2f} to {t.high:.2f})"
            for t in candidate.latencies.values()
        ]
        gap = candidate.comparison
        note = "non-inferior" if gap.non_inferior else "not shown to be non-inferior"
        note += f"; {candidate.left} layers left alone" if candidate.left else ""
        note += f"; times against {candidate.against}"
        size = f"{candidate.bytes:,} ({candidate.bytes / reference_bytes:.2f}x)"
        loss = f"{gap.worse_by:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
        rows.append([escape.markdown(candidate.name), size, *times, loss, note])
    head = ["format", "bytes", "ms per token, batch 1", "ms per token, batch 16"]
    head += ["nats per answer token, + is worse", ""]
    first = ["reference", f"{reference_bytes:,}", "", "", "", ""]
    return f"""# Quantize

{escape.markdown(line)}.

{markdown.table(head, [first, *rows], right=(1, 2, 3, 4))}

Every format was written, loaded from its folder and measured on this host. Times are medians of decoding
alternated with the reference, ratios with a 90 % interval; loss differences are paired, with a 90 % interval
against a margin of {margin:g}. The choice saw these examples: judge the chosen model on a test split.

GGUF files were scored and timed in llama.cpp. Rows of weights that are not a multiple of 256 are stored by
Q4_K_M in 5 or 8 bits. The other formats quantize the blocks' linear layers; embeddings, lm_head, norms and
biases are stored unchanged. They are compressed-tensors, which vLLM loads with its own kernels: their cost on
a GPU is not in this table unless this host has one.
"""
