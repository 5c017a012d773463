"""Trace what a Recipe trains and what autograd keeps, without weights or arithmetic.

The model is built from its config.json with fake tensors (only shapes and types), adapted by the code that
trains it, and two and then three rows are passed through its blocks. So any type that transformers loads can
be planned, and the plan uses the code that will run.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import PreTrainedModel
from transformers.integrations import moe

from deepcuts.components.core import recipe as recipes
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.plan.profile import Profile, few_layers, growing, repeated
from deepcuts.components.plan.sizes import build, drops_attention
from deepcuts.components.training import adapters, attention, depth, documents, models
from deepcuts.components.training.blocks import blocks_of, language_blocks

EXAMPLE_TOKENS = 16
"""Length of the examples in a traced row; it matters only if it exceeds an attention window."""
SHAPING = {"method", "frozen", "lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "lora_rslora"}
SHAPING |= {"lora_dora", "trainable_embeddings", "new_token_ids", "trained_layers"}
"""Fields of a Recipe that determine which weights are trained."""


def profile(config: str, recipe: Recipe, padding: float, compute_bytes: int) -> Profile:
    """Return what the Recipe trains of the model, and the bytes kept of one row of about ``seq_len`` tokens.

    ``padding``: padded / actual tokens in attention's groups. ``compute_bytes``: 2 in bfloat16.

    Raises:
        ValueError: as for ``tree``, or a target of the Recipe is not a layer.
    """
    shaping = {name: getattr(recipe, name) for name in SHAPING}
    shaping |= {"seq_len": recipe.seq_len, "tokens_per_step": recipe.seq_len}
    shaping["precision"] = "bf16" if compute_bytes == 2 else "fp32"
    return _profile(config, msgspec.json.encode(shaping, order="deterministic"), padding)


@lru_cache(maxsize=256)
def _profile(config: str, shaping: bytes, padding: float) -> Profile:
    recipe = recipes.parse(msgspec.json.decode(shaping))
    config, more = few_layers(config)
    for own in (False, True):
        try:
            with torch.device("meta"):
                base = build(config)
                layers = len(language_blocks(base))
                few, missing = depth.in_first_blocks(recipe, layers, layers + more)
                adapted = adapters.adapt(base, few, torch.device("cpu"))
                embeddings = depth.trains_head(base, recipe) or adapters.trains_embeddings(base, recipe)
            with FakeTensorMode():
                _fake(adapted)
                counts = _row_counts(adapted, recipe)
                traced = [_kept(base, adapted, recipe, rows, padding, own) for rows in counts]
                outside, *parts = growing(traced, counts)
        except (RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
            if own and isinstance(error, ValueError):  # a message for the user, ours or transformers'
                raise
            if own:
                kind, way = base.config.model_type, f"cannot be traced with recipe.method {recipe.method}"
                raise ValueError(
                    f"model_type {kind!r} {way} ({_reason(error)}), so it cannot be planned: "
                    f"use another base{_or_full(recipe, error)}"
                ) from error
            continue
        half = len(parts) // 2
        trained = slice(half - few.trained_of(layers), None)  # below them nothing is kept
        blocks, inputs = tuple(parts[:half])[trained], tuple(parts[half:])[trained]
        named = list(adapted.named_parameters())
        found = Profile(
            models.count_weights(adapted)[1],
            sum(p.numel() for name, p in named if p.requires_grad and "lora_" in name),
            embeddings,
            recipe.seq_len,
            outside,
            blocks,
            inputs,
        )
        return repeated(found, base, missing) if missing else found
    raise AssertionError


def _reason(error: Exception) -> str:
    if isinstance(error, DataDependentOutputException):
        return "its code branches on computed values, such as the experts chosen"
    return " ".join(str(error).split())[:160]


def _or_full(recipe: Recipe, error: Exception) -> str:
    """Suggest method full if a layer does not take an adapter (DeepSeek 4's grouped layers)."""
    able = recipe.method == "lora" and not isinstance(error, DataDependentOutputException)
    return ", or method full" if able else ""


def _fake(model: nn.Module) -> None:
    """Replace meta tensors by fake CPU tensors, which select the same kernels as a CPU."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = nn.Parameter(_shaped(parameter), parameter.requires_grad)
                module._parameters[name] = made.setdefault(id(parameter), fake)  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _shaped(buffer)


def _shaped(tensor: Tensor) -> Tensor:
    return torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device="cpu")


def _row_counts(model: nn.Module, recipe: Recipe) -> tuple[int, int]:
    """Return how many rows to trace in the two traces: two and three, or more in 16 bits.

    Not one, as transposing or expanding often copies nothing then. In 16 bits, neither the number of tokens
    nor that of a few experts' tokens may equal a layer's width, by which autocast's weight copies are
    recognised. The length stays the same, as linear attention pads rows to whole chunks.
    """
    if recipe.precision != "bf16":
        return 2, 3
    widths = {size for weight in model.parameters() for size in weight.shape}
    good = (
        rows
        for rows in itertools.count(2)
        if not any(rows * recipe.seq_len * experts in widths for experts in range(1, 9))
    )
    return next(good), next(good)


class _Never:
    """A layerdrop that drops no layer: OPT compares it with a random number, and fake ones have no value."""

    @classmethod
    def __torch_function__(cls, *_: Any) -> bool:
        return False


class _Reached(Exception):
    """The row has reached the head, whose bytes are counted separately."""


def _kept(
    base: PreTrainedModel, adapted: nn.Module, recipe: Recipe, rows: int, padding: float, own: bool
) -> list[dict[int, int]]:
    """Return the bytes kept outside blocks, in each block, and of each block's input, by storage.

    Uses transformers' ``own`` attention, or ours.
    """
    blocks = blocks_of(base)
    outside: dict[int, int] = {}
    kept: list[dict[int, int]] = [{} for _ in blocks]
    inputs: list[dict[int, int]] = [{} for _ in blocks]
    weights = {_key(parameter) for parameter in adapted.parameters()}
    shapes = {tuple(parameter.shape) for parameter in adapted.parameters()}
    # autocast's copies of weights are counted with the weights
    copied = shapes | {shape[::-1] for shape in shapes} if recipe.precision == "bf16" else set()
    current: list[int] = []
    held: list[Any] = []  # kept alive, or a freed storage's key could be reused

    def enter(number: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        current.append(number)
        # checkpointing keeps positional arguments, including masks; of keyword ones only the row itself
        rows = [v for v in kwargs.values() if isinstance(v, Tensor) and v.is_floating_point() and v.ndim == 3]
        for value in [v for v in args if isinstance(v, Tensor)] or rows[:1]:
            inputs[number][_key(value)] = value.untyped_storage().nbytes()
            held.append(value.untyped_storage())

    def leave(number: int, *_: Any) -> None:
        current.pop()

    def pack(tensor: Tensor) -> Tensor:
        if _key(tensor) not in weights and not (tensor.ndim == 2 and tuple(tensor.shape) in copied):
            place = kept[current[0]] if current else outside
            place[_key(tensor)] = tensor.untyped_storage().nbytes()
            held.append(tensor.untyped_storage())
        return tensor

    def stop(*_: Any) -> None:
        raise _Reached

    hooks = [
        block.register_forward_pre_hook(partial(enter, n), with_kwargs=True) for n, block in enumerate(blocks)
    ]
    hooks += [block.register_forward_hook(partial(leave, n)) for n, block in enumerate(blocks)]
    hooks.append(base.get_output_embeddings().register_forward_pre_hook(stop))
    adapted.train()
    for module in adapted.modules():
        if hasattr(module, "layerdrop"):
            module.layerdrop = _Never()  # type: ignore[assignment]
    with (
        _grouped_experts(),
        _autocast(recipe),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        suppress(_Reached),
    ):
        adapted(**_row(base, rows, recipe.seq_len, padding, own), use_cache=False)
    for hook in hooks:
        hook.remove()
    return [outside, *kept, *inputs]


def _row(model: PreTrainedModel, rows: int, tokens: int, padding: float, own: bool) -> dict[str, Any]:
    ids = torch.zeros(rows, tokens, dtype=torch.long)
    if own or not attention.use_documents(model):
        return {"input_ids": ids}
    length = tokens if drops_attention(model.config.get_text_config()) else min(EXAMPLE_TOKENS, tokens)
    slots = torch.zeros(rows * round(padding * tokens / length), length, dtype=torch.long)
    places = torch.zeros(ids.numel(), dtype=torch.long)
    layout = documents.Documents((documents.Group(slots, slots, None),), places, places)
    return {"input_ids": ids, "position_ids": torch.zeros_like(ids)} | attention.inputs(layout, ids)


@contextmanager
def _grouped_experts() -> Iterator[None]:
    """Multiply by one expert's matrix: it keeps as much, and the grouped kernel refuses fake float32."""
    own = moe._grouped_mm
    moe._grouped_mm = lambda input, weight, offs: input.to(weight.dtype) @ weight[0]
    try:
        yield
    finally:
        moe._grouped_mm = own


@contextmanager
def _autocast(recipe: Recipe) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
        yield


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
