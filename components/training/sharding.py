"""Shard training with FSDP2: each process holds a share of each weight, gradient and Adam state.

With HSDP the processes of a node hold all shares together and each node has a copy, so that only gradients
cross the network. Names, numbers of weights and checkpoints are the same as with one process. Reading a full
tensor gathers the shares of all processes, so all of them must read it, in the same order.
"""

import os

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from deepcuts.components.core.recipe import SHARDED, Recipe
from deepcuts.components.training import models
from deepcuts.components.training.blocks import blocks_of


def group(recipe: Recipe) -> Accelerator:
    """Return the processes that train together: all that torchrun started, else this one.

    Without a CUDA device, Accelerate joins processes only if told to; otherwise each would train the whole
    run by itself.
    """
    on_cpus = "RANK" in os.environ and not torch.cuda.is_available()
    found = Accelerator(cpu=on_cpus, mixed_precision=models.mixed_precision(recipe))
    assert found.num_processes == int(os.environ.get("WORLD_SIZE", 1)), "processes that do not train together"
    return found


def strategy(recipe: Recipe, accelerator: Accelerator) -> str:
    """Return how the processes share the work: ``single``, ``ddp``, ``fsdp`` or ``hsdp``.

    A single process started by torchrun also shards, so that FSDP can be tried with one device. On one node
    HSDP is FSDP.
    """
    if recipe.strategy in SHARDED and dist.is_initialized():
        return "hsdp" if recipe.strategy == "hsdp" and nodes(accelerator) > 1 else "fsdp"
    return "single" if accelerator.num_processes == 1 else "ddp"


def nodes(accelerator: Accelerator) -> int:
    """Return the number of nodes, which all run equally many processes."""
    every: int = accelerator.num_processes
    return every // int(os.environ.get("LOCAL_WORLD_SIZE", every))


def mesh_of(recipe: Recipe, accelerator: Accelerator) -> DeviceMesh:
    """Return the processes as a row of shards; with HSDP, a row per node, whose columns are copies."""
    kind, count = accelerator.device.type, accelerator.num_processes
    if strategy(recipe, accelerator) == "hsdp":
        copies = nodes(accelerator)
        return init_device_mesh(kind, (copies, count // copies), mesh_dim_names=("replicate", "shard"))
    return init_device_mesh(kind, (count,))


def reduce_between_copies(loss: nn.Module, now: bool) -> None:
    """Say whether the next backward pass adds up the gradients of the nodes' copies (HSDP)."""
    assert isinstance(loss, FSDPModule)
    loss.set_requires_all_reduce(now)


def shard(loss: nn.Module, recipe: Recipe, accelerator: Accelerator) -> None:
    """Shard the weights block by block, so that no device ever holds the whole model.

    Gradients are averaged over the processes, as in DDP.
    """
    mesh = mesh_of(recipe, accelerator)
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
