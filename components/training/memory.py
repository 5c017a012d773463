"""Measured bytes of training, against which ``components/plan/memory.py`` is held."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepcuts.components.training import models
from deepcuts.components.training.batches import MicroBatch
from deepcuts.components.training.blocks import saved_tensor_bytes


class MeasuredMemory(NamedTuple):
    """Bytes, each storage once."""

    weights: int
    gradients: int
    optimizer: int
    saved: int
    """What autograd keeps of one forward pass, parameters not counted."""


def measure(loss: nn.Module, batch: MicroBatch) -> MeasuredMemory:
    """Count in one AdamW step of ``loss`` on ``batch``; an allocator's peak is noise on a CPU."""
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
