"""Layout: where an architecture has its blocks, neurons and heads, and their names in the config."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Size, Tensor, nn
from transformers import PreTrainedModel

from deepcuts.components.training.blocks import blocks_of as repeated


class Axis(NamedTuple):
    """A weight of a block with the units to cut, by its name in the block."""

    name: str
    dim: int


NONE = Axis("", 0)


class Layout(NamedTuple):
    blocks: str
    """Name of the module list of blocks."""
    block_count: str
    """Name in the config, as for the next two fields."""
    neuron_count: str
    neuron_axes: tuple[Axis, ...]
    """Empty if neurons cannot be cut: blocks differ, or have no gated MLP with these names."""
    neuron_out: Axis
    """The weight that reads the neurons; its input is their activation."""
    query_axes: tuple[Axis, ...]
    """Empty if heads cannot be cut, because the config has no separate head width."""
    key_value_axes: tuple[Axis, ...]
    head_out: Axis


LLAMA = Layout(
    blocks="model.layers",
    block_count="num_hidden_layers",
    neuron_count="intermediate_size",
    neuron_axes=(
        Axis("mlp.gate_proj.weight", 0),
        Axis("mlp.up_proj.weight", 0),
        Axis("mlp.gate_proj.bias", 0),
        Axis("mlp.up_proj.bias", 0),
    ),
    neuron_out=Axis("mlp.down_proj.weight", 1),
    query_axes=(Axis("self_attn.q_proj.weight", 0), Axis("self_attn.q_proj.bias", 0)),
    key_value_axes=(
        Axis("self_attn.k_proj.weight", 0),
        Axis("self_attn.v_proj.weight", 0),
        Axis("self_attn.k_proj.bias", 0),
        Axis("self_attn.v_proj.bias", 0),
    ),
    head_out=Axis("self_attn.o_proj.weight", 1),
)
GPT2 = Layout(
    blocks="transformer.h",
    block_count="n_layer",
    neuron_count="n_inner",
    neuron_axes=(Axis("mlp.c_fc.weight", 1), Axis("mlp.c_fc.bias", 0)),  # Conv1D stores (in, out)
    neuron_out=Axis("mlp.c_proj.weight", 0),
    query_axes=(),
    key_value_axes=(),
    head_out=Axis("attn.c_proj.weight", 0),
)


def layout_of(model: PreTrainedModel) -> Layout:
    """Find the layout of a model: Llama's names if all its blocks have them, else only what depth needs.

    Raises:
        ValueError: the model has no list of blocks.
    """
    if model.config.model_type == "gpt2":
        return GPT2
    blocks = next(
        (
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and [*module] == repeated(model)
        ),
        "",
    )
    if not blocks:
        raise ValueError(
            f"model_type {model.config.model_type!r} has no list of blocks to cut: quantize it instead"
        )
    shapes = [{name: weight.shape for name, weight in block.named_parameters()} for block in repeated(model)]
    mlp = {axis.name for axis in (*LLAMA.neuron_axes, LLAMA.neuron_out) if axis.name.endswith("weight")}
    if any(shape != shapes[0] for shape in shapes) or not mlp <= shapes[0].keys():
        return Layout(blocks, "num_hidden_layers", "", (), NONE, (), (), NONE)
    return LLAMA._replace(blocks=blocks) if _heads_can_go(model, shapes[0]) else _headless(blocks)


def _headless(blocks: str) -> Layout:
    return LLAMA._replace(blocks=blocks, query_axes=(), key_value_axes=())


def _heads_can_go(model: PreTrainedModel, shapes: Mapping[str, Size]) -> bool:
    """Tell whether a block's attention is four projections, with norms of single heads at most."""
    axes = {axis.name for axis in (*LLAMA.query_axes, *LLAMA.key_value_axes, LLAMA.head_out)}
    weights = {name for name in axes if name.endswith("weight")}
    rest = {
        name: shape for name, shape in shapes.items() if name.startswith("self_attn.") and name not in axes
    }
    one_head = (head_width(model),)
    config = model.config
    return (
        weights <= shapes.keys()
        and all(tuple(shape) == one_head for name, shape in rest.items() if name != "self_attn.o_proj.bias")
        and bool(getattr(config, "num_key_value_heads", None) and getattr(config, "hidden_size", None))
    )


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """Return the model's list of transformer blocks."""
    found = model.get_submodule(layout_of(model).blocks)
    assert isinstance(found, nn.ModuleList)
    return found


def reader(block: nn.Module, axis: Axis) -> tuple[nn.Module, Tensor]:
    """Return the module that reads units, and its weight as (outputs, units)."""
    module = block.get_submodule(axis.name.removesuffix(".weight"))
    weight = block.get_parameter(axis.name)
    return module, weight.T if axis.dim == 0 else weight


def head_width(model: PreTrainedModel) -> int:
    """Return the width of an attention head."""
    config = model.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
