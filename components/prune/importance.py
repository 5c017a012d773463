"""Measure the importance of each neuron, head group and block on calibration text."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from deepcuts.components.core.progress import ProgressLog
from deepcuts.components.prune.layout import Axis, blocks_of, head_width, layout_of, reader
from deepcuts.components.training import calibration
from deepcuts.components.training.render import Rendered

Hook = Callable[[nn.Module, tuple[Tensor, ...], Any], None]


def neurons(model: PreTrainedModel, data: Sequence[Rendered]) -> list[Tensor]:
    """Score neurons per block: norm of a neuron's activations times norm of the weights that read it."""
    return _units(model, data, layout_of(model).neuron_out)


def head_groups(model: PreTrainedModel, data: Sequence[Rendered]) -> list[Tensor]:
    """Score key-value heads per block: the same, summed over all query heads that share one."""
    groups = model.config.num_key_value_heads
    wide = model.config.num_attention_heads // groups * head_width(model)
    return [unit.view(groups, wide).sum(1) for unit in _units(model, data, layout_of(model).head_out)]


def blocks(model: PreTrainedModel, data: Sequence[Rendered]) -> Tensor:
    """Score blocks: 1 - mean cosine of the residual stream before and after (Men et al. 2024)."""
    change = torch.zeros(len(blocks_of(model)), dtype=torch.float64)

    def hook(number: int) -> Hook:
        def compare(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
            after = output if isinstance(output, Tensor) else output[0]
            cosine = F.cosine_similarity(args[0].double(), after.double(), dim=-1)
            change[number] += (1 - cosine).sum().cpu()

        return compare

    with _hooked({block: hook(number) for number, block in enumerate(blocks_of(model))}):
        tokens = _run(model, data)
    return change / tokens


def _units(model: PreTrainedModel, data: Sequence[Rendered], axis: Axis) -> list[Tensor]:
    """Score every unit that ``axis`` reads, per block: activation norm times weight norm (as Wanda)."""
    readers = [reader(block, axis) for block in blocks_of(model)]
    squares = [torch.zeros(weight.shape[1], dtype=torch.float64) for _, weight in readers]

    def hook(number: int) -> Hook:
        def add(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
            squares[number] += args[0].double().square().flatten(0, -2).sum(0).cpu()

        return add

    with _hooked({module: hook(number) for number, (module, _) in enumerate(readers)}):
        _run(model, data)
    return [
        total.sqrt() * weight.detach().double().norm(dim=0).cpu()
        for total, (_, weight) in zip(squares, readers, strict=True)
    ]


@contextmanager
def _hooked(hooks: dict[nn.Module, Hook]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run(model: PreTrainedModel, data: Sequence[Rendered]) -> int:
    """Run the model on the text; return the number of tokens."""
    model.eval()
    tokens = 0
    progress = ProgressLog(sum(len(rendered.ids) for rendered in data), "tokens measured", brief=True)
    with torch.inference_mode():
        for ids in calibration.rows(data, model.device):
            model.base_model(input_ids=ids, use_cache=False)
            tokens += ids.numel()
            progress(tokens)
    return tokens
