"""Quantized models: three formats of our own on PyTorch's kernels, and compressed-tensors, which vLLM loads.

Linear layers of the blocks are quantized. Embeddings, lm_head, norms and biases stay as they were: a small
model's embeddings are most of its bytes, a tied one is read by both ends, and errors in the last layer are
errors in every logit. Nothing is pickled. Our own folder is config.json, whose ``quantization_config`` says
``deepcuts`` so that other tools refuse it, and model.safetensors with, in place of ``NAME.weight``:

    int8-dynamic, int8-weight   NAME.weight_int8 (out, in) and NAME.weight_scale (out,), float32
    int4-weight                 NAME.weight_int4 (out, in / 2), low nibble first, and
                                NAME.weight_scale, NAME.weight_zero (out, in / group), float16

Loading packs them for a kernel: torch.ao's dynamic int8 (activations quantized per call, so a score depends
a little on what shares its batch), torchao's int8 tensor, or PyTorch's int4 matmul.
"""

import contextlib
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.ao.nn.quantized.dynamic import Linear as DynamicLinear
from torchao.quantization import Int8Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from deepcuts.components.core.errors import DataError
from deepcuts.components.training.blocks import read_past

Linear: TypeAlias = nn.Linear | Conv1D
Scheme = Literal["int8-dynamic", "int8-weight", "int4-weight"]
CPU_ONLY = ("int8-dynamic", "int4-weight")
METHOD = "deepcuts"
GROUPS = (32, 64, 128)
"""Group sizes that PyTorch's int4 kernel takes."""
ROW_BLOCK = 16
"""It also wants the number of rows to be a multiple of this."""


class QuantConfig(msgspec.Struct, frozen=True):
    """``quantization_config`` of our own formats."""

    scheme: Scheme
    group_size: int
    quant_method: Literal["deepcuts"] = "deepcuts"


def is_quantized(folder: Path) -> bool:
    """Return whether a model folder says that its weights are quantized, by whatever tool."""
    try:
        return bool(json.loads(folder.joinpath("config.json").read_bytes()).get("quantization_config"))
    except (OSError, ValueError, AttributeError):
        return False  # no folder, or no config: the loader says so


class Unsupported(ValueError):
    """A format that this host has no kernel for, or this architecture no layers."""


def check_hardware(scheme: str) -> None:
    """Raise Unsupported where a scheme has no kernel on the device that models run on here."""
    if scheme in CPU_ONLY and torch.cuda.is_available():
        raise Unsupported(
            f"{scheme} has kernels for CPUs only and this host runs models on CUDA: take int8-weight or a "
            "compressed-tensors format, or hide the GPU (CUDA_VISIBLE_DEVICES=)"
        )
    if scheme == "int8-dynamic" and torch.backends.quantized.engine == "none":
        raise Unsupported("int8-dynamic needs a PyTorch with fbgemm or qnnpack: take another format")


