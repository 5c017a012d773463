"""Shard training with FSDP2: each process holds a share of each weight, gradient and Adam state.

Names, numbers of weights and checkpoints are the same as with one process. Reading a full tensor gathers the
shares of all processes, so all of them must read it, in the same order.
"""

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training.blocks import blocks_of


def strategy(recipe: Recipe, accelerator: Accelerator) -> str:
    """Return how the processes share the work: ``single``, ``ddp`` or ``fsdp``.

    A single process started by torchrun also shards, so that FSDP can be tried with one device.
    """
    if recipe.strategy == "fsdp" and dist.is_initialized():
        return "fsdp"
    return "single" if accelerator.num_processes == 1 else "ddp"


def shard(loss: nn.Module, accelerator: Accelerator) -> None:
    """Shard the weights block by block, so that no device ever holds the whole model.

    Gradients are averaged over the processes, as in DDP.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in blocks_of(loss):
        fully_shard(block, mesh=mesh)
    fully_shard(loss, mesh=mesh)
    register_fsdp_forward_method(loss, "token_nats")  # scoring calls it directly, not via ``forward``


def is_sharded(loss: nn.Module) -> bool:
    """Tell whether the weights are sharded."""
    return isinstance(loss, FSDPModule)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor, on the CPU."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu().contiguous()


def local(tensor: Tensor) -> Tensor:
    """Return this process's share of a tensor, all of it unless it is sharded."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def copy_into_shard(tensor: Tensor, value: Tensor) -> None:
    """Copy a full ``value`` into a tensor that may be sharded."""
    value = value.to(tensor.device)
    if isinstance(tensor, DTensor):
        value = distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
    with torch.no_grad():
        tensor.copy_(value)
