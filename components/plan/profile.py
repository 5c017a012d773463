"""Profile the bytes autograd keeps of a model, tracing a few blocks for many equal ones."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from deepcuts.components.plan.sizes import build
from deepcuts.components.training import models
from deepcuts.components.training.blocks import blocks_of

TRACED = 4
"""Number of blocks traced for many equal ones."""
STRIDE = 10_000
"""Offset between the keys of two blocks' storages; no block keeps that many."""


class StorageBytes(NamedTuple):
    """Bytes of one storage."""

    fixed: float
    """Independent of the number of rows: masks, decays and transposed weights shared by all rows."""
    each: float
    """Per row."""

    def bytes_of(self, rows: float) -> float:
        return self.fixed + rows * self.each


class Profile(NamedTuple):
    """What a Recipe trains, and the bytes autograd keeps before the head, by storage."""

    trained_weights: int
    adapter_weights: int
    embeddings: bool
    """Whether embeddings and norms are trained."""
    tokens: int
    """Tokens of a row."""
    outside: dict[int, StorageBytes]
    """Kept outside the blocks."""
    blocks: tuple[dict[int, StorageBytes], ...]
    inputs: tuple[dict[int, StorageBytes], ...]
    """Kept of a recomputed block: its input."""

    def saved_bytes(self, every: int, rows: float) -> float:
        """Return the bytes for this many rows, with every ``every``-th block recomputed (0: none)."""
        kept = dict(self.outside)  # each storage counts once, wherever it is kept
        for number, (block, entered) in enumerate(zip(self.blocks, self.inputs, strict=True)):
            kept |= entered if every and number % every == 0 else block
        return sum(storage.bytes_of(rows) for storage in kept.values())

    def largest_block_bytes(self, rows: float) -> float:
        sizes = (sum(storage.bytes_of(rows) for storage in block.values()) for block in self.blocks)
        return max(sizes, default=0.0)


def growing(traced: Sequence[list[dict[int, int]]], rows: tuple[int, int]) -> list[dict[int, StorageBytes]]:
    """Return how the storages of two traces grow with their ``rows``, part by part.

    The order of storages does not depend on the rows; if it does, all are taken to grow.
    """
    few, many = rows
    parts = []
    for first, second in zip(*traced, strict=True):
        alike = len(first) == len(second)
        pairs = zip(first.values(), second.values() if alike else first.values(), strict=True)
        slopes = [(more - size) / (many - few) if alike else size / few for size, more in pairs]
        sizes = zip(first.items(), slopes, strict=True)
        parts.append({key: StorageBytes(size - few * slope, slope) for (key, size), slope in sizes})
    return parts


def few_layers(config: str) -> tuple[str, int]:
    """Return (the config with ``TRACED`` layers, the number of further layers) if all layers are equal."""
    values = json.loads(config)
    with torch.device("meta"):
        model = build(config)
    shapes = [
        [
            *((name, type(module).__name__) for name, module in block.named_modules()),
            *((name, str(tuple(weight.shape))) for name, weight in block.named_parameters()),
        ]
        for block in blocks_of(model)
    ]
    settings, count = model.config.get_text_config(), len(shapes)
    names = ("num_hidden_layers", settings.attribute_map.get("num_hidden_layers", ""))
    name = next((one for one in names if values.get(one) == count), "")
    if count <= TRACED or not name or any(shape != shapes[0] for shape in shapes):
        return config, 0
    cut = {
        k: v[:TRACED]
        for k, v in values.items()
        if isinstance(v, list) and len(v) == count and ("layer" in k or "block" in k)
    }
    return json.dumps(values | cut | {name: TRACED}), count - TRACED


def repeated(found: Profile, model: PreTrainedModel, more: int) -> Profile:
    """Return the profile with its last but one block repeated ``more`` times, with new storage keys."""
    middle, entered = found.blocks[-2], found.inputs[-2]
    elsewhere = (*found.blocks[:-2], found.blocks[-1], found.outside)
    shared = {key for block in elsewhere for key in block}
    passed = {key for one in (*found.inputs[:-2], found.inputs[-1]) for key in one}  # masks
    stay = {key for key in (*middle, *entered) if key in (shared if key in middle else passed)}
    blocks, inputs = list(found.blocks[:-1]), list(found.inputs[:-1])
    for number in range(more):
        keys = enumerate(middle | entered)
        fresh = {key: key if key in stay else -(number * STRIDE + i) - 1 for i, key in keys}
        blocks.append({fresh[key]: size for key, size in middle.items()})
        inputs.append({fresh[key]: size for key, size in entered.items()})
    block = list(blocks_of(model))[-2]
    trained = models.count_weights(block)[1]
    lora = sum(p.numel() for name, p in block.named_parameters() if p.requires_grad and "lora_" in name)
    return found._replace(
        trained_weights=found.trained_weights + more * trained,
        adapter_weights=found.adapter_weights + more * lora,
        blocks=(*blocks, found.blocks[-1]),
        inputs=(*inputs, found.inputs[-1]),
    )
