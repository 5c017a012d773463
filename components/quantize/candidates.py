"""Write candidate formats, load them from disk, and measure bytes, time and loss against the reference."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from deepcuts.components.core import files, scorecards
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.progress import Heard, unheard
from deepcuts.components.core.scorecards import Comparison, Score
from deepcuts.components.quantize import compressed
from deepcuts.components.training import latency, models, scoring
from deepcuts.components.training.latency import Latency
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.quantized import Unsupported
from deepcuts.components.training.render import Rendered

NAMES = tuple(compressed.FORMATS)
UNFIT = (NotImplementedError, AttributeError, TypeError)
"""Errors from using a kernel's module or tensor like a plain layer."""


class Judge(NamedTuple):
    """The reference of all candidates."""

    folder: Path
    """The reference as a whole model."""
    network: PreTrainedModel
    names: Sequence[str]
    """Ids of the examples."""
    data: Sequence[Rendered]
    scores: Sequence[Score]
    """Scores of the reference."""
    margin_nats: float
    seed: int
    measured: Heard
    """Called with the number of examples scored, or rounds timed, since the last call."""


class MeasuredCandidate(NamedTuple):
    """A candidate measured from its saved folder."""

    name: str
    folder: Path
    bytes: int
    latencies: dict[int, Latency]
    """By batch size."""
    comparison: Comparison
    left: int
    """Linear layers that this format does not support."""
    against: str = "the reference"
    """The reference of the latencies."""


class FailedCandidate(NamedTuple):
    name: str
    reason: str


def write(
    judge: Judge, name: str, group_size: int, text: Sequence[Rendered], folder: Path, stored: torch.dtype
) -> list[str]:
    """Quantize the reference as ``name`` into ``folder``; return the layers left alone."""
    network, tokenizer = models.load_base(judge.folder)
    network.float()
    with files.staged(folder) as staging:
        staging.mkdir()
        left = compressed.write(network, name, group_size, text, staging, stored)
        tokenizer.save_pretrained(staging)
    return left


def measure(
    judge: Judge, name: str, group_size: int, text: Sequence[Rendered], folder: Path, stored: torch.dtype
) -> MeasuredCandidate | FailedCandidate:
    """Write, load and measure a format; if this model or host does not support it, return the reason."""
    try:
        left = write(judge, name, group_size, text, folder, stored)
        network, _ = models.load(folder, judge.folder)
        network.to(judge.network.device)
        scores = score(network, judge.names, judge.data, judge.measured)
    except Unsupported as error:
        return FailedCandidate(name, str(error))
    except DataError as error:  # llmcompressor may write what does not load: fused experts (Mixtral)
        reason = str(error).removeprefix(f"{folder}: ").removesuffix(": quantize again")
        return FailedCandidate(name, f"the written model does not load ({reason})")
    except UNFIT as error:  # a type that uses weights other than by multiplication (RWKV)
        return FailedCandidate(name, f"this model does not run on it ({' '.join(str(error).split())[:120]})")
    if not all(math.isfinite(found.answer_nats) for found in scores):
        return FailedCandidate(name, "its scores are not finite: the weights do not fit this format")
    comparison = scorecards.compare(
        [scores], [judge.scores], "completion_loss", judge.margin_nats, judge.seed
    )
    ours, theirs = (partial(latency.decode_seconds, one) for one in (judge.network, network))
    timings = {
        batch: latency.compare(ours, theirs, batch, latency.ROUNDS, judge.measured)
        for batch in latency.BATCHES
    }
    return MeasuredCandidate(name, folder, files.size_bytes(folder), timings, comparison, len(left))


def measure_all(
    judge: Judge,
    names: Sequence[str],
    group_size: int,
    text: Sequence[Rendered],
    scratch: Path,
    stored: torch.dtype,
) -> list[MeasuredCandidate | FailedCandidate]:
    """Measure the candidates that run in PyTorch, one after another."""
    own = [name for name in names if name in NAMES]
    return [measure(judge, name, group_size, text, scratch / name, stored) for name in own]


def score(
    network: PreTrainedModel,
    names: Sequence[str],
    data: Sequence[Rendered],
    scored: Heard = unheard,
) -> list[Score]:
    """Score the completion loss of each example; ``scored`` is called with the number newly done."""
    nats = scoring.answer_nats(CompletionLoss(network), data, scored)
    return [Score(name, total, tokens) for name, (total, tokens) in zip(names, nats, strict=True)]
