"""Make the passes of a run on a CPU smaller where that costs no speed, as memory grows with a pass."""

from collections.abc import Sequence

import msgspec
from accelerate import Accelerator
from torch import nn

from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training import prefixes, sharing
from deepcuts.components.training.render import Rendered

PASS_TOKENS = 512
"""Tokens of a pass from which a CPU's matrix products are no faster."""
PASS_WORK = 5e9
"""Tokens times weights of a pass below which a small model's launched operations count."""
SLOWER = 1.05
"""Tokens that smaller passes may compute, as a multiple: each pass computes a shared prefix again."""


def fewest_rows(loss: nn.Module, data: Sequence[Rendered], recipe: Recipe, shared: bool) -> int:
    """Return how many rows of ``micro_batch_size`` a pass on a CPU needs to be about as fast as with all.

    It does not depend on the budget, so that a run with a larger budget continues bit for bit.
    """
    weights = sum(weight.numel() for weight in loss.parameters())
    tokens = max(PASS_TOKENS, PASS_WORK / weights)
    step = sharing.sample_step(data, recipe)

    def computed(rows: int) -> int:
        smaller = msgspec.structs.replace(recipe, micro_batch_size=rows)
        trees = prefixes.split(step, data, prefixes.most_tokens(smaller), world=1)
        return sum(tree.tokens for tree in trees)

    whole = computed(recipe.micro_batch_size) if shared else 0
    for rows in (1 << power for power in range(recipe.micro_batch_size.bit_length())):
        if rows * recipe.seq_len >= tokens and (not shared or computed(rows) <= SLOWER * whole):
            return rows
    return recipe.micro_batch_size


def settle(
    loss: nn.Module, data: Sequence[Rendered], recipe: Recipe, accelerator: Accelerator, shared: bool
) -> Recipe:
    """Return the Recipe with the fewest rows a pass that are about as fast; unchanged on an accelerator."""
    if accelerator.device.type != "cpu" or accelerator.num_processes > 1:
        return recipe
    rows = fewest_rows(loss, data, recipe, shared)
    return msgspec.structs.replace(recipe, micro_batch_size=rows)
