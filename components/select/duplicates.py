"""Find exact duplicates after normalisation, and decide which of two to keep."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from deepcuts.components.core import examples
from deepcuts.components.core.examples import Example


class Match(NamedTuple):
    """A row that is a duplicate of another."""

    row: int
    of: int
    """The row kept in its place."""
    similarity: float
    """Similarity by the search that found it; 1 for an exact copy."""


def text(example: Example) -> str:
    """Return the text to compare: all turns, normalised, without the answer if that is the label.

    Normalised by ``examples.plain``, as in ingest's comparison of splits. Tool calls are part of the text.
    """
    turns = example.messages if example.label is None else example.messages[:-1]
    return examples.plain(" ".join(examples.said(message) for message in turns))


def by_preference(records: Sequence[Example]) -> list[int]:
    """Sort rows so that of two duplicates the one to keep comes first: longer answer, then longer text.

    Ties are broken by a hash of the id, so the order in the file does not matter.
    """
    return sorted(range(len(records)), key=lambda row: preference(records[row]))


def exact(texts: Sequence[str], labels: Sequence[str | None]) -> list[Match]:
    """Find rows whose text and label occur in an earlier row."""
    first: dict[tuple[str, str | None], int] = {}
    rows = enumerate(zip(texts, labels, strict=True))
    return [Match(row, of, 1.0) for row, key in rows if (of := first.setdefault(key, row)) != row]


def conflicts(texts: Sequence[str], labels: Sequence[str | None]) -> int:
    """Count the texts that have more than one label."""
    pairs = set(zip(texts, labels, strict=True))
    return len(pairs) - len({said for said, _ in pairs})


def preference(example: Example) -> tuple[int, int, bytes]:
    """Return the sort key of ``by_preference``."""
    said = sum(len(message.content) for message in example.messages)
    return -len(examples.answer(example)), -said, hashlib.sha256(example.id.encode()).digest()
