"""Quantized models: compressed-tensors folders, which vLLM loads, and QLoRA's four bits.

Linear layers of the blocks are quantized. Embeddings, lm_head, norms and biases stay as they were: a small
model's embeddings are most of its bytes, a tied one is read by both ends, and errors in the last layer are
errors in every logit.
"""

import contextlib
import io
import json
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from deepcuts.components.core.errors import DataError
from deepcuts.components.training.blocks import read_past

Linear: TypeAlias = nn.Linear | Conv1D
METHOD = "compressed-tensors"


def is_quantized(folder: Path) -> bool:
    """Return whether a model folder says that its weights are quantized, by whatever tool."""
    try:
        return bool(json.loads(folder.joinpath("config.json").read_bytes()).get("quantization_config"))
    except (OSError, ValueError, AttributeError):
        return False  # no folder, or no config: the loader says so


class Unsupported(ValueError):
    """A format that this host has no kernel for, or this architecture no layers."""


def load(folder: Path) -> PreTrainedModel:
    """Return a quantized model that scores and generates, float32 where it is not quantized.

    Raises:
        DataError: weights that are torn or not the config's, or a quantization we do not write.
    """
    from compressed_tensors.offload import remove_dispatch  # a second that whole models need not wait for

    config = json.loads(folder.joinpath("config.json").read_bytes())["quantization_config"]
    if (method := config.get("quant_method")) != METHOD:
        raise DataError(
            f"{folder} is quantized by {method!r}: only {METHOD} folders are loaded; "
            "start from the model it was made of"
        )
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar a stage
            model, found = AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
            # The first pass unpacks, and a cast before it would break. 4-bit floats are unpacked as bfloat16.
            with torch.no_grad(), torch.autocast("cpu"):
                model(torch.zeros(1, 1, dtype=torch.long))
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError) as error:
        raise DataError(f"{folder} is no model that loads ({str(error)[:200]}): quantize again") from error
    if found["missing_keys"]:
        raise DataError(f"{folder}: {len(found['missing_keys'])} weights are missing: quantize again")
    remove_dispatch(model, onload_tensors=True)  # its wrappers of forward make tuples of our Groups
    nn.Module.float(model)  # transformers' own refuses quantized models; this one's weights are unpacked
    return model.eval().requires_grad_(False)


def nf4(compute: torch.dtype) -> BitsAndBytesConfig:
    """Quantize as QLoRA does: normal floats, their scales quantized as well (Dettmers et al. 2023)."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def linears(model: PreTrainedModel) -> dict[str, Linear]:
    """Return the linear layers inside the blocks by name, without the output layer."""
    plain = (nn.Linear.forward, Conv1D.forward)  # Llama 4's router is a Linear that returns two tensors
    apart, output = read_past(model), model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and type(module).forward in plain
        if module is not output and name not in apart
    }


def weight_of(layer: Linear) -> Tensor:
    """Return (out, in), whatever the layer's own layout."""
    weight = layer.weight.detach()
    return weight.T if isinstance(layer, Conv1D) else weight
