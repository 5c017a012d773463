"""Liger's fused kernels for norms, rotary positions and MLPs, where they can run (cut 5)."""

import importlib
from importlib.util import find_spec

import torch
from transformers import PreTrainedModel


def fuse(model: PreTrainedModel, device: torch.device, sharded: bool) -> str:
    """Put Liger's kernels into ``model`` on CUDA when liger-kernel is installed; ``on``, or why not.

    The loss stays ours: it computes logits only where there is a target (``losses.py``). A model that is to
    be ``sharded`` goes without: packing is proven on it while it is on the CPU, where the kernels do not run.
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
        return f"off: liger-kernel has none for {kind}"
    patches._apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)
    return "on"
