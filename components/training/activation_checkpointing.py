"""What gradient checkpointing takes and gives (cut 4): one row both ways, before the training begins."""

import statistics
import time
from typing import NamedTuple

import torch
from torch import nn

from deepcuts.components.core.receipts import Facts
from deepcuts.components.training.batches import MicroBatch
from deepcuts.components.training.blocks import kept_whole, saved_tensor_bytes

ROUNDS = 3
"""Pairs that are timed, after one that is not."""


class CheckpointingCost(NamedTuple):
    """One row, forward and backward, with the Recipe's checkpointing over without; more rows are alike."""

    bytes_share: float
    seconds_ratio: float

    def facts(self, saved_bytes: int | None, train_seconds: float) -> Facts:
        """Return the facts of a run that kept ``saved_bytes`` of a micro-batch and took ``train_seconds``."""
        return {
            "saved_tensor_bytes_if_kept": saved_bytes and round(saved_bytes / self.bytes_share),
            "recompute_seconds": round(train_seconds * (1 - 1 / self.seconds_ratio), 3),
        }


def measure(loss: nn.Module, batch: MicroBatch) -> CheckpointingCost | None:
    """Pass the first row of ``batch`` both ways in turn, no gradient left; None where it does not fit."""
    row = MicroBatch(*(tensor[:1].to(next(loss.parameters()).device) for tensor in batch))
    loss.train()
    pairs = []
    try:
        for _ in range(1 + ROUNDS):
            with kept_whole(loss):
                kept = _pass(loss, row)
            pairs.append((kept, _pass(loss, row)))
    except torch.cuda.OutOfMemoryError:  # which is why activations are recomputed
        return None
    (kept_bytes, _), (recomputed_bytes, _) = pairs[0]
    ratio = statistics.median(again[1] / once[1] for once, again in pairs[1:])
    return CheckpointingCost(recomputed_bytes / kept_bytes, ratio)


def _pass(loss: nn.Module, row: MicroBatch) -> tuple[int, float]:
    """Return (bytes autograd kept, seconds)."""
    began = time.perf_counter()
    with saved_tensor_bytes(loss) as count:
        nats = loss(*row)
    saved = count()
    nats.backward()
    loss.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return saved, time.perf_counter() - began
