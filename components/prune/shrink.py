"""Build a smaller dense model from the kept units, with a matching config."""

import copy
import json
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from deepcuts.components.prune.layout import Axis, blocks_of, head_width, layout_of

PER_LAYER = re.compile("layer|block")
"""Parts of names of per-block lists in a config; others have that length by chance (``time_step_limit``)."""


def keep_blocks(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """Build a model of only these blocks, in their order."""
    layout = layout_of(model)
    config = _config(model, {layout.block_count: len(kept)})
    for name, value in model.config.to_dict().items():  # layer_types and others with one entry per block
        if isinstance(value, list) and len(value) == len(blocks_of(model)) and PER_LAYER.search(name):
            setattr(config, name, [value[i] for i in kept])
    rest = {k: v for k, v in model.state_dict().items() if not k.startswith(f"{layout.blocks}.")}
    for new, old in enumerate(kept):
        inner = blocks_of(model)[old].state_dict()
        rest |= {f"{layout.blocks}.{new}.{name}": value for name, value in inner.items()}
    return _built(model, config, rest)


def keep_neurons(model: PreTrainedModel, kept: Sequence[Tensor]) -> PreTrainedModel:
    """Build a model of these MLP neurons: sorted indices, the same number per block."""
    layout = layout_of(model)
    weights = model.state_dict()
    for number, units in enumerate(kept):
        for axis in (*layout.neuron_axes, layout.neuron_out):
            _select(weights, f"{layout.blocks}.{number}", axis, units)
    return _built(model, _config(model, {layout.neuron_count: len(kept[0])}), weights)


def keep_head_groups(model: PreTrainedModel, kept: Sequence[Tensor]) -> PreTrainedModel:
    """Build a model of these key-value heads, each with all its query heads."""
    layout, width = layout_of(model), head_width(model)
    queries = model.config.num_attention_heads // model.config.num_key_value_heads
    weights = model.state_dict()
    for number, groups in enumerate(kept):
        block = f"{layout.blocks}.{number}"
        for axis in (*layout.query_axes, layout.head_out):
            _select(weights, block, axis, spread(groups, queries * width))
        for axis in layout.key_value_axes:
            _select(weights, block, axis, spread(groups, width))
    sizes = {
        "num_key_value_heads": len(kept[0]),
        "num_attention_heads": len(kept[0]) * queries,
        "head_dim": width,  # else it would be derived from the number of heads, which has changed
    }
    return _built(model, _config(model, sizes), weights)


def spread(units: Tensor, width: int) -> Tensor:
    """Return the indices of the ``width`` columns of each unit."""
    return (units[:, None] * width + torch.arange(width)).flatten()


def zero_smallest(model: PreTrainedModel, amount: float) -> None:
    """Zero the share ``amount`` of smallest weights of every linear layer in the blocks, in place."""
    for layer in (m for m in blocks_of(model).modules() if isinstance(m, nn.Linear | Conv1D)):
        torch_prune.l1_unstructured(layer, "weight", amount)  # type: ignore[no-untyped-call]
        torch_prune.remove(layer, "weight")  # type: ignore[no-untyped-call]


def zero_share(model: PreTrainedModel) -> float:
    """Return the share of all weights that are exactly zero."""
    zeros = sum(int((weight == 0).sum()) for weight in model.parameters())
    total: int = sum(weight.numel() for weight in model.parameters())
    return zeros / total


def _select(weights: dict[str, Tensor], block: str, axis: Axis, units: Tensor) -> None:
    name = f"{block}.{axis.name}"
    if name in weights:  # not all architectures have biases
        weights[name] = weights[name].index_select(axis.dim, units.to(weights[name].device))


def _config(model: PreTrainedModel, sizes: dict[str, int]) -> Any:
    config = copy.deepcopy(model.config)
    for name, value in sizes.items():
        setattr(config, name, value)
    return config


def _built(model: PreTrainedModel, config: Any, weights: dict[str, Tensor]) -> PreTrainedModel:
    kind = model.config.model_type
    try:
        written = json.loads(config.to_json_string())
        type(config).from_dict(config._decode_special_floats(written))  # a round trip, as for a saved config
        smaller: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
        smaller.load_state_dict(weights)
    except Exception as error:  # of many classes: configurations check themselves, weights must fit
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"model_type {kind!r} cannot be cut ({reason}): quantize it instead") from error
    smaller.generation_config = model.generation_config
    return smaller.to(model.device).eval()
