"""Find near-duplicates: MinHash LSH finds candidates, exact Jaccard similarity decides.

Similarity is between the sets that a View makes from texts. No row is compared with all others, so time and
memory grow with the rows and their candidates.
Source: Broder 1997; Leskovec et al., Mining of Massive Datasets, 3.4.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import rensa
from numpy.typing import NDArray

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.progress import ProgressLog
from deepcuts.components.select.duplicates import Match
from deepcuts.components.select.views import MIX, SHINGLES, WORDS, Hashes, View

PERMUTATIONS = 64
"""An estimate's standard error is at most 0.5 / 8 = 0.0625; estimates only filter, they do not decide."""
SLACK = 0.2
"""Candidates whose estimate is this far below the threshold, 3.2 standard errors, are skipped."""
CHUNK_CHARACTERS = 2**20
"""Text hashed at a time: about 65 MB of shingles for ASCII, three times that for Chinese."""
MAX_OTHERS = 8
"""Maximum held-out rows of one bucket to compare a row with."""


class Bands(NamedTuple):
    """Division of a signature for LSH: rows with equal parts in any band are candidates."""

    bands: int
    rows: int
    false_positive_rate: float
    """Mean probability of being a candidate below the threshold; it costs only time, as Jaccard decides."""
    false_negative_rate: float
    """Mean probability of being missed at or above the threshold."""


class Sketch(NamedTuple):
    view: View
    texts: Sequence[str]
    signatures: NDArray[np.uint32]
    """(texts, PERMUTATIONS)"""

    def only(self, rows: Sequence[int]) -> "Sketch":
        return Sketch(self.view, [self.texts[row] for row in rows], self.signatures[rows])


def choose_bands(threshold: float) -> Bands:
    """Choose bands, weighing a missed pair like nine useless comparisons, over uniform similarity."""
    grid = np.linspace(0, 1, 1001)
    below = grid < threshold
    best: tuple[float, Bands] | None = None
    for rows in range(1, PERMUTATIONS + 1):
        bands = PERMUTATIONS // rows
        found = 1 - (1 - grid**rows) ** bands
        positive, negative = float(found[below].mean()), float(1 - found[~below].mean())
        cost = 0.1 * positive + 0.9 * negative
        if best is None or cost < best[0]:
            best = cost, Bands(bands, rows, positive, negative)
    assert best is not None
    return best[1]


def sketch(texts: Sequence[str], view: View) -> Sketch:
    """Compute the MinHash signature of each text under ``view``."""
    signatures = np.empty((len(texts), PERMUTATIONS), dtype=np.uint32)
    progress = ProgressLog(len(texts), "texts sketched", brief=True)
    for start, end in pairwise(_chunks(texts)):
        hashes, offsets = view.hashes(texts[start:end])
        digests = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, PERMUTATIONS, 0)
        signatures[start:end] = digests.to_rows()
        progress(end)
    return Sketch(view, texts, signatures)


def near_duplicates(rows: Sketch, labels: Sequence[str | None], threshold: float) -> list[Match]:
    """Find rows within ``threshold`` of an earlier kept row of the same label.

    Each is near the row kept in its place, not only near another dropped one.
    """
    groups = label_hashes(labels)
    pairs = _pairs_within(rows.signatures, groups, choose_bands(threshold))
    likely = estimate(rows.signatures[pairs[:, 0]], rows.signatures[pairs[:, 1]]) >= threshold - SLACK
    return settled(pairs[likely], rows.texts, rows.view, threshold)


def settled(
    pairs: NDArray[np.int64], texts: Sequence[str] | Mapping[int, str], view: View, threshold: float
) -> list[Match]:
    """Find among sorted ``pairs`` (row, earlier row) the rows within ``threshold`` of an earlier kept one.

    Rows that no chain of pairs connects do not affect each other.
    """
    stays: dict[int, Match] = {}
    progress = ProgressLog(len(pairs), "pairs compared", brief=True)
    for row, earlier in pairs.tolist():
        progress.add()
        if row in stays:
            continue
        of = stays[earlier].of if earlier in stays else earlier
        similarity = jaccard(texts[row], texts[of], view)
        if similarity >= threshold:
            stays[row] = Match(row, of, similarity)
    return list(stays.values())


def near_others(rows: Sketch, others: Sketch, threshold: float) -> list[Match]:
    """Find rows within ``threshold`` of one of ``others`` in the same view; ``of`` is an index into those."""
    found: dict[int, Match] = {}
    pairs = _pairs_between(rows.signatures, others.signatures, choose_bands(threshold))
    estimates = estimate(rows.signatures[pairs[:, 0]], others.signatures[pairs[:, 1]])
    for row, of in pairs[estimates >= threshold - SLACK].tolist():
        if row not in found:
            similarity = jaccard(rows.texts[row], others.texts[of], rows.view)
            if similarity >= threshold:
                found[row] = Match(row, of, similarity)
    return list(found.values())


def jaccard(a: str, b: str, view: View) -> float:
    """Return the Jaccard similarity of two texts; 0 if both are empty."""
    one, two = view.members(a), view.members(b)
    shared = len(one & two)
    return shared / max(1, len(one) + len(two) - shared)


