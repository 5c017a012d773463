"""Measure the difficulty of an Example by its text; higher is harder."""

import math
import zlib
from collections.abc import Sequence

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example

MTLD_RATIO = 0.72
"""Share of distinct words at which a stretch of text ends (McCarthy & Jarvis 2010)."""


def said(example: Example) -> str:
    """Join all turns of an Example into one text."""
    return " ".join(message.content for message in example.messages)


def compression(text: str) -> float:
    """Return compressed / plain bytes (zlib): repetitive text is easy. In short texts headers matter."""
    raw = text.encode("utf-8", "surrogatepass")
    return len(zlib.compress(raw, 9)) / max(1, len(raw))


def diversity(text: str) -> float:
    """Return MTLD: mean words of stretches with a share of distinct words above MTLD_RATIO, both ways.

    The last, incomplete stretch counts in part; a text without repetition counts as its number of words.
    """
    words = text.casefold().split()
    return (_stretch(words) + _stretch(words[::-1])) / 2


def given(records: Sequence[Example]) -> list[float]:
    """Return the difficulty stored in each Example.

    Raises:
        DataError: an Example has no difficulty, or one that is not finite.
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
