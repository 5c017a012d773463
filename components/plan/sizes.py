"""Read the sizes of any model that transformers builds, from its module tree on the meta device."""

import json
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from deepcuts.components.training import models
from deepcuts.components.training.blocks import language_blocks, recomputes, stateful_classes

SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Fields with the cap of the logits."""
ATTENTION_DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")


MEASURED = {
    "arcee",
    "bloom",
    "cohere",
    "cohere2",
    "deepseek_v3",
    "ernie4_5",
    "exaone4",
    "falcon_h1",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm4",
    "glm4_moe",
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "granite",
    "granitemoe",
    "helium",
    "hunyuan_v1_dense",
    "hunyuan_v1_moe",
    "jamba",
    "lfm2",
    "llama",
    "mamba",
    "minimax",
    "mistral",
    "mixtral",
    "mpt",
    "nemotron",
    "nemotron_h",
    "olmo2",
    "olmo3",
    "olmo_hybrid",
    "olmoe",
    "opt",
    "persimmon",
    "phi",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_5_text",
    "qwen3_moe",
    "qwen3_next",
    "recurrent_gemma",
    "rwkv",
    "smollm3",
    "stablelm",
    "starcoder2",
    "xglm",
}
"""Types whose traced bytes were within 8 % of measured ones (tests/training/test_memory.py)."""


class ModelSizes(NamedTuple):
    """Sizes of a model, from its modules."""

    vocabulary: int
    width: int
    layers: int
    context: int
    tied: bool
    weights: int
    embedding_weights: int
    """Input and output; one tensor if they are tied."""
    matmul_weights: int
    """Weights in the blocks by which every token is multiplied; of experts, the share that sees a token."""
    dense_weights: int
    """The same with all experts."""
    attention_width: int
    """Heads times their width, summed over attention layers."""
    block_weights: int
    """Weights of the largest block."""
    recomputes: bool
    """Whether blocks can be checkpointed."""
    logits_kept: int
    """Copies of the logits that autograd keeps; capped ones are kept twice."""
    notes: tuple[str, ...]
    """Assumptions made."""


@lru_cache(maxsize=32)
def tree(config: str) -> ModelSizes:
    """Return the sizes of the model in a config.json's text.

    Raises:
        ValueError: it is not a causal language model that transformers ships, or it cannot be built.
    """
    with torch.device("meta"):
        model = build(config)
        settings = model.config.get_text_config()
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        blocks, share = [block for _, block in language_blocks(model)], _expert_share(settings)
        dense = sum(_matrices(block, 1.0) for block in blocks)
        tied = models.is_tied(model)
        return ModelSizes(
            vocabulary=int(head.weight.shape[0]),
            width=int(head.weight.shape[1]),
            layers=len(blocks),
            context=models.context_length(model),
            tied=tied,
            weights=models.count_weights(model)[0],
            embedding_weights=embedding.weight.numel() + (0 if tied else head.weight.numel()),
            matmul_weights=round(sum(_matrices(block, share) for block in blocks)),
            dense_weights=round(dense),
            attention_width=_attention_width(blocks, settings),
            block_weights=max((models.count_weights(block)[0] for block in blocks), default=0),
            recomputes=recomputes(model),
            logits_kept=2 if any(getattr(settings, name, None) for name in SOFT_CAPS) else 1,
            notes=_notes(model, blocks, settings, share),
        )


def build(config: str) -> PreTrainedModel:
    """Build the model in a config.json's text, on the current device; raises the errors of ``tree``."""
    # version 5 writes infinity as an object
    values = PreTrainedConfig._decode_special_floats(json.loads(config))
    kind = values.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"model_type {kind!r} is not one that transformers ships: use another base")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"model_type {kind!r} is not a causal language model: use "
            + ("its text model" if "text_config" in values else "another base")
        )
    try:
        settings = CONFIG_MAPPING[kind].from_dict({k: v for k, v in values.items() if k != "auto_map"})
        model: PreTrainedModel = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    except Exception as error:  # of many classes, including those of strict configurations
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"model_type {kind!r} is not a causal language model ({reason}): use another"
        ) from error
    return model


def _matrices(block: nn.Module, expert_share: float) -> float:
    """Count the weights of a block by which tokens are multiplied; experts count by ``expert_share``."""
    total = 0.0
    for name, parameter in block.named_parameters():
        if parameter.ndim >= 2:
            total += parameter.numel() * (expert_share if ".experts." in f".{name}." else 1.0)
    return total


def _expert_share(settings: Any) -> float:
    """Return the share of experts that sees a token."""
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    experts = next((found for name in names if (found := getattr(settings, name, None))), 0)
    used = ("num_experts_per_tok", "moe_topk", "top_k_experts", "moe_k")
    active = next((found for name in used if (found := getattr(settings, name, None))), 0)
    return (
        active / experts
        if experts and active and isinstance(active, int) and isinstance(experts, int)
        else 1.0
    )


def _largest(settings: Any, name: str) -> int:
    """Return a field of a configuration, the largest if layers differ (Gemma 4)."""
    layers = getattr(settings, "per_layer_config", None) or {}
    found = [
        getattr(layer, name, None) for layer in (layers.values() if isinstance(layers, dict) else layers)
    ]
    return max((int(one) for one in found if one), default=0) or int(getattr(settings, name, 0) or 0)


def _attention_width(blocks: list[Any], settings: Any) -> int:
    heads = _largest(settings, "num_attention_heads")
    width = _largest(settings, "head_dim") or _largest(settings, "hidden_size") // max(1, heads)
    attending = [
        block
        for block in blocks
        if any(type(part).__name__.lower().endswith(("attention", "sdpa")) for part in block.modules())
    ]
    return len(attending) * heads * width


def drops_attention(settings: Any) -> bool:
    """Tell whether attention has dropout in training, which fused kernels do not support."""
    return any(bool(getattr(settings, name, None)) for name in ATTENTION_DROPOUTS)


def _notes(model: PreTrainedModel, blocks: list[Any], settings: Any, share: float) -> tuple[str, ...]:
    found = []
    if model.config.get_text_config().model_type not in MEASURED:
        found.append("kept bytes of this type are traced, but were never compared with measured ones")
    if share < 1:
        found.append(f"{share:.0%} of each block's experts see a token: all are held, only those compute")
    stateful = stateful_classes(model)
    if stateful:
        found.append(
            f"{', '.join(stateful[:3])} carry a state along a row: then one example per row is trained, and "
            "activations are those of PyTorch's reference kernels"
        )
    if not recomputes(model):
        found.append("blocks cannot be checkpointed: activations are kept")
    if not model._supports_sdpa:
        found.append("attention keeps a matrix of a row's length squared")
    elif drops_attention(settings):
        found.append("attention's dropout keeps a matrix of an example's length squared: as long as a row")
    return tuple(found)
