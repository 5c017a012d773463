"""Load quantized models: compressed-tensors folders, which vLLM loads, and QLoRA's 4 bits.

Only linear layers of the blocks are quantized, not embeddings, lm_head, norms and biases: a small model's
embeddings are most of its bytes, a tied one is used at both ends, and errors in the last layer are errors in
every logit.
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
    """Tell whether a model folder's config says that the weights are quantized, by any tool."""
    try:
        return bool(json.loads(folder.joinpath("config.json").read_bytes()).get("quantization_config"))
    except (OSError, ValueError, AttributeError):
        return False  # no folder or no config: the loader reports it


class Unsupported(ValueError):
    """A format for which this host has no kernel, or this architecture no layers."""


def load(folder: Path) -> PreTrainedModel:
    """Load a quantized model for scoring and generation, in float32 where it is not quantized.

    Raises:
        DataError: weights are damaged or do not match the config, or the quantization is not one of ours.
    """
    from compressed_tensors.offload import remove_dispatch  # imported here: it takes a second

    config = json.loads(folder.joinpath("config.json").read_bytes())["quantization_config"]
    if (method := config.get("quant_method")) != METHOD:
        raise DataError(
            f"{folder} is quantized by {method!r}: only {METHOD} folders are loaded; "
            "start from the model it was made from"
        )
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar per stage
            model, found = AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
            # The first pass unpacks the weights; a cast before it would fail. 4-bit floats become bfloat16.
            with torch.no_grad(), torch.autocast("cpu"):
                model(torch.zeros(1, 1, dtype=torch.long))
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError) as error:
        raise DataError(f"{folder} does not load as a model ({str(error)[:200]}): quantize again") from error
    if found["missing_keys"]:
        raise DataError(f"{folder}: {len(found['missing_keys'])} weights are missing: quantize again")
    remove_dispatch(model, onload_tensors=True)  # its wrapped forward turns our Groups into tuples
    nn.Module.float(model)  # transformers' float() refuses quantized models; the weights are unpacked
    return model.eval().requires_grad_(False)


def nf4(compute: torch.dtype) -> BitsAndBytesConfig:
    """Return QLoRA's quantization: NF4 with quantized scales (Dettmers et al. 2023)."""
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
    """Return the weight as (out, in), whatever the layer's layout."""
    weight = layer.weight.detach()
    return weight.T if isinstance(layer, Conv1D) else weight
