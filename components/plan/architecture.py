"""The shapes of a model, from its config.json alone: what a laptop without torch can know."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from components.core.errors import DataError
from components.core.recipe import Recipe

SMALL_VOCABULARY = 32_768
"""As ``training/models.py``: tied embeddings up to here are trained beside the adapter."""
LLAMAS = ("llama", "mistral", "qwen2", "qwen3")


class Linear(NamedTuple):
    name: str
    inputs: int
    outputs: int
    bias: bool

    @property
    def weights(self) -> int:
        return self.outputs * (self.inputs + self.bias)


class Architecture(NamedTuple):
    kind: str
    """``model_type`` of the config."""
    vocabulary: int
    width: int
    layers: int
    heads: int
    key_heads: int
    head_width: int
    mlp_width: int
    context: int
    tied: bool
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    dropout: bool = False
    """GPT-2: dropout on embeddings and on what each half block adds."""

    @property
    def is_gpt2(self) -> bool:
        return self.kind == "gpt2"

    @property
    def linears(self) -> list[Linear]:
        """Linear layers of one block, named as in the model."""
        w, q, k, f = (
            self.width,
            self.heads * self.head_width,
            self.key_heads * self.head_width,
            self.mlp_width,
        )
        if self.is_gpt2:
            return [
                Linear("attn.c_attn", w, 3 * w, True),
                Linear("attn.c_proj", w, w, True),
                Linear("mlp.c_fc", w, f, True),
                Linear("mlp.c_proj", f, w, True),
            ]
        return [
            Linear("self_attn.q_proj", w, q, self.attention_bias),
            Linear("self_attn.k_proj", w, k, self.attention_bias),
            Linear("self_attn.v_proj", w, k, self.attention_bias),
            Linear("self_attn.o_proj", q, w, self.output_bias),
            Linear("mlp.gate_proj", w, f, self.mlp_bias),
            Linear("mlp.up_proj", w, f, self.mlp_bias),
            Linear("mlp.down_proj", f, w, self.mlp_bias),
        ]

    @property
    def block_weights(self) -> int:
        """All weights of one block, norms included."""
        return sum(linear.weights for linear in self.linears) + self._block_norms

    @property
    def norm_weights(self) -> int:
        return self.layers * self._block_norms + self.width * (2 if self.is_gpt2 else 1)

    @property
    def embedding_weights(self) -> int:
        """Token embeddings and head, one tensor where they are tied; no learned positions."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def weights(self) -> int:
        positions = self.context * self.width if self.is_gpt2 else 0
        blocks = self.layers * (self.block_weights - self._block_norms)
        return blocks + self.norm_weights + self.embedding_weights + positions

    @property
    def matmul_weights(self) -> int:
        """What every token is multiplied by in the blocks."""
        return self.layers * sum(linear.inputs * linear.outputs for linear in self.linears)

    @property
    def _block_norms(self) -> int:
        qk = 2 * self.head_width if self.kind == "qwen3" else 0
        return self.width * (4 if self.is_gpt2 else 2) + qk


class Trained(NamedTuple):
    """What of a model a Recipe trains."""

    weights: int
    targets: frozenset[str]
    """Linear layers of a block that keep their input: trained themselves, or under an adapter."""
    embeddings: bool
    """Embeddings and norms."""


def trained(architecture: Architecture, recipe: Recipe) -> Trained:
    """Weights that get a gradient; an adapter's and the copies peft makes are on top of the base's.

    Raises:
        ValueError: a target names no layer of the model.
    """
    names = frozenset(linear.name for linear in architecture.linears)
    if recipe.method == "full":
        return Trained(architecture.weights, names, True)
    embeddings = recipe.trainable_embeddings == "yes" or (
        recipe.trainable_embeddings == "auto"
        and architecture.tied
        and architecture.vocabulary <= SMALL_VOCABULARY
    )
    targets = _targets(names, recipe)
    adapter = sum(
        recipe.lora_rank * (linear.inputs + linear.outputs) + recipe.lora_dora * linear.outputs
        for linear in architecture.linears
        if linear.name in targets
    )
    copies = architecture.embedding_weights + architecture.norm_weights if embeddings else 0
    rows = architecture.embedding_weights // architecture.vocabulary * len(set(recipe.new_token_ids))
    return Trained(architecture.layers * adapter + (copies or rows), targets, embeddings)


def _targets(names: frozenset[str], recipe: Recipe) -> frozenset[str]:
    match recipe.lora_targets:
        case "all-linear":
            return names
        case "attention":  # by last name, as peft matches them: GPT-2 calls both projections c_proj
            wanted = [name.rsplit(".", 1)[-1] for name in names if "attn" in name]
        case list(wanted):
            pass
    found = {name for name in names for want in wanted if f".{name}".endswith(f".{want}")}
    if not found:
        raise ValueError(
            f"recipe.lora_targets: {wanted} is no layer of this model: take some of {sorted(names)}"
        )
    return frozenset(found)


def read(base: Path) -> Architecture:
    """The architecture of a model folder.

    Raises:
        FileNotFoundError, DataError: there is no config.json, or it is not one.
        ValueError: an architecture whose memory this planner has not been held against.
    """
    path = base / "config.json"
    try:
        config = json.loads(path.read_bytes())
        return parse(config)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: no model's shapes in it ({error!r}): fetch the model again") from error


def parse(config: dict[str, Any]) -> Architecture:
    """From config.json's values; what it leaves out has transformers' default."""
    kind = config["model_type"]
    if kind == "gpt2":
        width = config["n_embd"]
        drops = [config.get(name, 0.1) for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")]
        return Architecture(
            kind,
            config["vocab_size"],
            width,
            config["n_layer"],
            config["n_head"],
            config["n_head"],
            width // config["n_head"],
            config.get("n_inner") or 4 * width,
            config["n_positions"],
            config.get("tie_word_embeddings", True),
            dropout=any(drops),
        )
    if kind not in LLAMAS:
        raise ValueError(
            f"model_type {kind!r}: its memory is not modelled, known are {', '.join(('gpt2', *LLAMAS))}: "
            "choose the pool and micro_batch_blocks by hand"
        )
    heads, attention_bias = config["num_attention_heads"], config.get("attention_bias", False)
    return Architecture(
        kind,
        config["vocab_size"],
        config["hidden_size"],
        config["num_hidden_layers"],
        heads,
        config.get("num_key_value_heads") or heads,
        config.get("head_dim") or config["hidden_size"] // heads,
        config["intermediate_size"],
        config["max_position_embeddings"],
        config.get("tie_word_embeddings", False),
        attention_bias=kind == "qwen2" or attention_bias,
        output_bias=kind != "qwen2" and attention_bias,
        mlp_bias=config.get("mlp_bias", False),
    )