def connected(pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (rows in ``pairs``, sorted; the first row that a chain of pairs connects each with)."""
    rows, places = np.unique(pairs, return_inverse=True)
    parents = list(range(len(rows)))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]  # halves the path
            place = parents[place]
        return place

    for one, other in places.reshape(-1, 2).tolist():
        first, second = sorted((root(one), root(other)))
        parents[second] = first
    return rows, rows[[root(place) for place in range(len(rows))]]


def searches(near_threshold: float, word_threshold: float) -> dict[str, tuple[View, float]]:
    """Return (view, threshold) of each search by reason: shingles, then words unless their threshold is 1."""
    found = {"near_duplicate": (SHINGLES, near_threshold)}
    if word_threshold < 1:
        found["reordered"] = (WORDS, word_threshold)
    return found


def nothing_left(near_threshold: float, word_threshold: float) -> DataError:
    """Return the error for a corpus of which every row is in ``valid`` or ``test``."""
    return DataError(
        "every example is in valid or test, or nearly: split the data again, or raise "
        f"near_threshold {near_threshold} or word_threshold {word_threshold}"
    )


def label_hashes(labels: Sequence[str | None]) -> Hashes:
    """Return a number per label; only rows with equal ones are compared."""
    return np.array([hash_label(label) for label in labels], dtype=np.uint64)


def hash_label(label: str | None) -> int:
    """Return a number for a label that is the same in every process, unlike ``hash``."""
    text = b"" if label is None else b"=" + label.encode()
    number = 0
    for byte in text:
        number = (number ^ byte) * 0x100000001B3 % 2**64  # FNV-1a
    return number


def _chunks(texts: Sequence[str]) -> Iterator[int]:
    """Yield where chunks of about CHUNK_CHARACTERS begin, and the end."""
    size = 0
    yield 0
    for row, text in enumerate(texts, start=1):
        size += len(text)
        if size >= CHUNK_CHARACTERS and row < len(texts):
            yield row
            size = 0
    if texts:
        yield len(texts)


def band_keys(signatures: NDArray[np.uint32], bands: Bands, groups: Hashes) -> Iterator[Hashes]:
    """Yield for each band the keys of all rows, equal for rows of one group with equal parts in it."""
    for band in range(bands.bands):
        keys = groups.copy()
        for column in range(band * bands.rows, (band + 1) * bands.rows):
            keys = (keys ^ signatures[:, column]) * MIX
            keys ^= keys >> np.uint64(29)
        yield keys


def _pairs_within(signatures: NDArray[np.uint32], groups: Hashes, bands: Bands) -> NDArray[np.int64]:
    """Return sorted (row, earlier row): each row with the first of its bucket and the one before it.

    Not with all of its bucket, which would be quadratic if one text occurs a thousand times.
    """
    found: Hashes = np.empty(0, dtype=np.uint64)
    rows = np.arange(len(signatures), dtype=np.uint64)
    for keys in band_keys(signatures, bands, groups):
        found = np.union1d(found, bucket_pairs(keys, rows))
    return unpack(found)


def bucket_pairs(keys: Hashes, rows: Hashes) -> Hashes:
    """Return the pairs of one band, packed as row * 2**32 + earlier row, from a key per row; rows ascend."""
    order = np.argsort(keys, kind="stable")  # equal keys keep the order of rows
    same = np.concatenate([[False], keys[order][1:] == keys[order][:-1]])[: len(keys)]
    heads = order[np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))]
    later = rows[order[same]] << np.uint64(32)
    before = rows[np.roll(order, 1)[same]]
    return np.concatenate([later | rows[heads[same]], later | before])


def _pairs_between(
    signatures: NDArray[np.uint32], others: NDArray[np.uint32], bands: Bands
) -> NDArray[np.int64]:
    """Return sorted (row, other): each row with the first MAX_OTHERS of its bucket."""
    found: Hashes = np.empty(0, dtype=np.uint64)
    ungrouped = [np.zeros(len(matrix), dtype=np.uint64) for matrix in (signatures, others)]
    for keys, theirs in zip(
        band_keys(signatures, bands, ungrouped[0]), band_keys(others, bands, ungrouped[1]), strict=True
    ):
        order = np.argsort(theirs, kind="stable")
        start, end = (np.searchsorted(theirs[order], keys, side=side) for side in ("left", "right"))
        for step in range(MAX_OTHERS):
            rows = np.flatnonzero(start + step < end)
            of = order[start[rows] + step]
            found = np.union1d(found, rows.astype(np.uint64) << np.uint64(32) | of.astype(np.uint64))
    return unpack(found)


def unpack(pairs: Hashes) -> NDArray[np.int64]:
    """Return (row, earlier row) of packed pairs."""
    return np.stack([pairs >> np.uint64(32), pairs & np.uint64(0xFFFFFFFF)], axis=1).astype(np.int64)


def estimate(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Estimate the Jaccard similarity of signatures, row by row."""
    return np.asarray((a == b).mean(axis=1), dtype=np.float64)
