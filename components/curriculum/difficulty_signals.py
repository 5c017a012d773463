"""Measure how hard examples are: the numbers by which a curriculum sorts."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example
from deepcuts.components.core.progress import ProgressLog
from deepcuts.components.curriculum import difficulty
from deepcuts.components.training import models, scoring
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered


def rendered(base: Path, records: Sequence[Example]) -> list[Rendered]:
    """Render each example in the tokens of ``base``."""
    return scoring.render_all(records, models.load_tokenizer(base))


def measure(
    signal: str, records: Sequence[Example], data: Sequence[Rendered], base: Path, seed: int
) -> list[float]:
    """Measure the difficulty of each example; higher is harder."""
    match signal:
        case "length":
            return [float(len(rendered.ids)) for rendered in data]
        case "loss":
            return base_loss(base, records, data)
        case "compression":
            return [difficulty.compression(difficulty.said(record)) for record in records]
        case "diversity":
            return [difficulty.diversity(difficulty.said(record)) for record in records]
        case "column":
            return difficulty.given(records)
        case _:
            return [chance(record.id, seed) for record in records]


def base_loss(base: Path, records: Sequence[Example], data: Sequence[Rendered]) -> list[float]:
    """Measure nats per answer token under the base model."""
    network, _ = models.load_base(base)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device=device, dtype=models.resolve_precision("auto", device))
    progress = ProgressLog(len(data), "examples scored")
    found = scoring.answer_nats(CompletionLoss(network), data, progress.add)
    nats = [total / tokens for total, tokens in found]
    bad = [record.id for record, value in zip(records, nats, strict=True) if not math.isfinite(value)]
    if bad:
        raise DataError(
            f"the base model gives {len(bad)} examples no finite loss (first: {bad[0]!r}): check the base's "
            "weights, or choose another signal"
        )
    return nats


def chance(id: str, seed: int) -> float:
    """Return a number from 0 to 1 that depends only on id and seed."""
    return int.from_bytes(hashlib.sha256(f"{seed} {id}".encode()).digest()[:7]) / 2**56
