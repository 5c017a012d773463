"""Measure cost and gain of activation checkpointing (cut 4) on one row, before training begins."""

import statistics
import time
from typing import NamedTuple

import torch
from torch import nn

from deepcuts.components.core.receipts import Facts
from deepcuts.components.training.batches import MicroBatch
from deepcuts.components.training.blocks import kept_whole, saved_tensor_bytes

ROUNDS = 3
"""Timed pairs, after one warm-up."""


class CheckpointingCost(NamedTuple):
    """Forward and backward of one row with the Recipe's checkpointing, relative to without."""

    bytes_share: float
    seconds_ratio: float

    def facts(self, saved_bytes: int | None, train_seconds: float) -> Facts:
        """Return the facts of a run that kept ``saved_bytes`` per micro-batch and took ``train_seconds``."""
        return {
            "saved_tensor_bytes_if_kept": saved_bytes and round(saved_bytes / self.bytes_share),
            "recompute_seconds": round(train_seconds * (1 - 1 / self.seconds_ratio), 3),
        }


def measure(loss: nn.Module, batch: MicroBatch) -> CheckpointingCost | None:
    """Time the first row of ``batch`` both ways, leaving no gradients; None if it does not fit in memory."""
    row = MicroBatch(*(tensor[:1].to(next(loss.parameters()).device) for tensor in batch))
    loss.train()
    pairs = []
    try:
        for _ in range(1 + ROUNDS):
            with kept_whole(loss):
                kept = _pass(loss, row)
            pairs.append((kept, _pass(loss, row)))
    except torch.cuda.OutOfMemoryError:  # the reason for checkpointing
        return None
    (kept_bytes, _), (recomputed_bytes, _) = pairs[0]
    ratio = statistics.median(again[1] / once[1] for once, again in pairs[1:])
    return CheckpointingCost(recomputed_bytes / kept_bytes, ratio)


def _pass(loss: nn.Module, row: MicroBatch) -> tuple[int, float]:
    """Return (bytes kept by autograd, seconds)."""
    began = time.perf_counter()
    with saved_tensor_bytes(loss) as count:
        nats = loss(*row)
    saved = count()
    nats.backward()
    loss.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return saved, time.perf_counter() - began
