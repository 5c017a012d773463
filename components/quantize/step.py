"""Quantize: find the cheapest number format that keeps quality, by measurement on this host (cut 6)."""

import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core import cli, examples, files, strict
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.progress import Heard, ProgressLog
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.verdicts import Verdict
from deepcuts.components.quantize import candidates as formats
from deepcuts.components.quantize import choice, gguf, served
from deepcuts.components.quantize.candidates import FailedCandidate, Judge, MeasuredCandidate
from deepcuts.components.quantize.compressed import FORMATS
from deepcuts.components.training import calibration, latency, models, quantized
from deepcuts.components.training.render import Rendered

NAMES = (*served.GGUF, *formats.NAMES)
GROUPS = (32, 64, 128)
"""Group sizes that vLLM's 4-bit integer kernels (Marlin) support."""


def quantize(
    base: Path,
    model: Path,
    text: Path,
    split: Path,
    chosen: Path,
    summary: Path,
    serve_on: str,
    candidates: list[str],
    objective: str,
    margin_nats: float,
    group_size: int,
    calibration_tokens: int,
    max_examples: int,
    seed: int,
) -> Facts:
    """Write ``chosen``: ``model`` (an adapter is merged into ``base``) in the cheapest of ``candidates``.

    ``["auto"]`` stands for the formats that servers on ``serve_on`` (cpu or gpu) load, ``["off"]`` for none.
    Each is written, reloaded and measured against the reference: bytes, milliseconds per token, nats on at
    most ``max_examples`` of ``split``; GGUF files in llama.cpp. The cheapest in ``objective`` (bytes, latency
    at batch 1, throughput at batch 16) that is surely cheaper and worse by less than ``margin_nats`` is
    chosen. If there is none, the reference is kept and the verdict says so, as training is already paid for.
    The same holds for fewer than two examples in ``split``, too few to judge. Up to ``calibration_tokens`` of
    ``text`` are for formats that need it.

    Raises:
        ValueError: the formats or the objective are unknown, or no kernel supports the sizes.
        DataError: the model is already quantized or not finite.
    """
    candidates = served.wanted(candidates, serve_on)
    check(candidates, objective, margin_nats, group_size, max_examples)
    if quantized.is_quantized(model):
        raise DataError(f"{model} is already quantized: give the model it was made from")
    with tempfile.TemporaryDirectory(prefix="quantize-") as scratch:
        network, tokenizer, whole, stored = calibration.load_whole(model, base, Path(scratch))
        if not candidates:
            return keep(whole, model, chosen, summary, counted(split), "no format is requested")
        if (count := counted(split)) < 2:
            reason = f"{count} valid examples, and a comparison needs 2; the reference is kept"
            return keep(
                whole, model, chosen, summary, count, f"{reason}: give a valid split, or raise valid_share"
            )
        progress = ProgressLog(measurements(min(count, max_examples), candidates), "measurements")
        judge = reference(network, tokenizer, whole, split, margin_nats, max_examples, seed, progress.add)
        shown = calibration_text(candidates, text, judge, tokenizer, calibration_tokens, seed)
        found = formats.measure_all(judge, candidates, group_size, shown, Path(scratch), stored)
        if own := [name for name in candidates if name in served.GGUF]:
            found += gguf.measure(judge, tokenizer, own, Path(scratch))
        size = files.size_bytes(judge.folder)
        winner = choice.choose(found, objective, size)
        line = choice.verdict(winner, objective, size, found)
        pass_on(winner.folder if winner else judge.folder, model, chosen)
        with files.staged(summary) as staging:
            staging.write_text(choice.table(found, str(line), size, margin_nats), encoding="utf-8")
        facts = describe(found, winner, judge, size)
        facts["calibration_tokens"] = sum(len(rendered.ids) for rendered in shown)
        return facts | line.facts()


def measurements(count: int, candidates: Sequence[str]) -> int:
    """Return how many examples are scored and rounds timed, including F16 for GGUF formats."""
    rows = len(candidates) + any(name in served.GGUF for name in candidates)
    return count + rows * (count + len(latency.BATCHES) * (latency.ROUNDS + 1))


def counted(split: Path) -> int:
    """Count the examples of a split that may be empty."""
    return len(examples.read(split)) if files.size_bytes(split) else 0


