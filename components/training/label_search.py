"""Search the tree of a classification's labels for the likeliest one, whatever computes the logits.

The tokens of the labels after a prompt form a tree: each stretch that labels share is one branch of it. The
nats of a label are at least those of its first tokens, so branches are computed best first, and the first
label that is whole is the likeliest: what begins unlikely is never computed.
"""

import heapq
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import NamedTuple

ROUND_TOKENS = 8
"""Tokens of labels computed together, or one stretch of each prompt. 30 questions of banking77 on SmolLM2:
806 tokens with 1 and 8 (5.0 and 4.7 CPU s), 850 with 32 (5.2), as more was computed in vain."""


class LabelStretch(NamedTuple):
    """Tokens ``start`` to ``end`` of its ``labels``, which share them; the first one stands for the prompt.

    A stretch ends where its labels part, or before the last token, after which nothing is read.
    """

    parent: int
    """Number of the stretch that it continues; -1 for the prompt."""
    start: int
    end: int
    labels: tuple[int, ...]


class LabelSearch:
    """The search for one prompt: ``tails`` are the tokens of each label after it."""

    def __init__(self, tails: Sequence[Sequence[int]]) -> None:
        self._tails = tails
        self.stretches = [LabelStretch(-1, 0, 0, tuple(range(len(tails))))]
        self._nats = [0.0]
        """By stretch, up to its first token."""
        self._open = [(0.0, 0)]

    @property
    def decided(self) -> bool:
        """Tell whether the likeliest label is known."""
        return bool(self._open) and self._is_whole(self._open[0][1])

    def due(self, room: int) -> list[int]:
        """Return the stretches to compute next, of at most ``room`` tokens or a single one."""
        found: list[int] = []
        while self._open and not self._is_whole(self._open[0][1]):
            room -= len(self.tokens(self._open[0][1]))
            if found and room < 0:
                break
            found.append(heapq.heappop(self._open)[1])
        return found

    def tokens(self, number: int) -> Sequence[int]:
        """Return the tokens of a stretch; none for the prompt."""
        stretch = self.stretches[number]
        return self._tails[stretch.labels[0]][stretch.start : stretch.end]

    def read_at(self, number: int) -> list[tuple[int, int]]:
        """Return what to read of a stretch, as (index of its token, a token that follows it).

        The index is -1 for what follows its last token, or the prompt's.
        """
        tokens = self.tokens(number)
        inside = [(place, token) for place, token in enumerate(tokens[1:])]
        return inside + [(-1, token) for token in self._parting(number) if token is not None]

    def read(self, number: int, nats: Sequence[float]) -> None:
        """Take the nats of what ``read_at`` returned, in its order, and open the branches that follow."""
        said, end = iter(nats), self.stretches[number].end
        so_far = self._nats[number] + sum(next(said) for _ in self.tokens(number)[1:])
        for token, labels in self._parting(number).items():
            self._nats.append(so_far + (0.0 if token is None else next(said)))
            heapq.heappush(self._open, (self._nats[-1], len(self.stretches)))
            self.stretches.append(LabelStretch(number, end, self._end(end, labels), tuple(labels)))

    def take(self) -> tuple[int, float]:
        """Return (the likeliest label, its nats), once decided, and go on to the next."""
        nats, number = heapq.heappop(self._open)
        return self.stretches[number].labels[0], nats

    def _is_whole(self, number: int) -> bool:
        """Tell whether nothing is left to compute of the labels of a stretch."""
        return number > 0 and not self.tokens(number)

    def _parting(self, number: int) -> dict[int | None, list[int]]:
        """Return the labels of a stretch by the token that follows it; None: it ends with the stretch."""
        stretch, found = self.stretches[number], dict[int | None, list[int]]()
        for label in stretch.labels:
            tail = self._tails[label]
            found.setdefault(tail[stretch.end] if stretch.end < len(tail) else None, []).append(label)
        return found

    def _end(self, start: int, labels: Sequence[int]) -> int:
        """Return where the stretch of ``labels`` that begins at ``start`` ends."""
        tails = [self._tails[label] for label in labels]
        shared = takewhile(lambda said: len(set(said)) == 1, zip(*tails, strict=False))
        end = len(list(shared))
        return max(start, end - 1) if end == max(map(len, tails)) else end


Compute = Callable[[Sequence[tuple[int, int]]], Sequence[Sequence[float]]]
"""Compute stretches, given as (number of the search, of the stretch); return the nats that each reads."""


def decide(searches: Sequence[LabelSearch], compute: Compute) -> list[tuple[int, float]]:
    """Return (likeliest label, its nats) of each search, computing stretches of all of them together."""
    while undecided := [number for number, search in enumerate(searches) if not search.decided]:
        room = ROUND_TOKENS // len(undecided)
        due = [(number, stretch) for number in undecided for stretch in searches[number].due(room)]
        for (number, stretch), nats in zip(due, compute(due), strict=True):
            searches[number].read(stretch, nats)
    return [search.take() for search in searches]


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Count the first tokens that all prompts have in common; at least one token of each is left."""
    ordered, most = sorted(map(tuple, prompts)), min(map(len, prompts)) - 1
    low, high = ordered[0], ordered[-1]
    return next((place for place in range(most) if low[place] != high[place]), most)
