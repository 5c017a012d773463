"""Decide whether to share prefixes: only if proven correct for the model and worth it for the data."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training import packing, prefixes, ranks
from deepcuts.components.training.batches import collate
from deepcuts.components.training.blocks import stateful_classes
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.prefixes import PrefixTree
from deepcuts.components.training.render import Rendered

MIN_SAVED = 0.05
"""Minimum share of tokens saved; below it, sharing is not worth attention's smaller matrices."""


class Sharing(NamedTuple):
    shared: bool
    difference_nats: float
    """Difference between shared and alone for two examples; 0 if nothing was compared."""
    words: str

    def facts(self) -> dict[str, str | float | bool]:
        return {"prefix_sharing": self.words, "prefix_sharing_difference_nats": self.difference_nats}


def settle(loss: nn.Module, data: Sequence[Rendered], recipe: Recipe, accelerator: Accelerator) -> Sharing:
    """Decide whether a run's passes share prefixes: on every rank or on none."""
    if recipe.share_prefixes == "off" or not recipe.packing:
        return Sharing(False, 0.0, "off: by the recipe, or packing is off")
    if recipe.share_prefixes == "auto" and accelerator.device.type == "cuda":
        return Sharing(False, 0.0, "off: not measured on CUDA; recipe.share_prefixes on tries it")
    saved = saved_share(data, recipe)
    if saved < MIN_SAVED:
        return Sharing(False, 0.0, f"off: examples have only {saved:.1%} of their tokens in common")
    if draws(loss, data):
        return Sharing(False, 0.0, "off: dropout differs for each example")
    found = prove(loss, data)
    if found.shared and not all(ranks.on_every(accelerator, found.shared)):
        return Sharing(False, found.difference_nats, "off: not proven on another rank")
    return found._replace(words=f"{found.words}; about {saved:.0%} of the tokens") if found.shared else found


def trees(loss: nn.Module, data: Sequence[Rendered], most_tokens: int) -> list[PrefixTree]:
    """Return passes that score all of ``data`` with shared prefixes; none if sharing is off.

    It is off on CUDA, where it was never measured.
    """
    if next(loss.parameters()).is_cuda:
        return []
    found = prefixes.split(range(len(data)), data, most_tokens, world=1) if data else []
    trained = sum(len(rendered.ids) for rendered in data)
    saved = 1 - sum(tree.tokens for tree in found) / max(1, trained)
    return found if saved >= MIN_SAVED and prove(loss, data).shared else []


def saved_share(data: Sequence[Rendered], recipe: Recipe) -> float:
    """Estimate the share of trained tokens that need not be computed, from a random step.

    It does not depend on the budget, so that a run with a larger budget continues bit for bit.
    """
    trees = prefixes.split(sample_step(data, recipe), data, prefixes.most_tokens(recipe), world=1)
    trained = sum(len(data[example].ids) for tree in trees for example in tree.examples)
    return 1 - sum(tree.tokens for tree in trees) / trained


def sample_step(data: Sequence[Rendered], recipe: Recipe) -> list[int]:
    """Return random examples of about one step."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    ends = accumulate(len(data[example].ids) for example in order)
    step = [example for example, end in zip(order, ends, strict=True) if end <= recipe.tokens_per_step]
    return step or order[:1]


def prove(loss: nn.Module, data: Sequence[Rendered]) -> Sharing:
    """Test whether two examples that share a prefix score the same under ``loss`` as alone.

    They are the shortest two neighbours with enough in common.
    """
    if any(part.layout != "documents" for part in loss.modules() if isinstance(part, CompletionLoss)):
        return Sharing(False, 0.0, "off: this model's attention does not support trees of examples")
    if stateful := stateful_classes(loss):  # two short examples may not show the effect of a state
        return Sharing(False, 0.0, f"off: {stateful[0]} of this model carries a state along a row")
    pair = _neighbours(data)
    if not pair:
        return Sharing(False, 0.0, "off: no two examples to prove it with")
    training = loss.training
    with torch.no_grad():
        try:
            return _prove(loss.eval(), pair)
        except (RuntimeError, TypeError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            return Sharing(False, 0.0, f"off: this model does not support it ({reason})")
        finally:
            loss.train(training)


def _prove(loss: nn.Module, pair: Sequence[Rendered]) -> Sharing:
    device = next(loss.parameters()).device
    (tree,) = prefixes.split([0, 1], pair, sum(len(one.ids) for one in pair), world=1)
    shared = packing.nats_of(loss, prefixes.lay(tree, pair), device)
    alone = sum(packing.nats_of(loss, collate([[i]], pair, len(pair[i].ids)), device) for i in (0, 1))
    halves = any(weight.dtype in (torch.bfloat16, torch.float16) for weight in loss.parameters())
    most_noise = packing.MAX_NOISE if halves else packing.TOLERANCE_NATS
    noise = packing.NOISE * min(packing.behind_nats(loss, pair), most_noise) if halves else 0.0
    difference = abs(shared - alone)
    if difference <= max(packing.TOLERANCE_NATS, noise):
        return Sharing(True, difference, f"on: scores as alone, within {difference:.1e} nats")
    return Sharing(False, difference, f"off: shared prefixes change the score by {difference:.1e} nats")


def _neighbours(data: Sequence[Rendered]) -> list[Rendered]:
    """Return the shortest two neighbours in sorted order that share a stretch; empty if there are none."""
    order = sorted(data, key=lambda rendered: rendered.ids)
    pairs = [
        (one, other)
        for one, other in zip(order, order[1:], strict=False)
        if one.ids != other.ids and prefixes.common_tokens(one, other) >= prefixes.SHORTEST
    ]
    return list(min(pairs, key=lambda pair: len(pair[0].ids) + len(pair[1].ids), default=()))


def draws(loss: nn.Module, data: Sequence[Rendered]) -> bool:
    """Tell whether ``loss`` uses random numbers in training, so that an example's score varies.

    The random state is restored.
    """
    training, found = loss.training, set()
    shortest = min(range(len(data)), key=lambda i: len(data[i].ids))
    batch = collate([[shortest]], data, len(data[shortest].ids))
    loss.train()
    with torch.no_grad(), torch.random.fork_rng():
        for seed in (0, 1):
            torch.manual_seed(seed)
            found.add(packing.nats_of(loss, batch, next(loss.parameters()).device))
    loss.train(training)
    return len(found) > 1
