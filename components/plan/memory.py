"""Predict the bytes of training on one device: weights and states, and what autograd keeps of a micro-batch.

Bytes kept up to the head are traced (``trace.profile``), those of our loss are counted; both are checked
against measured bytes in ``tests/training/test_memory.py``. Units: bytes.
"""

from typing import NamedTuple

from deepcuts.components.core.recipe import SHARDED, Recipe
from deepcuts.components.plan.architecture import Architecture

CUDA_CONTEXT_BYTES = 800 * 2**20
"""Driver, kernels and cuBLAS workspaces of a process; 0.5 to 1 GB (docs/cuts/right-sizing.md)."""
CPU_PROCESS_BYTES = 700 * 2**20
"""Python with torch, transformers and peft imported, without weights."""
FRAGMENTATION = 0.06
"""Allocator overhead, as a share of the bytes in use."""
FP32, INT64 = 4, 8
NF4 = 0.5 + (1 + 4 / 256) / 64
"""Bytes of a 4-bit weight: one byte of scale per 64 weights, one float32 per 256 scales (QLoRA)."""


class Memory(NamedTuple):
    """Bytes on one device at the peak of a step."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Kept by autograd for a micro-batch up to the head."""
    logits: int
    """Kept by the loss: float32 log-probabilities at the answer tokens, and the head's input."""
    working: int
    """Temporary: the gradient of the logits and a copy, a recomputed block, gathered shards, buckets."""
    runtime: int
    """The process itself and the allocator's overhead."""

    @property
    def total(self) -> int:
        return sum(self)


class Load(NamedTuple):
    """One micro-batch on one device."""

    tokens: int
    answer_share: float
    """Share of tokens with a target; logits are computed only there."""
    attention_padding: float
    """Padded / actual tokens in attention's groups of similar lengths, 1 to 1.15 (training/attention.py)."""
    compute_bytes: int
    """Bytes of a number in the compute precision: 4, or 2 with bf16."""


def predict(
    architecture: Architecture,
    recipe: Recipe,
    load: Load,
    strategy: str,
    devices: int,
    cuda: bool,
    factor: float,
    nodes: int = 1,
) -> Memory:
    """Predict a run's bytes on each device; ``factor`` is measured / predicted activations, or 1.

    ``devices`` are those of one node.
    """
    what = architecture.profile(recipe, load.attention_padding, load.compute_bytes)
    tree = architecture.tree
    parts = shards(strategy, devices, nodes)
    weights = _weight_bytes(architecture, recipe, load) / parts
    gradients = FP32 * what.trained_weights / parts
    activations = saved_bytes(architecture, recipe, load) * factor
    logits = logits_bytes(architecture, recipe, load)
    working = 2 * FP32 * load.tokens * load.answer_share * tree.vocabulary
    if recipe.gradient_checkpointing:
        working = max(working, factor * what.largest_block_bytes(load.tokens / what.tokens))
    if strategy in SHARDED:  # the gathered current block and the next one
        working += 2 * tree.block_weights * load.compute_bytes
    if strategy == "ddp":  # buckets in addition to the gradients
        working += gradients
    state = weights + gradients + 2 * gradients + activations + logits + working
    runtime = (CUDA_CONTEXT_BYTES if cuda else CPU_PROCESS_BYTES) + FRAGMENTATION * state
    return Memory(*map(round, (weights, gradients, 2 * gradients, activations, logits, working, runtime)))


def shards(strategy: str, devices: int, nodes: int) -> int:
    """Return into how many parts the weights and their states are divided."""
    match strategy:
        case "fsdp":
            return nodes * devices
        case "hsdp":  # each node has a whole copy
            return devices
        case _:
            return 1


def saved_bytes(architecture: Architecture, recipe: Recipe, load: Load) -> float:
    """Return the bytes autograd keeps of a micro-batch before the head; each tensor once, no parameters."""
    row = architecture.profile(recipe, load.attention_padding, load.compute_bytes)
    return row.saved_bytes(int(recipe.gradient_checkpointing), load.tokens / row.tokens)


def logits_bytes(architecture: Architecture, recipe: Recipe, load: Load) -> float:
    """Return the bytes kept by head and loss; a plain B x T x V would take ``1 / answer_share`` as much."""
    tree = architecture.tree
    head = load.compute_bytes * tree.width if architecture.profile(recipe).embeddings else 0
    return load.tokens * (load.answer_share * (FP32 * tree.logits_kept * tree.vocabulary + INT64 + head) + 1)


def _weight_bytes(architecture: Architecture, recipe: Recipe, load: Load) -> float:
    """Return bytes of weights: trained ones in float32 with autocast copies, frozen ones as used."""
    tree, size = architecture.tree, load.compute_bytes
    if recipe.method == "lora":
        packed = tree.dense_weights if recipe.base_precision == "nf4" else 0
        trained = architecture.profile(recipe, load.attention_padding, size).trained_weights
        return NF4 * packed + size * (tree.weights - packed) + FP32 * trained
    return FP32 * tree.weights + (size * tree.dense_weights if size < FP32 else 0)
