"""Layout: where the blocks, neurons and heads of an architecture lie, and what its config calls them."""

from typing import NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedModel


class Axis(NamedTuple):
    """A weight of a block that holds the units to cut, by its name inside the block."""

    name: str
    dim: int


class Layout(NamedTuple):
    blocks: str
    """Name of the module list of blocks."""
    block_count: str
    """Name in the config; as are the next two."""
    neuron_count: str
    neuron_axes: tuple[Axis, ...]
    neuron_out: Axis
    """What reads the neurons; its input is their activation."""
    query_axes: tuple[Axis, ...]
    """Empty where heads cannot be cut: the config has no head width of its own."""
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
LAYOUTS = {"llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA, "gpt2": GPT2}


def layout_of(model: PreTrainedModel) -> Layout:
    """Find the layout of a model; raises ValueError for an architecture that cannot be cut."""
    kind = model.config.model_type
    if kind not in LAYOUTS:
        raise ValueError(f"model_type {kind!r} cannot be cut in width or depth: give {', '.join(LAYOUTS)}")
    return LAYOUTS[kind]


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    found = model.get_submodule(layout_of(model).blocks)
    assert isinstance(found, nn.ModuleList)
    return found


def reader(block: nn.Module, axis: Axis) -> tuple[nn.Module, Tensor]:
    """Return the module that reads units, and its weight as (outputs, units)."""
    module = block.get_submodule(axis.name.removesuffix(".weight"))
    weight = block.get_parameter(axis.name)
    return module, weight.T if axis.dim == 0 else weight


def head_width(model: PreTrainedModel) -> int:
    config = model.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
