"""Bytes that training takes on one device: what stays, and what autograd keeps of a micro-batch.

Counted operation by operation for the attention and the loss of ``components/training``, and held against
measured bytes in ``tests/training/test_memory.py``. Units: bytes; a block's share is bytes a token.
"""

from typing import NamedTuple

from components.core.recipe import Recipe
from components.plan.architecture import Architecture, Trained, trained

CUDA_CONTEXT_BYTES = 800 * 2**20
"""Driver, kernels and cuBLAS workspaces of a process; 0.5 to 1 GB (cuts.md, cut 10)."""
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
    """Bytes of a run on each of ``devices``; ``factor`` is measured over predicted activations, or 1."""
    what = trained(architecture, recipe)
    shards = devices if strategy == "fsdp" else 1
    weights = _weight_bytes(architecture, recipe, what, load.compute_bytes) / shards
    gradients = FP32 * what.weights / shards
    activations = saved_bytes(architecture, recipe, load, cuda) * factor
    logits = logits_bytes(architecture, what, load)
    working = 2 * FP32 * load.tokens * load.answer_share * architecture.vocabulary
    if recipe.gradient_checkpointing:
        working = max(
            working, factor * load.tokens * _block(architecture, recipe, what, load, cuda, first=False)
        )
    if strategy == "fsdp":  # the block in use and the next one, gathered
        working += 2 * architecture.block_weights * load.compute_bytes
    if strategy == "ddp":  # buckets beside the gradients
        working += gradients
    state = weights + gradients + 2 * gradients + activations + logits + working
    runtime = (CUDA_CONTEXT_BYTES if cuda else CPU_PROCESS_BYTES) + FRAGMENTATION * state
    return Memory(*map(round, (weights, gradients, 2 * gradients, activations, logits, working, runtime)))


def saved_bytes(architecture: Architecture, recipe: Recipe, load: Load, cuda: bool) -> float:
    """What autograd keeps of a micro-batch before the head; each tensor once, no parameters."""
    what = trained(architecture, recipe)
    every = int(recipe.gradient_checkpointing)
    total = 0.0
    live = False
    for number in range(architecture.layers):
        if every and number % every == 0:
            total += FP32 * architecture.width
        else:
            live = True
            first = number == 0 and not what.embeddings
            total += _block(architecture, recipe, what, load, cuda, first)
    if live:  # made once, read by every block: where examples lie, and rotary angles
        total += INT64 * (1 + load.attention_padding)
        total += 0 if architecture.is_gpt2 else 2 * FP32 * architecture.head_width
    if what.embeddings:
        total += INT64
    if architecture.is_gpt2 and recipe.method == "full":
        total += INT64
        total += _mask(cuda) * architecture.width if architecture.dropout else 0
    return load.tokens * (total + _norm(architecture, architecture.width, 1, what.embeddings))


def logits_bytes(architecture: Architecture, what: Trained, load: Load) -> float:
    """Kept by head and loss; a naive B x T x V would be ``1 / answer_share`` as much."""
    head = load.compute_bytes * architecture.width if what.embeddings else 0
    return load.tokens * (load.answer_share * (FP32 * architecture.vocabulary + INT64 + head) + 1)


def _weight_bytes(architecture: Architecture, recipe: Recipe, what: Trained, compute_bytes: int) -> float:
    """Trained ones in float32, frozen ones in compute precision or 4 bits; autocast copies trained ones."""
    if recipe.method == "lora":
        packed = architecture.matmul_weights if recipe.base_precision == "nf4" else 0
        return NF4 * packed + compute_bytes * (architecture.weights - packed) + FP32 * what.weights
    copies = compute_bytes * architecture.matmul_weights if compute_bytes < FP32 else 0
    return FP32 * architecture.weights + copies


def _block(
    architecture: Architecture, recipe: Recipe, what: Trained, load: Load, cuda: bool, first: bool
) -> float:
    """Bytes a token that one block keeps; the ``first`` one's input needs no gradient."""
    a, s = architecture, load.compute_bytes
    q, k = a.heads * a.head_width, a.key_heads * a.head_width
    attention = s * (2 * q + 2 * k) + FP32 * a.heads  # query, key, value, output; log of the sums
    total = load.attention_padding * attention
    total += 0 if first else _norm(a, a.width, 1, what.embeddings)
    total += _norm(a, a.width, 1, what.embeddings)
    if a.kind == "qwen3":
        total += _norm(a, q, a.heads, what.embeddings) + _norm(a, k, a.key_heads, what.embeddings)
    total += s * a.mlp_width * (4 if a.is_gpt2 else 3)  # tanh-GELU's steps; SiLU's input and both factors
    total += 2 * _mask(cuda) * a.width if a.dropout else 0
    targets = [linear for linear in a.linears if linear.name in what.targets]
    if recipe.method == "full" or not recipe.lora_dropout:  # layers that read the same tensor share it
        total += s * sum({_source(linear.name): linear.inputs for linear in targets}.values())
    else:
        total += sum(FP32 * linear.inputs for linear in targets)
        masked = [linear for linear in targets if not (first and _source(linear.name).endswith("attn in"))]
        total += sum(_mask(cuda) * linear.inputs for linear in masked)
    if recipe.method == "lora":
        total += FP32 * recipe.lora_rank * len(targets)
    return total


def _source(name: str) -> str:
    """Which tensor a linear layer reads: its half of the block and whether it leads in or out."""
    half, _, layer = name.partition(".")
    return f"{half} out" if layer in ("o_proj", "c_proj", "down_proj") else f"{half} in"


def _norm(architecture: Architecture, width: int, rows: int, learns: bool) -> float:
    """A norm keeps its input and each row's spread; RMSNorm that learns, the normed input too."""
    if architecture.is_gpt2:
        return FP32 * (width + 2 * rows)
    return FP32 * (width * (1 + learns) + rows)


def _mask(cuda: bool) -> int:
    """Bytes of a dropout mask's element: boolean on CUDA, the number itself on CPU."""
    return 1 if cuda else FP32
