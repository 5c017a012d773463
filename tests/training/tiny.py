"""Models of two layers and width 32 with a byte tokenizer, and sums to learn: about a second a run."""

import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from deepcuts.components.core import examples
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.recipe import Recipe, parse
from deepcuts.components.training.render import Rendered, render
from tests.training.test_render import byte_tokenizer

KINDS = ["llama", "qwen2", "qwen3", "gpt2"]
"""Tied embeddings: qwen2 and gpt2. Learned positions, transposed linear layers: gpt2."""
CONTEXT = 128
ROWS = 264
"""Embedding rows: a few more than tokens, as most published models have."""
RECIPE: dict[str, Any] = {
    "method": "full",
    "learning_rate": 1e-2,
    "budget_tokens": 2000,
    "tokens_per_step": 256,
    "seq_len": 64,
    "micro_batch_size": 2,
    "lora_rank": 4,
    "lora_alpha": 8,
}
TOKENIZER = byte_tokenizer()
TOO_LARGE = 3e38
"""A weight that loads, as it is finite, but causes an infinite loss."""


def model(kind: str, seed: int = 0, **changed: Any) -> PreTrainedModel:
    """A randomly initialised model; ``changed`` goes to its config."""
    grouped = {
        "vocab_size": ROWS,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.1,
        "tie_word_embeddings": kind == "qwen2",
    }
    if kind == "llama":
        config = LlamaConfig(**grouped | changed)
    elif kind == "qwen2":
        config = Qwen2Config(**grouped | changed)
    elif kind == "qwen3":
        config = Qwen3Config(**grouped | {"head_dim": 16} | changed)
    else:
        shape = {"vocab_size": ROWS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = GPT2Config(**shape | dropout | changed)
    torch.manual_seed(seed)
    made: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return made


def base(folder: Path, kind: str = "llama", seed: int = 0, **changed: Any) -> Path:
    """A base model folder: weights, config, tokenizer."""
    model(kind, seed, **changed).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def halve(folder: Path) -> Path:
    """The same base with float16 weights under a config that says float32, as the bundled one is stored."""
    weights = load_file(folder / "model.safetensors")
    halves = {name: weight.half() for name, weight in weights.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def spoil(folder: Path, value: float) -> str:
    """Put ``value`` into a weight of the last block; returns the weight's name."""
    weights = load_file(folder / "model.safetensors")
    name = max(name for name in weights if ".mlp." in name and name.endswith(".weight"))
    weights[name][0, 0] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return name


def sums(count: int, seed: int = 0) -> list[Example]:
    """``12+7?`` and ``19``; with a few words more before every third question, so that lengths differ."""
    draw = random.Random(seed)
    records = []
    for number in range(count):
        a, b = draw.randrange(100), draw.randrange(100)
        question = f"{'What is the sum ' * (number % 3)}{a}+{b}?"
        messages = (Message("user", question), Message("assistant", str(a + b)))
        records.append(Example(id=f"sum-{number}", messages=messages, label=str((a + b) % 2)))
    return records


def rendered(count: int, seed: int = 0) -> list[Rendered]:
    return [render(example, TOKENIZER) for example in sums(count, seed)]


def write_sums(path: Path, count: int, seed: int = 0) -> Path:
    examples.write(path, sums(count, seed))
    return path


def recipe(**changed: Any) -> Recipe:
    return parse(RECIPE | changed)


def argv(flags: dict[str, object]) -> list[str]:
    """Flags as KFP passes them."""
    return [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