def write(
    model: PreTrainedModel, scheme: Scheme, group_size: int, folder: Path, stored: torch.dtype
) -> list[str]:
    """Write ``model`` under one of our schemes to an existing ``folder``; returns the layers left alone.

    Everything that is not quantized is stored as ``stored``. int4 leaves layers whose shape its kernel does
    not take.
    """
    tensors = {name: value.to(stored) for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        head = next(n for n, m in model.named_modules() if m is model.get_output_embeddings())
        del tensors[f"{head}.weight"]
    left = []
    for name, layer in linears(model).items():
        weight = weight_of(layer)
        if scheme == "int4-weight" and not fits_int4(weight, group_size):
            left.append(name)
            continue
        packed = int4(weight, group_size) if scheme == "int4-weight" else int8(weight)
        del tensors[f"{name}.weight"]
        tensors |= {f"{name}.weight_{part}": value for part, value in packed.items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_bytes())
    config["quantization_config"] = msgspec.to_builtins(QuantConfig(scheme=scheme, group_size=group_size))
    path.write_text(json.dumps(config, indent=2, sort_keys=True))
    return left


def load(folder: Path) -> PreTrainedModel:
    """Return a quantized model that scores and generates, float32 where it is not quantized.

    Raises:
        Unsupported: no kernel for it on this host.
        DataError: weights that are torn or not the config's, or a quantization we do not write.
    """
    config = json.loads(folder.joinpath("config.json").read_bytes())["quantization_config"]
    method = config.get("quant_method")
    if method == METHOD:
        return _load_own(folder, config)
    if method == "compressed-tensors":
        return _load_compressed(folder)
    raise DataError(
        f"{folder} is quantized by {method!r}: only {METHOD} and compressed-tensors folders are loaded; "
        "start from the model it was made of"
    )


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


def int8(weight: Tensor) -> dict[str, Tensor]:
    """Quantize symmetrically, one scale a row: weight ~ int8 * scale."""
    scale = weight.float().abs().amax(1).clamp_min(1e-12) / 127
    return {"int8": (weight.float() / scale[:, None]).round().to(torch.int8), "scale": scale}


def int4(weight: Tensor, group_size: int) -> dict[str, Tensor]:
    """Quantize with a scale and a zero for each group of columns: weight ~ (nibble - 8) * scale + zero."""
    groups = weight.float().reshape(len(weight), -1, group_size)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((high - low) / 15).clamp_min(1e-6).half()  # what is stored is what the rounding below is for
    zero = (low + 8 * scale.float()).half()
    level = ((groups - zero.float()) / scale.float() + 8).round().clamp(0, 15).to(torch.uint8).flatten(1)
    nibbles = level[:, ::2] | level[:, 1::2] << 4
    return {"int4": nibbles, "scale": scale[..., 0], "zero": zero[..., 0]}


def fits_int4(weight: Tensor, group_size: int) -> bool:
    """Return whether PyTorch's int4 kernel takes a weight (out, in)."""
    rows, columns = weight.shape
    return columns % group_size == 0 and rows % ROW_BLOCK == 0


class Int4Linear(nn.Module):
    """A linear layer on PyTorch's int4 matmul for CPUs."""

    def __init__(self, parts: Mapping[str, Tensor], group_size: int, bias: Tensor | None) -> None:
        super().__init__()
        nibbles = parts["int4"]
        level = torch.stack([nibbles & 15, nibbles >> 4], dim=-1).flatten(1).int()
        both = torch.stack([parts["scale"], parts["zero"]], dim=-1).float().transpose(0, 1).contiguous()
        self.group_size = group_size
        self.register_buffer("packed", torch.ops.aten._convert_weight_to_int4pack_for_cpu(level, 1))
        self.register_buffer("scale_and_zero", both)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., in) -> (..., out)."""
        rows = x.reshape(-1, x.shape[-1])
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows.contiguous(), self.packed, self.group_size, self.scale_and_zero
        )
        out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], -1)  # type: ignore[no-any-return]


def _load_own(folder: Path, settings: Any) -> PreTrainedModel:
    try:
        chosen = msgspec.convert(settings, QuantConfig)
        tensors = load_file(folder / "model.safetensors")
    except (msgspec.ValidationError, OSError, SafetensorError) as error:
        raise DataError(f"{folder} is no quantized model that loads ({error}): quantize again") from error
    check_hardware(chosen.scheme)
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    del config.quantization_config
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    packed = {}
    for name, layer in linears(model).items():
        begin = f"{name}.weight_"
        parts = {key.removeprefix(begin): tensors.pop(key) for key in list(tensors) if key.startswith(begin)}
        if parts:
            packed[name] = layer, parts
    _fill(model, tensors, {f"{name}.weight" for name in packed}, folder)
    for name, (layer, parts) in packed.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, _kernel(layer, chosen, parts, f"{folder}: {name}"))
    if folder.joinpath("generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.eval().requires_grad_(False)


def _fill(model: PreTrainedModel, tensors: Mapping[str, Tensor], quantized: set[str], folder: Path) -> None:
    """Load what is not quantized; every name must be there, none too many."""
    try:
        found = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise DataError(f"{folder}: weights have another shape than config.json says: {error}") from error
    embedding = model.get_input_embeddings().weight
    tied = {name for name, weight in model.state_dict(keep_vars=True).items() if weight is embedding}
    missing = set(found.missing_keys) - quantized - tied
    if wrong := sorted(missing | set(found.unexpected_keys)):
        raise DataError(
            f"{folder}: {len(wrong)} weights are missing or unknown, first {wrong[0]}: quantize again"
        )


def _kernel(layer: Linear, settings: QuantConfig, parts: Mapping[str, Tensor], where: str) -> nn.Module:
    """Return the module that computes what ``layer`` did, from its stored integers."""
    rows, columns = weight_of(layer).shape
    shapes = {name: tuple(part.shape) for name, part in parts.items()}
    groups = (rows, columns // settings.group_size)
    wanted = (
        {"int4": (rows, columns // 2), "scale": groups, "zero": groups}
        if settings.scheme == "int4-weight"
        else {"int8": (rows, columns), "scale": (rows,)}
    )
    if shapes != wanted:
        raise DataError(f"{where}: stored as {shapes}, should be {wanted}: quantize again")
    bias = None if layer.bias is None else layer.bias.detach()
    if settings.scheme == "int4-weight":
        return Int4Linear(parts, settings.group_size, bias)
    if settings.scheme == "int8-dynamic":
        return _dynamic(parts, bias)
    linear, scale = nn.Linear(columns, rows, bias=bias is not None), parts["scale"][:, None]
    if bias is not None:
        linear.bias.data = bias
    linear.weight = nn.Parameter(Int8Tensor(parts["int8"], scale, [1, columns], scale.dtype), False)
    return linear


def _dynamic(parts: Mapping[str, Tensor], bias: Tensor | None) -> nn.Module:
    rows, columns = parts["int8"].shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated since 2.10, and the fastest int8 on CPUs still
        zeros = torch.zeros(rows, dtype=torch.long)
        weight = torch._make_per_channel_quantized_tensor(parts["int8"], parts["scale"].double(), zeros, 0)
        linear = DynamicLinear(columns, rows, bias is not None)  # type: ignore[no-untyped-call]
        linear.set_weight_bias(weight, bias)
    return linear


def _load_compressed(folder: Path) -> PreTrainedModel:
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar a stage
            model, found = AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder} is no model that loads ({str(error)[:200]}): quantize again") from error
    if found["missing_keys"]:
        raise DataError(f"{folder}: {len(found['missing_keys'])} weights are missing: quantize again")
    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
        model(torch.zeros(1, 1, dtype=torch.long))  # the first pass unpacks; a cast before it would break
    return model.eval().requires_grad_(False)
