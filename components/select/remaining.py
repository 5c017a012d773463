"""State of a selection that any engine shares: remaining rows, dropped ones with reasons, and costs."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from deepcuts.components.core.examples import Example
from deepcuts.components.core.receipts import Facts
from deepcuts.components.select import budget
from deepcuts.components.select.duplicates import Match
from deepcuts.components.select.report import REASONS, Dropped, excerpt


class Excerpt(NamedTuple):
    """What the report shows of an Example."""

    id: str
    text: str


class Drop(NamedTuple):
    """A row that was not kept."""

    row: int
    reason: str
    match: Match | None
    """What it duplicates or leaks; None if the budget left it out."""


class Remaining:
    """Rows in the order of preference, of which ``rows`` remain.

    Held by the process that selects: a few hundred bytes per row, whatever the length of its text.
    """

    def __init__(self, lengths: Sequence[int], labels: Sequence[str | None]) -> None:
        self.lengths, self.labels = lengths, labels
        self.rows = list(range(len(lengths)))
        self.drops: list[Drop] = []
        self.seconds: Facts = {}

    def drop(self, reason: str, found: Sequence[Match]) -> list[int]:
        """Drop ``found``, whose rows number all rows; return the positions left in ``rows``."""
        self.drops += [Drop(match.row, reason, match) for match in found]
        gone = {match.row for match in found}
        stay = [place for place, row in enumerate(self.rows) if row not in gone]
        self.rows = [self.rows[place] for place in stay]
        return stay

    def spend(self, budget_tokens: int, order: Callable[[], list[int]]) -> None:
        """Keep rows in ``order`` up to the budget; ``order`` is not called when everything fits.

        ``order`` gives positions in ``rows``.
        """
        lengths = [self.lengths[row] for row in self.rows]
        if sum(lengths) <= budget_tokens:
            return
        if budget_tokens < min(lengths):
            raise ValueError(
                f"budget_tokens {budget_tokens} is below the {min(lengths)} tokens of the shortest example: "
                "raise it"
            )
        ranking = order()
        with self.timed("choose_seconds"):
            labels = [self.labels[row] for row in self.rows]
            kept = budget.fill(ranking, lengths, labels, budget_tokens)
            gone = sorted(set(range(len(self.rows))) - set(kept))
            self.drops += [Drop(self.rows[place], "budget", None) for place in gone]
            self.rows = [self.rows[place] for place in kept]

    def named(self) -> set[int]:
        """Return the rows that ``cases`` names: dropped ones, and those kept in their place."""
        pairs = (drop.match for drop in self.drops if drop.match and drop.reason != "leak")
        return {drop.row for drop in self.drops} | {match.of for match in pairs}

    def cases(self, shown: Mapping[int, Excerpt], held: Sequence[Example]) -> list[Dropped]:
        """Return the dropped rows for the report; a leak's ``of`` is an index into ``held``."""
        return [self._case(drop, shown, held) for drop in self.drops]

    def facts(self) -> Facts:
        """Return the selection as facts of the receipt."""
        counts = {f"dropped_{reason}": 0 for reason in REASONS}
        for drop in self.drops:
            counts[f"dropped_{drop.reason}"] += 1
        left = {self.labels[row] for row in self.rows}
        return {
            "examples": len(self.lengths),
            "corpus_tokens": sum(self.lengths),
            "kept": len(self.rows),
            "tokens": sum(self.lengths[row] for row in self.rows),
            **counts,
            "labels_lost": len(set(self.labels) - left),
            **self.seconds,
        }

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the body's wall time to the fact ``name``."""
        began = time.monotonic()
        yield
        self.seconds[name] = round(float(self.seconds.get(name) or 0) + time.monotonic() - began, 3)

    def _case(self, drop: Drop, shown: Mapping[int, Excerpt], held: Sequence[Example]) -> Dropped:
        own, tokens = shown[drop.row], self.lengths[drop.row]
        if drop.match is None:
            return Dropped(own.id, drop.reason, tokens, own.text)
        of = show(held[drop.match.of]) if drop.reason == "leak" else shown[drop.match.of]
        similarity = round(drop.match.similarity, 4)
        return Dropped(own.id, drop.reason, tokens, own.text, of.id, of.text, similarity)


def show(example: Example) -> Excerpt:
    """Return what the report shows of ``example``."""
    return Excerpt(example.id, excerpt(example))
