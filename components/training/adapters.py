"""Prepare a model for training: choose the weights to train, or add a LoRA adapter."""

import hashlib
import warnings
from collections.abc import Iterable

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training import depth, sharding
from deepcuts.components.training.blocks import (
    TOWERS,
    blocks_of,
    checkpoint_every,
    language_blocks,
    read_past,
)
from deepcuts.components.training.lora_linear import LoraLinear
from deepcuts.components.training.models import is_tied, resolve_precision, trainable

ROUTERS = {"gate", "router", "shared_expert_gate", "wg"}
"""Names of the layer that chooses a token's experts."""
INDEXER = ".indexer."
"""Part of the name of layers that only choose which tokens to attend to (DeepSeek 3.2): no gradient there."""
SMALL_VOCABULARY = 32_768
"""Largest vocabulary whose tied embeddings are trained with the adapter (``trainable_embeddings: auto``)."""


def adapt(model: PreTrainedModel, recipe: Recipe, device: torch.device) -> PreTrainedModel | PeftModel:
    """Prepare the model for the Recipe: all weights (``full``) except ``frozen`` ones, or a LoRA adapter.

    Trained weights are float32 (Adam's updates vanish in 16 bits); frozen ones have the compute precision.
    """
    if recipe.gradient_checkpointing:
        checkpoint_every(model, int(recipe.gradient_checkpointing))
        depth.recompute_above(model, recipe)
        depth.forget_inputs(model, recipe)
    if recipe.method == "full":
        model.float().requires_grad_(True)
        depth.freeze_below(model, recipe)
        for module in parts(model, recipe.frozen):
            module.requires_grad_(False)  # setting the attribute on a module would freeze nothing
            if recipe.frozen_until_ratio < 1:
                for parameter in module.parameters():
                    parameter.unfreezes = True  # type: ignore[attr-defined]
        return model
    if not getattr(model, "is_loaded_in_4bit", False):  # a 4-bit model has its compute precision already
        model.to(dtype=resolve_precision(recipe.precision, device))
    torch.manual_seed(recipe.seed)  # for the adapter's initialization
    whole = trains_embeddings(model, recipe)
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        use_rslora=recipe.lora_rslora,
        use_dora=recipe.lora_dora,
        target_modules=targets_of(model, recipe),
        modules_to_save=_embeddings_and_norms(model) if whole else None,
        trainable_token_indices=None if whole else _new_rows(model, recipe),
        ensure_weight_tying=is_tied(model) and (whole or bool(recipe.new_token_ids)),
        fan_in_fan_out=model.config.model_type == "gpt2",  # its Conv1D stores weights transposed
        task_type="CAUSAL_LM",
    )
    if device.type == "cpu":  # never measured elsewhere
        config._register_custom_module({nn.Linear: LoraLinear})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns about tied weights; ensure_weight_tying handles them
        adapted = get_peft_model(model, config)
    depth.forget_inputs(model, recipe)  # again: peft sets it, too
    for parameter in trainable(adapted).values():
        parameter.data = parameter.data.float()
    return adapted


def parts(model: PreTrainedModel, names: Iterable[str]) -> list[nn.Module]:
    """Return the modules the Recipe calls ``embeddings`` (including a tied head) and ``layers``."""
    known: dict[str, list[nn.Module]] = {
        "embeddings": [model.get_input_embeddings()],
        "layers": list(blocks_of(model)),
    }
    return [module for name in names for module in known[name]]


def unfreeze(model: nn.Module) -> None:
    """Unfreeze the weights that were frozen for the first part of the run.

    AdamW skips weights without a gradient, so until now it kept no state for them and did not decay them.
    """
    for parameter in trainable(model).values():
        parameter.requires_grad_(True)


def frozen_digest(model: nn.Module) -> str:
    """Hash (SHA-256) the frozen weights; a different hash after training means that one has changed."""
    total = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            weights = sharding.full_tensor(parameter).reshape(-1).view(torch.uint8)
            total.update(name.encode() + weights.numpy().tobytes())
    return total.hexdigest()


def trains_embeddings(model: PreTrainedModel, recipe: Recipe) -> bool:
    """Tell whether a LoRA run also trains embeddings and norms (docs/cuts/lora.md: it decided quality)."""
    if recipe.trained_layers != "all":
        return False
    if recipe.trainable_embeddings != "auto":
        return recipe.trainable_embeddings == "yes"
    return is_tied(model) and model.config.get_text_config().vocab_size <= SMALL_VOCABULARY


