"""Find a model's transformer blocks, checkpoint them, and count what autograd keeps of a pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks, first to last.

    Model types that transformers cannot checkpoint (GPT, CTRL) do not mark them; there they are the only list
    of modules with linear layers. With several such lists (XLM), none is returned.
    """
    marked = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if marked:
        return [*marked]
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inner = {part for one in lists for part in one.modules() if part is not one}
    linear = (nn.Linear, Conv1D)
    outer = [one for one in lists if one not in inner and any(isinstance(m, linear) for m in one.modules())]
    return [*outer[0]] if len(outer) == 1 else []


def recomputes(model: PreTrainedModel) -> bool:
    """Tell whether transformers can recompute the model's blocks in the backward pass."""
    marked = any(isinstance(block, GradientCheckpointingLayer) for block in blocks_of(model))
    return bool(model.supports_gradient_checkpointing) and marked


TOWERS = ("vision_tower", "vision_model", "visual", "audio_tower", "multi_modal_projector")
"""Parts of a multimodal model that text does not go through."""


def language_blocks(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """Return the text model's blocks by name, without those of image and sound towers."""
    blocks = {id(block) for block in blocks_of(model)}
    return [
        (name, module)
        for name, module in model.named_modules()
        if id(module) in blocks and not any(part in name for part in TOWERS)
    ]


STATEFUL = ("mamba", "conv", "recurrent", "linear_attn", "linearattention", "deltanet", "rglru")
"""Parts of class names of modules that carry a state along a row."""


def stateful_classes(model: nn.Module) -> list[str]:
    """Return classes in the blocks that carry a state along a row, apart from attention's keys and values."""
    classes = {type(part).__name__ for block in blocks_of(model) for part in block.modules()} - {"Conv1D"}
    return sorted(name for name in classes if any(word in name.lower() for word in STATEFUL))


MIXER_LAYERS = ("conv1d", "dt_proj", "out_proj", "x_proj")
"""Layers of Mamba's mixers whose weights its code (``dt_proj``) or kernels (the others) read directly."""


def read_past(model: nn.Module) -> set[str]:
    """Return the names of layers whose weight is read directly, without calling the module.

    An adapter or integer kernel there would be ignored or break. peft 0.21 refuses two of them in some types.
    """
    mixers = [name for name, module in model.named_modules() if hasattr(module, "ssm_state_size")]
    found = {f"{mixer}.{layer}" for mixer in mixers for layer in MIXER_LAYERS}
    return found & {name for name, _ in model.named_modules()}


def checkpoint_every(model: PreTrainedModel, every: int) -> None:
    """Keep only the input of every ``every``-th block and recompute the rest in the backward pass.

    Non-reentrant, because re-entrant checkpoints lose the gradient if embeddings are frozen (peft #1142).

    Raises:
        ValueError: transformers does not support it for this model type.
    """
    if not recomputes(model):
        raise ValueError(
            f"recipe.gradient_checkpointing: transformers cannot recompute blocks of model_type "
            f"{model.config.model_type!r}: set it to false"
        )
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for number, block in enumerate(blocks_of(model)):
        block.gradient_checkpointing = number % every == 0  # type: ignore[assignment]


@contextmanager
def kept_whole(model: nn.Module) -> Iterator[None]:
    """Disable checkpointing of blocks in the body, then restore it."""
    marked = [block for block in blocks_of(model) if isinstance(block, GradientCheckpointingLayer)]
    before = [(block, block.gradient_checkpointing) for block in marked]
    for block, _ in before:
        block.gradient_checkpointing = False
    try:
        yield
    finally:
        for block, checkpointed in before:
            block.gradient_checkpointing = checkpointed


@contextmanager
def saved_tensor_bytes(model: nn.Module) -> Iterator[Callable[[], int]]:
    """Count the bytes that autograd saves for the backward pass in the body.

    Each storage counts once; parameters do not count. An allocator's peak would be too noisy.
    """
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # kept alive, or a freed one's address could be reused

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(storage.nbytes() for storage in storages.values())


def keep_scale(model: PreTrainedModel) -> None:
    """Stop RWKV from halving its weights while scoring; they would be saved like that and halved again."""
    if hasattr(model.config, "rescale_every"):
        model.config.rescale_every = 0
