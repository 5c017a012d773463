"""Measure the bytes of training, to check ``components/plan/memory.py``."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepcuts.components.training import models
from deepcuts.components.training.batches import MicroBatch
from deepcuts.components.training.blocks import saved_tensor_bytes


class MeasuredMemory(NamedTuple):
    """Bytes; each storage counts once."""

    weights: int
    gradients: int
    optimizer: int
    saved: int
    """Kept by autograd for one forward pass, without parameters."""


def measure(loss: nn.Module, batch: MicroBatch) -> MeasuredMemory:
    """Count bytes in one AdamW step of ``loss`` on ``batch``; on a CPU an allocator's peak is too noisy."""
    parameters = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in loss.parameters()}
    trained = models.trainable(loss).values()
    optimizer = torch.optim.AdamW(trained, fused=True)
    with saved_tensor_bytes(loss) as count:
        nats = loss(*batch)
    saved = count()
    nats.backward()
    optimizer.step()
    gradients = sum(p.grad.untyped_storage().nbytes() for p in trained if p.grad is not None)
    state = [v for values in optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
    return MeasuredMemory(
        sum(parameters.values()), gradients, sum(v.untyped_storage().nbytes() for v in state), saved
    )
