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
    return MeasuredMemory(sum(parameters.values()), gradients, optimizer_bytes(optimizer), saved)


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of an optimizer's state."""
    state = [value for values in optimizer.state.values() for value in values.values()]
    return sum(value.numel() * value.element_size() for value in state if isinstance(value, Tensor))