def targets_of(model: PreTrainedModel, recipe: Recipe) -> list[str]:
    """Return the layers that the Recipe's ``lora_targets`` name, in peft's form.

    A target is the last part of the name if all layers of that name are meant, else the full name.
    ``all-linear`` means the linear layers of the language model's blocks, without routers of a mixture of
    experts (the choice of experts must not drift), vision towers, and layers that peft cannot adapt.

    Raises:
        ValueError: a target is not such a layer, or peft refuses it.
    """
    able = adaptable(model)
    if isinstance(recipe.lora_targets, list):
        known = {name.rsplit(".", 1)[-1] for name in (*able, *_embeddings(model))}
        unknown = [name for name in recipe.lora_targets if name.rsplit(".", 1)[-1] not in known]
        if unknown:
            raise ValueError(
                f"recipe.lora_targets: {unknown[0]!r} is not a layer of this model that can take an "
                f"adapter: choose from {sorted(known)}"
            )
        if recipe.trained_layers == "all":
            return recipe.lora_targets
    upper = tuple(f"{name}." for name, _ in depth.upper_blocks(model, recipe))
    wanted = [name for name in able if name.startswith(upper) and _is_meant(name, recipe.lora_targets)]
    if not wanted:
        raise ValueError(
            f"recipe.lora_targets {recipe.lora_targets}: this model has no such layer that can take an "
            f"adapter: choose from {sorted({n.rsplit('.', 1)[-1] for n in able})}, or set method to full"
        )
    others = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules() if name not in set(wanted)}
    return sorted({last if (last := name.rsplit(".", 1)[-1]) not in others else name for name in wanted})


def _is_meant(name: str, targets: str | list[str]) -> bool:
    if isinstance(targets, list):
        return any(f".{name}".endswith(f".{target}") for target in targets)
    return targets == "all-linear" or "attn" in name or "attention" in name


def adaptable(model: PreTrainedModel) -> list[str]:
    """List the linear layers of the language model's blocks that can take an adapter."""
    blocks = tuple(f"{name}." for name, _ in language_blocks(model))
    experts = _experts(model)
    refused = read_past(model)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and name.startswith(blocks)
        and name not in refused
        and INDEXER not in name
        and name.rsplit(".", 1)[-1] not in ROUTERS
        and not (experts and isinstance(module, nn.Linear) and module.out_features in (1, experts))
    ]


def left_out(model: PreTrainedModel) -> str:
    """Describe the matrices that ``all-linear`` does not adapt; empty if there are none."""
    fused = sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if weight.ndim == 3 and ".experts." in f".{name}."
    )
    words = [f"fused expert weights ({fused:,})"] if fused else []
    layers = sorted({name.rsplit(".", 1)[-1] for name in read_past(model)})
    words += [f"Mamba's {', '.join(layers)}, whose weights its kernels read themselves"] if layers else []
    names = [name for name, _ in model.named_modules()]
    words += ["the indexers, which only choose tokens"] if any(INDEXER in name for name in names) else []
    words += [f"the {part.replace('_', ' ')}" for part in TOWERS if any(part in name for name in names)]
    return ", ".join(words)


def _experts(model: PreTrainedModel) -> int:
    config = model.config.get_text_config()
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    found = next((count for name in names if (count := getattr(config, name, None))), 0)
    return found if isinstance(found, int) else 0


def _embeddings(model: PreTrainedModel) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]


def _new_rows(model: PreTrainedModel, recipe: Recipe) -> dict[str, list[int]] | None:
    """Return the rows of new tokens by embedding, including an untied output embedding."""
    if not recipe.new_token_ids:
        return None
    rows = model.get_input_embeddings().num_embeddings
    if (largest := max(recipe.new_token_ids)) >= rows:
        raise ValueError(f"recipe.new_token_ids: {largest} is not below this model's {rows} rows: fix it")
    wanted = {id(model.get_input_embeddings())}
    if not is_tied(model):
        wanted.add(id(model.get_output_embeddings()))
    names = [name.rsplit(".", 1)[-1] for name, module in model.named_modules() if id(module) in wanted]
    return {name: sorted(set(recipe.new_token_ids)) for name in names}


def _embeddings_and_norms(model: PreTrainedModel) -> list[str]:
    """Return the module names for peft's ``modules_to_save``.

    A tied pair is given by its head: peft 0.21 ties only modules called embed_tokens or lm_head
    (``peft/utils/constants.py``, EMBEDDING_LAYER_NAMES), and GPT-2's embedding is called wte.
    """
    wanted = {id(model.get_output_embeddings())}
    if not is_tied(model):
        wanted.add(id(model.get_input_embeddings()))
    embeddings = [name.rsplit(".", 1)[-1] for name, module in model.named_modules() if id(module) in wanted]
    return sorted({*embeddings, *_norms(model)})


def _norms(model: PreTrainedModel) -> list[str]:
    return [
        n.rsplit(".", 1)[-1] for n, module in model.named_modules() if "norm" in type(module).__name__.lower()
    ]
