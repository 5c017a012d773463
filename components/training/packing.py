"""Packing, proven for the model at hand: two short examples in one row must score as they do alone.

Convolutions and state-space layers carry one example's state into the next, ALiBi counts positions through,
and some types ignore restarting positions. What mixes is trained one example a row instead, and says so.
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
"""Of one example's summed loss; rounding in float32 is about 1e-6."""
STATEFUL_NATS = 1e-5
"""The same where layers carry states: what is small between short examples grows with their length."""
FILLER = 16
"""Tokens behind an example that must not change it: what they do is rounding, the noise of the comparison."""
NOISE = 3.0
"""Times the noise that a difference may be: in bfloat16 rounding alone is above the tolerance."""
MAX_NOISE = 0.1
"""Nats beyond which it is no rounding, in 16 bits: what follows an example is seen by it."""


class Packing(NamedTuple):
    packed: bool
    difference_nats: float
    """Packed against alone, the larger of two examples; 0 where nothing was compared."""
    words: str

    def facts(self) -> dict[str, str | float | bool]:
        return {"packing": self.words, "packing_difference_nats": self.difference_nats}


def settle(
    loss: nn.Module, data: Sequence[Rendered], recipe: Recipe, accelerator: Accelerator
) -> tuple[Recipe, Packing]:
    """Return the Recipe, with packing off where any rank's proof of it fails; and this rank's proof."""
    if not recipe.packing:
        return recipe, Packing(False, 0.0, "off: by the recipe")
    found = prove(loss, data, recipe.seq_len)
    if not all(ranks.on_every(accelerator, found.packed)):
        recipe = msgspec.structs.replace(recipe, packing=False)
    return recipe, found


def prove(loss: nn.Module, data: Sequence[Rendered], seq_len: int) -> Packing:
    """Return whether examples may share rows of ``seq_len`` under ``loss``.

    The loss keeps the first layout that allows it. Both of the two shortest examples are scored alone and
    behind the other. Dropout is off and no random number drawn, so that a resumed run is none the wiser.
    """
    # a distillation compares packed rows by the student's own loss: its teacher may know the real rows only
    loss = next((part for part in loss.modules() if isinstance(part, CompletionLoss)), loss)
    chunk = attention.chunk_tokens(loss.model) if isinstance(loss, CompletionLoss) else 0
    if 0 < chunk < seq_len:  # two short examples would not show it
        return Packing(False, 0.0, f"off: its attention cuts rows into chunks of {chunk}; one example a row")
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
        except (RuntimeError, TypeError, ValueError):  # arguments that this type does not take
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
        f"off: packed, examples of this model change each other by {smallest:.1e} nats; one example a row",
    )


def behind_nats(loss: nn.Module, pair: Sequence[Rendered]) -> float:
    """Measure by how much filler after an example changes its loss: rounding, or a fault."""
    device = next(loss.parameters()).device
    found = []
    for i, rendered in enumerate(pair[:2]):
        alone, filled = (
            nats_of(loss, collate([[i]], pair, len(rendered.ids) + more), device) for more in (0, FILLER)
        )
        found.append(abs(alone - filled))
    return max(found)


def _behind(pair: Sequence[Rendered], first: int, second: int) -> MicroBatch:
    """Return both in one row, only the second one's answer scored."""
    batch = collate([[first, second]], pair, sum(len(rendered.ids) for rendered in pair))
    batch.targets[0, : len(pair[first].ids)] = IGNORE
    return batch


def nats_of(loss: nn.Module, batch: MicroBatch, device: torch.device) -> float:
    """Return the loss of a micro-batch that may lie on another device."""
    return float(loss(*(tensor.to(device) for tensor in batch)))


def check_seq_len(recipe: Recipe, network: PreTrainedModel) -> None:
    """Check that a row of seq_len fits into the model's positions.

    Raises:
        ValueError: it does not.
    """
    context = models.context_length(network)
    if recipe.seq_len > context:
        raise ValueError(f"recipe.seq_len {recipe.seq_len} is above the model's context {context}: lower it")
