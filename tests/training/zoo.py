"""Tiny random models of the types that people fine-tune, built from their configuration: a second each."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.training.test_render import CHATML, byte_tokenizer

ROWS = 288
"""Embedding rows: some more than the tokenizer's tokens, as most published models have."""
SIZES: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
    # mixtures of experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    # multi-head latent attention
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    # state-space layers
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 8,
    "state_size": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "lru_width": 32,
}
CHANGED: dict[str, dict[str, Any]] = {
    "bamba": {"num_hidden_layers": 2, "attn_layer_indices": [1], "mamba_expand": 2},
    "bloom": {"n_layer": 2, "n_head": 4},
    "codegen": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "rotary_dim": 4},
    "falcon": {"new_decoder_architecture": False, "multi_query": True},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_expand": 2},
    "gemma2": {"sliding_window": 16, "query_pre_attn_scalar": 8},
    "gemma3_text": {
        "sliding_window": 16,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_neo": {
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 16,
    },
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "rotary_dim": 4},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "shared_intermediate_size": 48,
        "mamba_expand": 2,
        "position_embedding_type": "rope",
    },
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "lfm2": {
        "layer_types": ["conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
        "block_ff_dim": 48,
    },
    "llama4_text": {
        "attention_chunk_size": 16,
        "intermediate_size_mlp": 48,
        "layer_types": ["chunked_attention", "full_attention"],
        "interleave_moe_layer_step": 2,
        "no_rope_layers": [1, 0],
    },
    "mistral": {"sliding_window": 16},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256},
    "nemotron_h": {"layers_block_type": ["mamba", "attention"], "n_groups": 1},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi3": {"original_max_position_embeddings": 256},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "attention_window_size": 16},
    "smollm3": {"no_rope_layers": [1, 0]},
    "gpt_oss": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "cohere2": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "olmo3": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1, "expand": 2},
    "mamba": {"expand": 2},
    "zamba2": {
        "layer_types": ["linear_attention", "hybrid"],
        "mamba_ngroups": 1,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "mamba_expand": 2,
        "attention_head_dim": 16,
        "num_mem_blocks": 1,
        "hybrid_layer_ids": [1],
    },
    "biogpt": {"layerdrop": 0.0},
    "xglm": {"layerdrop": 0.0},
    "olmo_hybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "deepseek_v3": {"num_key_value_heads": 4, "head_dim": 4},
    "glm4_moe_lite": {"num_key_value_heads": 4, "head_dim": 4},
    "axk1": {"num_key_value_heads": 4, "head_dim": 4},
    "youtu": {"num_key_value_heads": 4, "head_dim": 4},
    "deepseek_v32": {"num_key_value_heads": 4, "head_dim": 4, "index_n_heads": 2, "index_head_dim": 8},
    "glm_moe_dsa": {"num_key_value_heads": 4, "head_dim": 4, "index_n_heads": 2, "index_head_dim": 8},
    "qwen3_5_moe_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen4_exp_text": {"layer_types": ["linear_attention", "full_attention"]},
    "rwkv": {"attention_hidden_size": 32, "rescale_every": 1},
    "zamba": {
        "layer_types": ["linear_attention", "hybrid"],
        "attention_head_dim": 16,
        "mamba_expand": 2,
        "n_mamba_heads": 2,
    },
    "axk2": {"num_key_value_heads": 4, "head_dim": 4},
    "xlnet": {"d_head": 8},
    "xlstm": {"hidden_size": 64, "num_heads": 4, "qk_dim_factor": 1.0},
    "dots1": {"num_key_value_heads": 2, "n_shared_experts": 1},
}
"""What a type calls its sizes, or needs besides them."""


def config_of(kind: str, **changed: Any) -> Any:
    """A tiny configuration of a model type, windows and both kinds of layers included."""
    known = AutoConfig.for_model(kind)
    fields = {**type(known).attribute_map, **known.to_dict()}
    sizes = {name: value for name, value in SIZES.items() if name in fields}
    return AutoConfig.for_model(kind, **sizes | CHANGED.get(kind, {}) | changed)


def model_of(kind: str, seed: int = 0, **changed: Any) -> PreTrainedModel:
    """A randomly initialised model of the type; norms and biases random, too, so that none is idle."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config_of(kind, **changed), dtype=torch.float32)
    return model.eval()


def base_of(folder: Path, kind: str, **changed: Any) -> Path:
    """A base model folder of the type with a ChatML byte tokenizer."""
    model_of(kind, **changed).save_pretrained(folder)
    byte_tokenizer(CHATML).save_pretrained(folder)
    return folder


WIDER: dict[str, dict[str, Any]] = {
    "opt": {"hidden_size": 64, "ffn_dim": 160, "word_embed_proj_dim": 64},
    "bloom": {"hidden_size": 64},
    "falcon_h1": {"hidden_size": 64, "intermediate_size": 160, "mamba_d_ssm": 64},
    "lfm2": {"hidden_size": 64, "block_ff_dim": 160},
    "helium": {"hidden_size": 64, "intermediate_size": 160, "head_dim": 16},  # its o_proj is square
}
"""Wide enough that no two tensors of a block differ from noise."""
