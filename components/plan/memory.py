"""Bytes that training takes on one device: what stays, and what autograd keeps of a micro-batch.

What autograd keeps up to the head is traced (``trace.profile``), the loss of ``components/training`` counted;
both are held against measured bytes in ``tests/training/test_memory.py``. Units: bytes.
"""

from typing import NamedTuple

from deepcuts.components.core.recipe import Recipe
from deepcuts.components.plan.architecture import Architecture

CUDA_CONTEXT_BYTES = 800 * 2**20
"""Driver, kernels and cuBLAS workspaces of a process; 0.5 to 1 GB (docs/cuts/right-sizing.md)."""
CPU_PROCESS_BYTES = 700 * 2**20
"""Python with torch, transformers and peft imported, before any weight."""
FRAGMENTATION = 0.06
"""Share of everything an allocator holds beyond what is in use."""
FP32, INT64 = 4, 8
NF4 = 0.5 + (1 + 4 / 256) / 64
"""Bytes of a weight in 4 bits: a byte of scale for 64 of them, a float32 for 256 scales (QLoRA)."""


class Memory(NamedTuple):
    """Bytes on one device, at the worst moment of a step."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """What autograd keeps of a micro-batch up to the head."""
    logits: int
    """Kept by the loss: log-probabilities in float32 at the answer tokens, and what the head reads."""
    working: int
    """For a moment: the gradient of the logits and a copy, a recomputed block, gathered shards, buckets."""
    runtime: int
    """The process itself and what the allocator cannot use."""

    @property
    def total(self) -> int:
        return sum(self)


class Load(NamedTuple):
    """One micro-batch on one device."""

    tokens: int
    answer_share: float
    """Share of tokens with a target; only there are logits computed."""
    attention_padding: float
    """Slots in attention's groups of like lengths over tokens, 1 to 1.15 (training/attention.py)."""
    compute_bytes: int
    """Of a number in the compute precision: 4, or 2 with bf16."""


def predict(
    architecture: Architecture,
    recipe: Recipe,
    load: Load,
    strategy: str,
    devices: int,
    cuda: bool,
    factor: float,
) -> Memory:
    """Predict the bytes of a run on each device; ``factor`` is measured over predicted activations, or 1."""
    what = architecture.profile(recipe, load.attention_padding, load.compute_bytes)
    tree = architecture.tree
    shards = devices if strategy == "fsdp" else 1
    weights = _weight_bytes(architecture, recipe, load) / shards
    gradients = FP32 * what.trained_weights / shards
    activations = saved_bytes(architecture, recipe, load) * factor
    logits = logits_bytes(architecture, recipe, load)
    working = 2 * FP32 * load.tokens * load.answer_share * tree.vocabulary
    if recipe.gradient_checkpointing:
        working = max(working, factor * what.largest_block_bytes(load.tokens / what.tokens))
    if strategy == "fsdp":  # the block in use and the next one, gathered
        working += 2 * tree.block_weights * load.compute_bytes
    if strategy == "ddp":  # buckets in addition to the gradients
        working += gradients
    state = weights + gradients + 2 * gradients + activations + logits + working
    runtime = (CUDA_CONTEXT_BYTES if cuda else CPU_PROCESS_BYTES) + FRAGMENTATION * state
    return Memory(*map(round, (weights, gradients, 2 * gradients, activations, logits, working, runtime)))


def saved_bytes(architecture: Architecture, recipe: Recipe, load: Load) -> float:
    """Return what autograd keeps of a micro-batch before the head; each tensor once, no parameters."""
    row = architecture.profile(recipe, load.attention_padding, load.compute_bytes)
    return row.saved_bytes(int(recipe.gradient_checkpointing), load.tokens / row.tokens)


def logits_bytes(architecture: Architecture, recipe: Recipe, load: Load) -> float:
    """Count what head and loss keep; a naive B x T x V would be ``1 / answer_share`` as much."""
    tree = architecture.tree
    head = load.compute_bytes * tree.width if architecture.profile(recipe).embeddings else 0
    return load.tokens * (load.answer_share * (FP32 * tree.logits_kept * tree.vocabulary + INT64 + head) + 1)


def _weight_bytes(architecture: Architecture, recipe: Recipe, load: Load) -> float:
    """Count trained weights in float32 and as autocast copies, frozen ones as computed or in 4 bits."""
    tree, size = architecture.tree, load.compute_bytes
    if recipe.method == "lora":
        packed = tree.dense_weights if recipe.base_precision == "nf4" else 0
        trained = architecture.profile(recipe, load.attention_padding, size).trained_weights
        return NF4 * packed + size * (tree.weights - packed) + FP32 * trained
    return FP32 * tree.weights + (size * tree.dense_weights if size < FP32 else 0)
