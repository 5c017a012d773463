"""Build the student of a distillation: some layers of a model, a smaller model, or a new one."""

import copy
import re
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.distill.distill_config import kept_layers, only_one


def build(base: PreTrainedModel, layers: str, config: dict[str, Any], seed: int) -> PreTrainedModel:
    """Build the student: ``layers`` of ``base``, or with ``config`` a random model of that shape.

    Raises:
        ValueError: the model does not have the layers, the config is invalid, or both are given.
    """
    if not config:
        kept = kept_layers(layers, base.config.num_hidden_layers)
        return base if len(kept) == base.config.num_hidden_layers else with_layers(base, kept)
    only_one(layers, config)
    return from_config(base.config, config, seed)


def with_layers(base: PreTrainedModel, kept: list[int]) -> PreTrainedModel:
    """Build a model of these layers of ``base`` in this order, with its other weights unchanged."""
    config = copy.deepcopy(base.config)
    config.num_hidden_layers = len(kept)
    if kinds := getattr(config, "layer_types", None):  # full or sliding attention, per layer
        config.layer_types = [kinds[layer] for layer in kept]
    student: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=base.dtype)
    stack, weights = _stack(base), base.state_dict()
    ours = {
        name: re.sub(rf"^{re.escape(stack)}\.(\d+)\.", lambda match: f"{stack}.{kept[int(match[1])]}.", name)
        for name in student.state_dict()
    }
    student.load_state_dict({name: weights[source] for name, source in ours.items()})
    return student


def _stack(model: PreTrainedModel) -> str:
    """Return the name of the module list with the layers."""
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers
    ]
    if len(found) != 1:
        raise ValueError(
            f"{model.config.model_type} has no single stack of {model.config.num_hidden_layers} layers: "
            "give a student folder made by another tool, and layers all"
        )
    return str(found[0])


def from_config(base: PretrainedConfig, changes: dict[str, Any], seed: int) -> PreTrainedModel:
    """Build a model of random weights with ``base``'s config and ``changes``; run it once as a test.

    Raises:
        ValueError: a key does not exist, the vocabulary differs, or transformers refuses the config.
    """
    settings = base.to_dict()
    unknown = sorted(set(changes) - settings.keys() - base.attribute_map.keys())
    if unknown:
        raise ValueError(f"config.{unknown[0]}: a {base.model_type} has no such setting: remove it")
    if "vocab_size" in changes:
        raise ValueError("config.vocab_size: the student must keep the vocabulary: remove it")
    if {"num_hidden_layers", base.attribute_map.get("num_hidden_layers")} & changes.keys():
        settings.pop("layer_types", None)
    torch.manual_seed(seed)
    try:
        config = type(base).from_dict(settings | changes)
        student: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            student(input_ids=torch.zeros(1, 2, dtype=torch.long))
        if config.num_hidden_layers < 1:
            raise ValueError(f"num_hidden_layers {config.num_hidden_layers} leaves no layer")
    except Exception as error:  # of any class, as config, layers and first pass are third-party code
        raise ValueError(f"config {changes} is not valid ({_line(error)}): correct it") from error
    return student


def check_vocabulary(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> None:
    """Check that every token id means the same to teacher and student.

    Raises:
        ValueError: it does not.
    """
    theirs, ours = teacher.get_vocab(), student.get_vocab()
    if theirs == ours:
        return
    token = min(token for token, _ in theirs.items() ^ ours.items())
    raise ValueError(
        f"teacher and student have different vocabularies ({len(theirs)} and {len(ours)} tokens; {token!r} "
        f"is {theirs.get(token, 'missing')} and {ours.get(token, 'missing')}), so their distributions cannot "
        "be compared token by token: use a student of the teacher's family, or method sequence"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
