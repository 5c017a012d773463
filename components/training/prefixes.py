"""Compute prefixes shared by examples once, by laying out the examples of a pass as a tree.

Examples that begin with the same tokens follow each other in a pass, and each leaves out the prefix it shares
with those before it; its positions continue from there, which tells attention what it sees
(``documents.py``). Each token's values are the same as alone, so loss and gradient are the same sum in
another order. A position with a target is never shared.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training import batches
from deepcuts.components.training.batches import IGNORE, MicroBatch
from deepcuts.components.training.render import Rendered

SHORTEST = 8
"""Minimum tokens of a shared stretch; shorter ones save less than their small matrices cost."""


class Stretch(NamedTuple):
    """Tokens of an example, ``ids[start:end]``, for it and for all examples that share them."""

    example: int
    start: int
    end: int


class PrefixTree(NamedTuple):
    """A pass: stretches in reading order, each after the one it continues or after a branch of that one."""

    stretches: list[Stretch]
    examples: list[int]
    """Examples, in the order of their targets."""

    @property
    def tokens(self) -> int:
        return sum(stretch.end - stretch.start for stretch in self.stretches)


def most_tokens(recipe: Recipe) -> int:
    """Return the maximum tokens of a pass with shared prefixes, a tenth less than with packed rows.

    The keys and values of a prefix are gathered again for each of its bundles, at most once more per token:
    about a tenth of what a block keeps per token if each head has its own.
    """
    return max(1, batches.most_tokens(recipe) * 9 // 10)


def split(
    examples: Sequence[int], data: Sequence[Rendered], most_tokens: int, world: int
) -> list[PrefixTree]:
    """Divide a step's examples into passes of at most ``most_tokens``, as many for each of ``world`` ranks.

    A pass may be empty, so that no rank waits forever.
    """
    order = sorted(examples, key=lambda e: (data[e].ids, e))
    common = [0, *(common_tokens(data[a], data[b]) for a, b in zip(order, order[1:], strict=False))]
    trees = _fill(order, common, data, most_tokens)
    count = math.ceil(len(trees) / world) * world
    if count > 1:  # as evenly as possible, as memory grows with the largest pass and ranks wait for it
        limit = sum(tree.tokens for tree in trees) / count
        while len(trees := _fill(order, common, data, limit)) > count:
            limit = min(most_tokens, 1.1 * limit)
    return trees + [PrefixTree([], [])] * (count - len(trees))


def _fill(
    order: Sequence[int], common: Sequence[int], data: Sequence[Rendered], most_tokens: float
) -> list[PrefixTree]:
    """Group sorted examples into trees of at most ``most_tokens``, or of a single longer example."""
    trees, first = [], 0
    while first < len(order):
        found = _tree(order[first : first + 1], common[first:], data)
        size = more = 1
        while more:  # growing strides while they fit, then shrinking ones
            last = first + size + more
            tree = _tree(order[first:last], common[first:last], data)
            if last <= len(order) and tree.tokens <= most_tokens:
                found, size, more = tree, size + more, 2 * more
            else:
                more //= 2
        trees.append(found)
        first += size
    return trees


def lay(tree: PrefixTree, data: Sequence[Rendered]) -> MicroBatch:
    """Return a tree as one row, each tensor (1, tokens); an empty tree is one token without a target."""
    if not tree.stretches:
        filler = torch.zeros(1, 1, dtype=torch.long)
        return MicroBatch(filler, filler, torch.full((1, 1), IGNORE))
    ids, positions, targets = [], [], []
    for example, start, end in tree.stretches:
        tokens = torch.tensor(data[example].ids[start : end + 1])
        learned = torch.tensor(data[example].mask[start : end + 1], dtype=torch.bool)
        ids.append(tokens[: end - start])
        positions.append(torch.arange(start, end))
        targets.append(torch.full((end - start,), IGNORE))
        targets[-1][: len(tokens) - 1] = torch.where(learned[1:], tokens[1:], IGNORE)
    return MicroBatch(*(torch.cat(parts)[None] for parts in (ids, positions, targets)))


def common_tokens(one: Rendered, other: Rendered) -> int:
    """Count the common first tokens that are not learned in either example."""
    most = min(_without_target(one), _without_target(other))
    if one.ids[:most] == other.ids[:most]:
        return most
    return next(place for place in range(most) if one.ids[place] != other.ids[place])


def _without_target(rendered: Rendered) -> int:
    """Count the tokens from the start without a target; always fewer than there are."""
    return rendered.mask.index(1, 1) - 1 if 1 in rendered.mask[1:] else len(rendered.ids) - 1


def _tree(order: Sequence[int], common: Sequence[int], data: Sequence[Rendered]) -> PrefixTree:
    """Return the tree of sorted examples; ``common`` has the tokens each shares with the one before."""
    stretches = []
    waiting = [(0, len(order), 0)] if order else []
    while waiting:
        first, last, depth = waiting.pop()
        if last - first == 1:
            stretches.append(Stretch(order[first], depth, len(data[order[first]].ids)))
            continue
        shared = min(common[first + 1 : last])
        if shared - depth >= SHORTEST:
            stretches.append(Stretch(order[first], depth, shared))
            depth = shared
        cuts = [i for i in range(first + 1, last) if common[i] - depth < SHORTEST]
        bounds = [first, *cuts, last]
        waiting += [(a, b, depth) for a, b in zip(bounds, bounds[1:], strict=False)][::-1]
    return PrefixTree(stretches, list(order))
