"""Prove packing for the model at hand: two short examples in one row must score the same as alone.

Convolutions and state-space layers carry state from one example into the next, ALiBi does not restart its
positions, and some model types ignore restarting positions. Such models train one example per row instead.
"""

from collections.abc import Sequence
from typing import NamedTuple, get_args

import msgspec
import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training import attention, models, ranks
from deepcuts.components.training.batches import IGNORE, MicroBatch, collate
from deepcuts.components.training.blocks import stateful_classes
from deepcuts.components.training.losses import AttentionLayout, CompletionLoss
from deepcuts.components.training.render import Rendered

TOLERANCE_NATS = 1e-3
"""Tolerance, relative to an example's summed loss; rounding in float32 is about 1e-6."""
STATEFUL_NATS = 1e-5
"""The same if layers carry states, because effects that are small on short examples grow with length."""
FILLER = 16
"""Tokens put after an example, which must not change it: any change is rounding noise."""
NOISE = 3.0
"""Allowed difference as a multiple of that noise; in bfloat16, rounding alone exceeds the tolerance."""
MAX_NOISE = 0.1
"""Nats in 16 bits above which it is not rounding: the example sees the tokens after it."""


class Packing(NamedTuple):
    packed: bool
    difference_nats: float
    """Difference between packed and alone, the larger of two examples; 0 if nothing was compared."""
    words: str

    def facts(self) -> dict[str, str | float | bool]:
        return {"packing": self.words, "packing_difference_nats": self.difference_nats}


def settle(
    loss: nn.Module, data: Sequence[Rendered], recipe: Recipe, accelerator: Accelerator
) -> tuple[Recipe, Packing]:
    """Return the Recipe, with packing off if the proof fails on any rank, and this rank's proof."""
    if not recipe.packing:
        return recipe, Packing(False, 0.0, "off: by the recipe")
    found = prove(loss, data, recipe.seq_len)
    if not all(ranks.on_every(accelerator, found.packed)):
        recipe = msgspec.structs.replace(recipe, packing=False)
    return recipe, found


def prove(loss: nn.Module, data: Sequence[Rendered], seq_len: int) -> Packing:
    """Test whether examples may share rows of ``seq_len`` under ``loss``.

    The loss keeps the first layout that works. The two shortest examples are each scored alone and after the
    other. Dropout is off and no random numbers are drawn, so a resumed run is not affected.
    """
    # distillation is tested with the student's own loss, as the teacher may know only the real rows
    loss = next((part for part in loss.modules() if isinstance(part, CompletionLoss)), loss)
    chunk = attention.chunk_tokens(loss.model) if isinstance(loss, CompletionLoss) else 0
    if 0 < chunk < seq_len:  # would not show with two short examples
        return Packing(False, 0.0, f"off: attention cuts rows into chunks of {chunk}; one example per row")
    first, second, *_ = [*sorted(range(len(data)), key=lambda i: (len(data[i].ids), i)), 0]
    pair = [data[first], data[second]]
    training = loss.training
    loss.eval()
    try:
        with torch.no_grad():
            return _prove(loss, pair)
    finally:
        loss.train(training)


def _prove(loss: nn.Module, pair: Sequence[Rendered]) -> Packing:
    device = next(loss.parameters()).device
    lengths = [len(rendered.ids) for rendered in pair]
    own = loss.layout if isinstance(loss, CompletionLoss) else None
    layouts: tuple[AttentionLayout | None, ...] = (
        get_args(AttentionLayout)[get_args(AttentionLayout).index(own) :] if own else (None,)
    )
    halves = any(weight.dtype in (torch.bfloat16, torch.float16) for weight in loss.parameters())
    most_noise = MAX_NOISE if halves else TOLERANCE_NATS
    smallest, tolerance = float("inf"), STATEFUL_NATS if stateful_classes(loss) else TOLERANCE_NATS
    for layout in dict.fromkeys([own, *layouts]):
        if isinstance(loss, CompletionLoss) and layout:
            loss.layout = layout
        try:
            alone = [nats_of(loss, collate([[i]], pair, lengths[i]), device) for i in (0, 1)]
            noise = behind_nats(loss, pair)
            behind = [nats_of(loss, _behind(pair, other, i), device) for other, i in ((1, 0), (0, 1))]
        except (RuntimeError, TypeError, ValueError):  # arguments that this model type does not accept
            continue
        difference = max(abs(a - b) for a, b in zip(alone, behind, strict=True))
        smallest = min(smallest, difference)
        if difference <= max(tolerance, NOISE * min(noise, most_noise)):
            return Packing(True, difference, f"on: packed scores as alone, within {difference:.1e} nats")
    if isinstance(loss, CompletionLoss) and own:
        loss.layout = own
    return Packing(
        False,
        smallest,
        f"off: packed examples change each other by {smallest:.1e} nats; one example per row",
    )


def behind_nats(loss: nn.Module, pair: Sequence[Rendered]) -> float:
    """Measure how much padding after an example changes its loss: by rounding, or by a fault."""
    device = next(loss.parameters()).device
    found = []
    for i, rendered in enumerate(pair[:2]):
        alone, filled = (
            nats_of(loss, collate([[i]], pair, len(rendered.ids) + more), device) for more in (0, FILLER)
        )
        found.append(abs(alone - filled))
    return max(found)


def _behind(pair: Sequence[Rendered], first: int, second: int) -> MicroBatch:
    """Return both examples in one row, with only the second one's answer scored."""
    batch = collate([[first, second]], pair, sum(len(rendered.ids) for rendered in pair))
    batch.targets[0, : len(pair[first].ids)] = IGNORE
    return batch


def nats_of(loss: nn.Module, batch: MicroBatch, device: torch.device) -> float:
    """Return the loss of a micro-batch, moved to ``device``."""
    return float(loss(*(tensor.to(device) for tensor in batch)))


def check_seq_len(recipe: Recipe, network: PreTrainedModel) -> None:
    """Check that rows of seq_len fit into the model's positions.

    Raises:
        ValueError: it does not.
    """
    context = models.context_length(network)
    if recipe.seq_len > context:
        raise ValueError(f"recipe.seq_len {recipe.seq_len} is above the model's context {context}: lower it")
