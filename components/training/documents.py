"""Locate the examples of a micro-batch, packed in rows or in a tree, from its positions.

Positions restart at 0 with each example. If they go back to another number n, the example shares the first n
tokens with earlier ones: it continues from the latest tokens at those positions (``prefixes.py``). So the
positions alone determine what attends to what.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

GROUP_WASTE = 1.15
"""In a group, the longest example is at most this many times the shortest."""


class Group(NamedTuple):
    """Examples of similar lengths, processed together by attention: token indices in the flattened batch."""

    queries: Tensor
    """(examples, longest); short ones repeat their last token."""
    keys: Tensor
    """The same tensor, or (bundles, prefix + longest) if the queries continue a prefix."""
    mask: Tensor | None
    """(bundles, 1, queries, keys): the keys each query sees; None: causal."""


@dataclass(frozen=True, eq=False)
class Documents:
    """Positions of the examples of a (B, T) micro-batch, flattened to B * T tokens.

    Not a tuple: torch.compile looks into tuples and would recompile for each layout.
    """

    groups: tuple[Group, ...]
    places: Tensor
    """(B * T,): index of each token's output in the concatenated outputs of the groups."""
    positions: Tensor
    """(B * T,)"""


class Bundle(NamedTuple):
    """Branches of one prefix that attend to it together, so that its keys are gathered once."""

    prefix: Tensor
    """Token indices, first to last."""
    own: Tensor
    """Token indices of the branches, concatenated."""


def find_documents(positions: Tensor) -> Documents:
    """Find the documents of a micro-batch from its positions (B, T)."""
    flat = positions.flatten().cpu()
    starts, lengths = _runs(flat)
    whole = flat[starts] == 0
    groups = [Group(tokens, tokens, None) for tokens in _alike(starts[whole], lengths[whole])]
    places, offset = torch.empty(len(flat), dtype=torch.long), 0
    groups += list(_branch_groups(flat, starts, lengths))
    for group in groups:
        fresh = torch.ones_like(group.queries, dtype=torch.bool)
        fresh[:, 1:] = group.queries[:, 1:] != group.queries[:, :-1]
        places[group.queries[fresh]] = offset + fresh.flatten().nonzero()[:, 0]
        offset += fresh.numel()
    device = positions.device
    moved = [_moved(group, device) for group in groups]
    return Documents(tuple(moved), places.to(device), flat.to(device))


def examples_of(positions: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Yield each example's token indices, first to last, and how many of them are a shared prefix."""
    flat = positions.flatten().cpu()
    latest = torch.zeros(int(flat.max()) + 1, dtype=torch.long)
    for start, length in zip(*(found.tolist() for found in _runs(flat)), strict=True):
        shared = int(flat[start])
        latest[shared : shared + length] = torch.arange(start, start + length)
        yield latest[: shared + length].clone(), shared


def _runs(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Return where positions do not increase by one, and the number of tokens up to the next such place."""
    goes_on = torch.zeros(len(flat), dtype=torch.bool)
    goes_on[1:] = flat[1:] == flat[:-1] + 1
    starts = (~goes_on).nonzero()[:, 0]
    return starts, torch.diff(starts, append=torch.tensor([len(flat)]))


def _alike(starts: Tensor, lengths: Tensor) -> Iterator[Tensor]:
    """Yield the token indices (examples, longest) of runs of similar lengths, longest first."""
    order, first = torch.argsort(lengths, descending=True, stable=True), 0
    while first < len(order):
        longest = int(lengths[order[first]])
        last = first + int((lengths[order[first:]] * GROUP_WASTE >= longest).sum())
        members = order[first:last]
        yield starts[members, None] + torch.minimum(torch.arange(longest), lengths[members, None] - 1)
        first = last


def _branch_groups(flat: Tensor, starts: Tensor, lengths: Tensor) -> Iterator[Group]:
    """Yield groups of bundles with equally long prefixes and branches of similar lengths."""
    bundles = sorted(_bundles(flat, starts), key=lambda one: (-len(one.prefix), -len(one.own)))
    run = torch.repeat_interleave(torch.arange(len(starts)), lengths)
    first = 0
    while first < len(bundles):
        shared, longest = len(bundles[first].prefix), len(bundles[first].own)
        group = []
        for bundle in bundles[first:]:
            if len(bundle.prefix) != shared or (shared + len(bundle.own)) * GROUP_WASTE < shared + longest:
                break
            group.append(bundle)
        first += len(group)
        counts = torch.tensor([len(bundle.own) for bundle in group])
        columns = torch.arange(longest)
        own = torch.stack([bundle.own[columns.clamp(max=len(bundle.own) - 1)] for bundle in group])
        keys = torch.cat([torch.stack([bundle.prefix for bundle in group]), own], dim=1)
        seen = (run[own][:, :, None] == run[own][:, None, :]) & (
            flat[own][:, None, :] <= flat[own][:, :, None]
        )
        seen &= (columns < counts[:, None])[:, None, :]  # a repeated token counts once
        mask = torch.cat([torch.ones(len(group), longest, shared, dtype=torch.bool), seen], dim=2)
        yield Group(own, keys, mask[:, None])


def _bundles(flat: Tensor, starts: Tensor) -> Iterator[Bundle]:
    """Yield the branches of each prefix, bundled while they are together no longer than the prefix.

    This gathers at most twice as many keys as there are computed tokens, and compares a query with at most
    twice as many keys as it sees.
    """
    if not bool(flat[starts].any()):
        return
    branches: dict[int, tuple[Tensor, list[Tensor]]] = {}
    for tokens, shared in examples_of(flat):
        if shared:  # its last token identifies a prefix
            branches.setdefault(int(tokens[shared - 1]), (tokens[:shared], []))[1].append(tokens[shared:])
    for prefix, owns in branches.values():
        bundle: list[Tensor] = []
        for own in sorted(owns, key=len, reverse=True):
            if bundle and sum(map(len, bundle)) + len(own) > len(prefix):
                yield Bundle(prefix, torch.cat(bundle))
                bundle = []
            bundle.append(own)
        yield Bundle(prefix, torch.cat(bundle))


def _moved(group: Group, device: torch.device) -> Group:
    queries = group.queries.to(device)
    keys = queries if group.keys is group.queries else group.keys.to(device)
    return Group(queries, keys, None if group.mask is None else group.mask.to(device))
