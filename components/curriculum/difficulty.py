"""Difficulty of an Example by its text; higher is harder."""

import math
import zlib
from collections.abc import Sequence

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example

MTLD_RATIO = 0.72
"""Where a stretch of text has used up its variety (McCarthy & Jarvis 2010)."""


def said(example: Example) -> str:
    """Join all turns of an Example into one text."""
    return " ".join(message.content for message in example.messages)


def compression(text: str) -> float:
    """Return compressed bytes over bytes (zlib): repetitive text is easy. Headers weigh in short texts."""
    raw = text.encode("utf-8", "surrogatepass")
    return len(zlib.compress(raw, 9)) / max(1, len(raw))


def diversity(text: str) -> float:
    """Return MTLD: mean length in words of stretches with distinct share above MTLD_RATIO, both ways.

    The last stretch counts by the part of the variety it used up; a text without repetition as its words.
    """
    words = text.casefold().split()
    return (_stretch(words) + _stretch(words[::-1])) / 2


def given(records: Sequence[Example]) -> list[float]:
    """Return the difficulty stored in each Example.

    Raises:
        DataError: one brings none, or one that is not finite.
    """
    found = []
    for record in records:
        if record.difficulty is None or not math.isfinite(record.difficulty):
            raise DataError(
                f"example {record.id!r} has difficulty {record.difficulty}: write a number into that "
                "field of every example, or choose another difficulty_signal"
            )
        found.append(record.difficulty)
    return found


def _stretch(words: Sequence[str]) -> float:
    stretches, seen, count = 0.0, set[str](), 0
    for word in words:
        seen.add(word)
        count += 1
        if len(seen) / count <= MTLD_RATIO:
            stretches, seen, count = stretches + 1, set(), 0
    if count:
        stretches += (1 - len(seen) / count) / (1 - MTLD_RATIO)
    return len(words) / stretches if stretches else float(len(words))
