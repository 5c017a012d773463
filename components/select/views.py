"""Represent texts as sets for Jaccard similarity: of shingles, which keep order, or of words, which do not.

A shingle is 5 bytes of the text, starting at every byte (padded with zeros), so one word changed in 200 bytes
leaves 0.9. A word is the text between spaces without surrounding punctuation: 3.5, -3 and don't stay
unchanged. In languages without spaces (Chinese, Japanese, Thai) a sentence is one word, and only shingles are
useful.
"""

import zlib
from collections.abc import Callable, Sequence, Set
from functools import cache
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5
OPENING, CLOSING = "\"'([{“‘„«¿¡「", ".,;:!?\"')]}”’»。、」"
"""Stripped before and after a word."""
MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd

Hashes = NDArray[np.uint64]


class View(NamedTuple):
    members: Callable[[str], Set[object]]
    """The set that represents a text."""
    hashes: Callable[[Sequence[str]], tuple[Hashes, Hashes]]
    """(hashes of all members, text by text; offset of each text, and the end)."""


def encode(text: str) -> bytes:
    """Encode as UTF-8, including lone surrogates, which JSON can hold."""
    return text.encode("utf-8", "surrogatepass")


def shingles(text: str) -> set[bytes]:
    """Return the overlapping byte strings of a text that near-duplicates share."""
    padded = encode(text) + b"\0" * (SHINGLE - 1)
    return {padded[i : i + SHINGLE] for i in range(len(padded) - SHINGLE + 1)}


def words(text: str) -> set[str]:
    """Return the distinct words of a text, without punctuation."""
    return {_bare(part) for part in text.split()} - {""}


def _shingle_hashes(texts: Sequence[str]) -> tuple[Hashes, Hashes]:
    encoded = [encode(text) for text in texts]
    gap = SHINGLE - 1
    lengths = np.array([len(text) for text in encoded], dtype=np.int64)
    data = np.frombuffer((b"\0" * gap).join(encoded) + b"\0" * gap, dtype=np.uint8)
    size = len(data) - gap
    hashes: Hashes = data[:size].astype(np.uint64)
    for shift in range(1, SHINGLE):
        hashes |= data[shift : size + shift].astype(np.uint64) << np.uint64(8 * shift)
    inside = np.ones(size, dtype=bool)
    ends = np.cumsum(lengths + gap) - gap
    for shift in range(gap):  # drop shingles that start in a gap; the last gap is cut off already
        inside[ends[:-1] + shift] = False
    return _spread(hashes[inside]), _offsets(lengths)


def _word_hashes(texts: Sequence[str]) -> tuple[Hashes, Hashes]:
    checksum = cache(_checksum)  # most words repeat: a fifth to a third faster
    rows = [list(filter(None, map(checksum, text.split()))) for text in texts]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    hashes = np.fromiter(chain.from_iterable(rows), dtype=np.uint64, count=int(lengths.sum()))
    return _spread(hashes), _offsets(lengths)


def _checksum(part: str) -> int:
    """Return the CRC-32 of a word, 0 if empty; ``hash`` would differ between processes."""
    return zlib.crc32(encode(_bare(part)))


def _bare(part: str) -> str:
    return part.lstrip(OPENING).rstrip(CLOSING)


def _offsets(lengths: NDArray[np.int64]) -> Hashes:
    offsets: Hashes = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)
    return offsets


def _spread(numbers: Hashes) -> Hashes:
    """Spread numbers over 64 bits; different ones stay different."""
    hashes = numbers * MIX
    hashes ^= hashes >> np.uint64(32)
    return hashes * MIX


SHINGLES = View(shingles, _shingle_hashes)
WORDS = View(words, _word_hashes)
