"""What a Recipe trains of a model and what autograd keeps of it, traced without weights or arithmetic.

The model is built from its config.json of fake tensors (shapes and types alone), adapted by the code that
trains it, and one row is passed through its blocks. So any type that transformers loads can be planned, and
what is planned is what is run.
"""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel
from transformers.integrations import moe

from deepcuts.components.core import recipe as recipes
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.plan.sizes import build, drops_attention
from deepcuts.components.training import adapters, attention, depth, documents, models
from deepcuts.components.training.blocks import blocks_of, language_blocks

TRACED = 4
"""Blocks that are traced of many that are alike."""
EXAMPLE_TOKENS = 16
"""Of the examples in a traced row: their length only counts where it exceeds a window of attention."""
STRIDE = 10_000
"""Between the keys of two blocks' storages; no block keeps so many."""
SHAPING = {"method", "frozen", "lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "lora_rslora"}
SHAPING |= {"lora_dora", "trainable_embeddings", "new_token_ids", "trained_layers"}
"""Fields of a Recipe that say which weights are trained."""


class Profile(NamedTuple):
    """What a Recipe trains, and bytes that autograd keeps of one row before the head, by storage."""

    trained_weights: int
    adapter_weights: int
    embeddings: bool
    """Whether embeddings and norms are trained."""
    tokens: int
    """Of the row, or of the few that were traced."""
    outside: dict[int, int]
    """Bytes of each storage kept outside the blocks."""
    blocks: tuple[dict[int, int], ...]
    inputs: tuple[dict[int, int], ...]
    """What a block keeps where it is computed again: its input."""

    def saved_bytes(self, every: int) -> int:
        """Return the bytes of the row, every ``every``-th block recomputed (0: none); each storage once."""
        kept = dict(self.outside)
        for number, (block, entered) in enumerate(zip(self.blocks, self.inputs, strict=True)):
            kept |= entered if every and number % every == 0 else block
        return sum(kept.values())

    def largest_block_bytes(self) -> int:
        return max((sum(block.values()) for block in self.blocks), default=0)


def profile(config: str, recipe: Recipe, padding: float, compute_bytes: int) -> Profile:
    """Return what the Recipe trains of the model and keeps of one row of about ``seq_len`` tokens.

    ``padding``: slots in attention's groups of like lengths over tokens. ``compute_bytes``: 2 in bfloat16.

    Raises:
        ValueError: as ``tree``, or a target of the Recipe names no layer.
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
                rows = _rows(adapted, recipe)
                outside, blocks, inputs = _kept(base, adapted, recipe, rows, padding, own)
        except (RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
            if own and isinstance(error, ValueError):  # of a Recipe or a type, or transformers' own words
                raise
            if own:
                reason = " ".join(str(error).split())[:160]
                raise ValueError(
                    f"model_type {base.config.model_type!r} cannot be traced without weights ({reason}), so "
                    "what it takes cannot be planned: take another base"
                ) from error
            continue
        trained = slice(len(blocks) - few.trained_of(layers), None)  # below them nothing is kept
        named = list(adapted.named_parameters())
        found = Profile(
            models.count_weights(adapted)[1],
            sum(p.numel() for name, p in named if p.requires_grad and "lora_" in name),
            embeddings,
            rows * recipe.seq_len,
            outside,
            tuple(blocks[trained]),
            tuple(inputs[trained]),
        )
        return _repeated(found, base, missing) if missing else found
    raise AssertionError


def few_layers(config: str) -> tuple[str, int]:
    """Return (the config with ``TRACED`` layers, how many more there are) where all layers are alike."""
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


def _repeated(found: Profile, model: PreTrainedModel, more: int) -> Profile:
    """Return the profile with its last but one block ``more`` times more: own storages under new keys."""
    middle, entered = found.blocks[-2], found.inputs[-2]
    shared = {key for block in (*found.blocks[:-2], found.blocks[-1]) for key in block} | set(found.outside)
    blocks, inputs = list(found.blocks[:-1]), list(found.inputs[:-1])
    for number in range(more):
        fresh = {key: key if key in shared else -(number * STRIDE + i) - 1 for i, key in enumerate(middle)}
        blocks.append({fresh[key]: size for key, size in middle.items()})
        inputs.append({fresh.get(key, -(number + 1) * STRIDE): size for key, size in entered.items()})
    block = list(blocks_of(model))[-2]
    trained = models.count_weights(block)[1]
    lora = sum(p.numel() for name, p in block.named_parameters() if p.requires_grad and "lora_" in name)
    return found._replace(
        trained_weights=found.trained_weights + more * trained,
        adapter_weights=found.adapter_weights + more * lora,
        blocks=(*blocks, found.blocks[-1]),
        inputs=(*inputs, found.inputs[-1]),
    )


def _fake(model: nn.Module) -> None:
    """Put fake tensors of a CPU in place of meta ones: they choose the kernels that a CPU would."""
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


def _rows(model: nn.Module, recipe: Recipe) -> int:
    """Return how many rows to trace: one, or more in 16 bits.

    There neither their tokens nor a few experts' for each may be as many as a layer is wide, which autocast's
    copies of weights are known by. Never another length: linear attention fills rows up to whole chunks.
    """
    if recipe.precision != "bf16":
        return 1
    widths = {size for weight in model.parameters() for size in weight.shape}
    tokens = recipe.seq_len
    return next(
        rows
        for rows in itertools.count(1)
        if not any(rows * tokens * experts in widths for experts in range(1, 9))
    )


class _Never:
    """A layerdrop that drops no layer: OPT compares it with a random number, and a fake one has no value."""

    @classmethod
    def __torch_function__(cls, *_: Any) -> bool:
        return False


class _Reached(Exception):
    """The row has come to the head, whose bytes are counted apart."""


def _kept(
    base: PreTrainedModel, adapted: nn.Module, recipe: Recipe, rows: int, padding: float, own: bool
) -> tuple[dict[int, int], list[dict[int, int]], list[dict[int, int]]]:
    """Return (outside, blocks, inputs) of a ``Profile``; with transformers' ``own`` attention, or ours."""
    blocks = blocks_of(base)
    outside: dict[int, int] = {}
    kept: list[dict[int, int]] = [{} for _ in blocks]
    inputs: list[dict[int, int]] = [{} for _ in blocks]
    weights = {_key(parameter) for parameter in adapted.parameters()}
    shapes = {tuple(parameter.shape) for parameter in adapted.parameters()}
    # autocast's copies of weights are counted with those
    copied = shapes | {shape[::-1] for shape in shapes} if recipe.precision == "bf16" else set()
    current: list[int] = []
    held: list[Any] = []  # or a freed storage's key could come back

    def enter(number: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        current.append(number)
        for value in (*args, *kwargs.values()):
            if (
                isinstance(value, Tensor)
                and value.requires_grad | value.is_floating_point()
                and value.ndim == 3
            ):
                inputs[number][_key(value)] = value.untyped_storage().nbytes()
                break

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
    return outside, kept, inputs


def _row(model: PreTrainedModel, rows: int, tokens: int, padding: float, own: bool) -> dict[str, Any]:
    ids = torch.zeros(rows, tokens, dtype=torch.long)
    if own or not attention.use_documents(model):
        return {"input_ids": ids}
    length = tokens if drops_attention(model.config.get_text_config()) else min(EXAMPLE_TOKENS, tokens)
    slots = torch.zeros(round(padding * ids.numel() / length), length, dtype=torch.long)
    places = torch.zeros(ids.numel(), dtype=torch.long)
    layout = documents.Documents((documents.Group(slots, slots, None),), places, places)
    return {"input_ids": ids, "position_ids": torch.zeros_like(ids)} | attention.inputs(layout, ids)


@contextmanager
def _grouped_experts() -> Iterator[None]:
    """Multiply by one expert's matrix: as much is kept, and the grouped kernel takes no fake float32."""
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