def calibration_text(
    candidates: Sequence[str],
    text: Path,
    judge: Judge,
    tokenizer: PreTrainedTokenizerBase,
    tokens: int,
    seed: int,
) -> list[Rendered]:
    """Return the text for candidates that need it; empty if none does, or there is none."""
    reads = any(name in FORMATS and FORMATS[name].reads_text for name in candidates)
    if not reads or not files.size_bytes(text):
        return []
    return calibration.take(text, judge.network, tokenizer, tokens, seed)


def pass_on(folder: Path, model: Path, chosen: Path) -> None:
    """Write ``chosen``: a whole model, with the adapter it was merged from."""
    with files.staged(chosen) as staging:
        shutil.copytree(folder, staging)
        if models.is_adapter(model):
            shutil.copytree(model, staging / models.ADAPTER)


def keep(whole: Path, model: Path, chosen: Path, summary: Path, count: int, reason: str) -> Facts:
    """Pass the model on unchanged, as no format is requested or none could be judged."""
    pass_on(whole, model, chosen)
    with files.staged(summary) as staging:
        staging.write_text(f"# Quantize\n\nOff: {reason}.\n")
    size = files.size_bytes(whole)
    facts: Facts = {"tokens": 0, "examples": count, "candidates": 0, "chosen": "reference"}
    return facts | {"bytes_before": size, "bytes_after": size} | Verdict("quantize", "off", reason).facts()


def check(
    candidates: Sequence[str], objective: str, margin_nats: float, group_size: int, max_examples: int
) -> None:
    """Raise ValueError for unknown formats or objective, or impossible sizes."""
    if len(set(candidates)) < len(candidates):
        raise ValueError(f"candidates {list(candidates)}: give each format once, of {', '.join(NAMES)}")
    for name in candidates:
        if name not in NAMES:
            raise ValueError(strict.unknown_key("candidates", name, (*NAMES, served.AUTO, served.OFF)))
    own = [name for name in candidates if name in served.GGUF]
    if own and len(own) < len(candidates):
        raise ValueError(
            f"candidates {list(candidates)}: {own[0]} runs in llama.cpp and others do not, so their times "
            "have no common reference: give those of one kind"
        )
    if objective not in choice.OBJECTIVES:
        raise ValueError(strict.unknown_key("objective", objective, choice.OBJECTIVES))
    if group_size not in GROUPS:
        raise ValueError(f"group_size {group_size}: 4-bit kernels support {', '.join(map(str, GROUPS))}")
    if margin_nats <= 0:
        raise ValueError(f"margin_nats {margin_nats} is not positive: a test needs room to be wrong in")
    if max_examples < 2:
        raise ValueError(f"max_examples {max_examples}: an interval needs at least 2")


def reference(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    split: Path,
    margin_nats: float,
    max_examples: int,
    seed: int,
    measured: Heard,
) -> Judge:
    """Load and score the original model, with which every candidate is compared."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device=device, dtype=models.resolve_precision("auto", device))
    records = examples.read(split)
    records = random.Random(seed).sample(records, min(max_examples, len(records)))
    names = [record.id for record in records]
    data = [calibration.fitting(record, network, tokenizer) for record in records]
    scores = formats.score(network, names, data, measured)
    return Judge(folder, network, names, data, scores, margin_nats, seed, measured)


def describe(
    found: Sequence[MeasuredCandidate | FailedCandidate],
    winner: MeasuredCandidate | None,
    judge: Judge,
    reference_bytes: int,
) -> Facts:
    """Return the choice as facts of the receipt."""
    facts: Facts = {
        "tokens": sum(len(rendered.ids) for rendered in judge.data) * (1 + len(found)),
        "examples": len(judge.data),
        "candidates": len(choice.tried(found)),
        "chosen": winner.name if winner else "reference",
        "bytes_before": reference_bytes,
        "bytes_after": winner.bytes if winner else reference_bytes,
    }
    if winner:
        facts |= {
            "nats_worse_by": winner.comparison.worse_by,
            "nats_worse_by_low": winner.comparison.low,
            "nats_worse_by_high": winner.comparison.high,
        }
        for batch, timing in winner.latencies.items():
            facts |= {
                f"ms_per_token_batch_{batch}_before": timing.reference_ms,
                f"ms_per_token_batch_{batch}_after": timing.candidate_ms,
                f"time_ratio_batch_{batch}": timing.ratio,
                f"tokens_per_second_batch_{batch}": 1000 / timing.candidate_ms,
            }
    return facts


if __name__ == "__main__":
    cli.main(quantize)
