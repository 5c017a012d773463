"""Transfer weights from a pretrained donor to a new model: token rows by text, blocks by depth."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from deepcuts.components.training.blocks import blocks_of

Layers = Literal["none", "copy", "stack"]


class Overlap(NamedTuple):
    """Rows of the new vocabulary that are also in the donor's."""

    pairs: list[tuple[int, int]]
    """(row of the new model, row of the donor)."""
    tokens: int
    """Number of tokens of the new tokenizer."""

    @property
    def share(self) -> float:
        return len(self.pairs) / self.tokens


def overlap(new: Mapping[str, int], donor: Mapping[str, int]) -> Overlap:
    """Match tokens by text, as two tokenizers give one token different ids."""
    return Overlap(sorted((row, donor[text]) for text, row in new.items() if text in donor), len(new))


def build(donor: PreTrainedModel, changes: Mapping[str, Any], vocabulary: int, seed: int) -> PreTrainedModel:
    """Build a random model: the donor's config with ``changes`` and ``vocabulary`` embedding rows.

    Raises:
        ValueError: the config does not know a change, or it gives no valid model.
    """
    settings = donor.config.to_dict()
    unknown = sorted(set(changes) - set(settings))
    if unknown:
        raise ValueError(
            f"shape: {unknown[0]!r} is not in the donor's config: choose from {', '.join(sorted(settings))}"
        )
    per_layer = [name for name in ("layer_types",) if name in settings and "num_hidden_layers" in changes]
    settings = {name: value for name, value in settings.items() if name not in per_layer}
    config: PretrainedConfig = type(donor.config)(**settings | dict(changes) | {"vocab_size": vocabulary})
    torch.manual_seed(seed)
    try:
        made: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, ZeroDivisionError, RuntimeError, TypeError) as error:
        raise ValueError(f"shape {dict(changes)} gives no model ({error}): correct it") from error
    return made


def copy(
    made: PreTrainedModel, donor: PreTrainedModel, shared: Overlap, layers: Layers, rescale: bool
) -> int:
    """Copy layers and embeddings into ``made``; return the number of blocks filled."""
    filled = copy_layers(made, donor, layers)
    copy_embeddings(made, donor, shared, rescale)
    return filled


def copy_embeddings(model: PreTrainedModel, donor: PreTrainedModel, shared: Overlap, rescale: bool) -> None:
    """Copy rows of shared tokens, also in a separate output layer, and as many learned positions as fit.

    ``rescale`` shrinks the donor's rows to the standard deviation of the new model's random ones, as trained
    rows are larger and random blocks do not expect them.

    Raises:
        ValueError: the widths differ.
    """
    ours, theirs = _rows(model), _rows(donor)
    if ours[0].shape[1] != theirs[0].shape[1]:
        raise ValueError(
            f"the new model is {ours[0].shape[1]} wide, the donor {theirs[0].shape[1]}: rows cannot be "
            "copied; keep the donor's hidden size in shape"
        )
    into, out_of = (torch.tensor(side) for side in zip(*shared.pairs, strict=True))
    with torch.no_grad():
        for target, source in zip(ours, theirs, strict=len(ours) == len(theirs)):
            scale = target.std() / source[out_of].std() if rescale else torch.ones(())
            target[into] = source[out_of].to(target.dtype) * scale
        for target, source in zip(_positions(model), _positions(donor), strict=True):
            rows = min(len(target), len(source))
            target[:rows] = source[:rows].to(target.dtype)


def copy_layers(model: PreTrainedModel, donor: PreTrainedModel, layers: Layers) -> int:
    """Copy the donor's blocks and the norm after them; return the number of blocks filled.

    ``copy`` fills the first ones, as many as both models have. ``stack`` fills all by repeating the donor's
    blocks (G_stack, Du et al. 2024).

    Raises:
        ValueError: the blocks differ in shape, or ``stack`` does not make the model deeper.
    """
    if layers == "none":
        return 0
    ours, theirs = blocks_of(model), blocks_of(donor)
    if layers == "stack" and len(ours) <= len(theirs):
        raise ValueError(
            f"stack from {len(theirs)} blocks to {len(ours)} makes nothing deeper: "
            "raise the layers in shape, or use copy"
        )
    filled = ours if layers == "stack" else ours[: len(theirs)]
    for number, block in enumerate(filled):
        _copy(block, theirs[number % len(theirs)], f"block {number}")
    for target, source in zip(_last_norms(model), _last_norms(donor), strict=True):
        _copy(target, source, "the last norm")
    return len(filled)


def _rows(model: PreTrainedModel) -> list[Tensor]:
    """Return the embedding matrices, with an untied output layer's last."""
    first, last = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return [first.data] if first is last else [first.data, last.data]


def _positions(model: PreTrainedModel) -> list[Tensor]:
    """Return learned position rows (GPT-2); most models compute theirs."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return [module.weight.data for module in embeddings if module is not model.get_input_embeddings()]


def _last_norms(model: PreTrainedModel) -> list[nn.Module]:
    """Return the norms outside the blocks."""
    inside = {id(module) for block in blocks_of(model) for module in block.modules()}
    return [m for m in model.modules() if "norm" in type(m).__name__.lower() and id(m) not in inside]


def _copy(target: nn.Module, source: nn.Module, name: str) -> None:
    weights = source.state_dict()
    shapes = {key: value.shape for key, value in weights.items()}
    wanted = {key: value.shape for key, value in target.state_dict().items()}
    if shapes != wanted:
        key = next(key for key in wanted if shapes.get(key) != wanted[key])
        raise ValueError(
            f"{name}: {key} is {tuple(wanted[key])}, the donor's {tuple(shapes.get(key, ()))}: layers can "
            "only be copied if the shapes agree; set layers to none, or keep the donor's widths in shape"
        )
    target.load_state_dict(weights)
