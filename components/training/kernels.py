"""Use Liger's fused kernels for norms, rotary positions and MLPs if they can run (cut 5)."""

import importlib
from importlib.util import find_spec

import torch
from transformers import PreTrainedModel


def fuse(model: PreTrainedModel, device: torch.device, sharded: bool) -> str:
    """Patch ``model`` with Liger's kernels on CUDA if liger-kernel is installed; return ``on`` or why not.

    The loss stays ours, as it computes logits only at targets (``losses.py``). A model to be ``sharded`` is
    left alone: packing is proven on it while it is still on the CPU, where the kernels do not run.
    """
    if device.type != "cuda":
        return "off: no CUDA device"
    if sharded:
        return "off: not with sharded weights"
    if find_spec("liger_kernel") is None:
        return "off: liger-kernel is not installed"
    patches = importlib.import_module("liger_kernel.transformers.monkey_patch")
    kind = model.config.model_type
    if kind not in patches.MODEL_TYPE_TO_APPLY_LIGER_FN:
        return f"off: liger-kernel has no kernels for {kind}"
    patches._apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)
    return "on"
