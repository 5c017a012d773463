"""Locate the examples of a micro-batch from its positions: those packed in a row, and those of a tree.

Positions restart at 0 with each example. Where they go back to another number, an example continues from the
tokens at the positions before it, the latest of each: it shares them with an example before
(``prefixes.py``). So the positions alone say what attends to what.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

GROUP_WASTE = 1.15
"""Examples share a group while the longest is at most this many times the shortest."""


class Group(NamedTuple):
    """Examples of like lengths, which attention takes together: token numbers in the flattened batch."""

    queries: Tensor
    """(examples, longest); short ones repeat their last token."""
    keys: Tensor
    """The same tensor, or (bundles, prefix and longest) where the queries go on from a prefix."""
    mask: Tensor | None
    """(bundles, 1, queries, keys) of what a query sees; None: causal."""


@dataclass(frozen=True, eq=False)
class Documents:
    """Where the examples of a (B, T) micro-batch lie, flattened to B * T tokens.

    No tuple: torch.compile looks into those, and would recompile for each layout.
    """

    groups: tuple[Group, ...]
    places: Tensor
    """(B * T,): where each token's output stands among the groups' outputs laid end to end."""
    positions: Tensor
    """(B * T,)"""


class Bundle(NamedTuple):
    """Branches of one prefix, which attend to it together: its keys are gathered once for all of them."""

    prefix: Tensor
    """Token numbers, first to last."""
    own: Tensor
    """Token numbers of the branches, one behind the other."""


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
    """Yield the token numbers of each example, first to last, and how many of them are a shared prefix."""
    flat = positions.flatten().cpu()
    latest = torch.zeros(int(flat.max()) + 1, dtype=torch.long)
    for start, length in zip(*(found.tolist() for found in _runs(flat)), strict=True):
        shared = int(flat[start])
        latest[shared : shared + length] = torch.arange(start, start + length)
        yield latest[: shared + length].clone(), shared


def _runs(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Return where positions do not go on by one, and the tokens up to the next such place."""
    goes_on = torch.zeros(len(flat), dtype=torch.bool)
    goes_on[1:] = flat[1:] == flat[:-1] + 1
    starts = (~goes_on).nonzero()[:, 0]
    return starts, torch.diff(starts, append=torch.tensor([len(flat)]))


def _alike(starts: Tensor, lengths: Tensor) -> Iterator[Tensor]:
    """Yield the token numbers (examples, longest) of runs of like lengths, the longest first."""
    order, first = torch.argsort(lengths, descending=True, stable=True), 0
    while first < len(order):
        longest = int(lengths[order[first]])
        last = first + int((lengths[order[first:]] * GROUP_WASTE >= longest).sum())
        members = order[first:last]
        yield starts[members, None] + torch.minimum(torch.arange(longest), lengths[members, None] - 1)
        first = last


def _branch_groups(flat: Tensor, starts: Tensor, lengths: Tensor) -> Iterator[Group]:
    """Yield groups of bundles: equally long prefixes, branches of like lengths together."""
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
        seen &= (columns < counts[:, None])[:, None, :]  # a repeated token is seen once
        mask = torch.cat([torch.ones(len(group), longest, shared, dtype=torch.bool), seen], dim=2)
        yield Group(own, keys, mask[:, None])


def _bundles(flat: Tensor, starts: Tensor) -> Iterator[Bundle]:
    """Yield the branches of each prefix, together while they are no longer than it is.

    So no more keys are gathered than twice the tokens that are computed, and no query is compared with more
    than twice what it sees.
    """
    if not bool(flat[starts].any()):
        return
    branches: dict[int, tuple[Tensor, list[Tensor]]] = {}
    for tokens, shared in examples_of(flat):
        if shared:  # its last token names a prefix
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
