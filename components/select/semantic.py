"""Find semantic near-duplicates: examples with nearly equal directions (SemDeDup, Abbas et al. 2023)."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from usearch.index import BatchMatches, Index

from deepcuts.components.select.duplicates import Match
from deepcuts.components.select.representations import Vectors

EXACT_ROWS = 100_000
"""Up to this many rows of one label all pairs are compared, beyond it those proposed by an index. At 20,000
rows all pairs took 1.0 CPU-seconds at width 64 and 3.8 at 768, the index 3.4 and 36; they are about equal at
70,000 and 190,000 rows."""
CHUNK = 1024
"""Rows compared at a time: 1024 x 100,000 similarities are 400 MB."""
NEIGHBOURS = 16
"""Nearest rows that the index proposes."""

Rows = NDArray[np.int64]


def semantic_duplicates(unit: Vectors, labels: Sequence[str | None], threshold: float) -> list[Match]:
    """Find rows with a cosine of at least ``threshold`` to an earlier kept row of the same label.

    Up to EXACT_ROWS of a label none is missed. Beyond, an HNSW graph (Malkov and Yashunin 2018) proposes
    pairs and may miss some, but none is wrong, as the cosine decides.
    """
    groups: dict[str | None, list[int]] = {}
    for row, label in enumerate(labels):
        groups.setdefault(label, []).append(row)
    within = (np.array(rows, dtype=np.int64) for rows in groups.values())
    return [
        match
        for rows in within
        for match in (_within if len(rows) <= EXACT_ROWS else _nearby)(unit, rows, threshold)
    ]


def _within(unit: Vectors, rows: Rows, threshold: float) -> list[Match]:
    """Compare all pairs: rows x kept rows x width multiplications."""
    found = []
    stay = np.empty(0, dtype=np.int64)
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        if len(stay):
            similar = unit[chunk] @ unit[stay].T
            nearest = similar.argmax(1)
            best = similar[np.arange(len(chunk)), nearest]
            found += [
                Match(int(row), int(stay[of]), float(cosine))
                for row, of, cosine in zip(chunk, nearest, best, strict=True)
                if cosine >= threshold
            ]
            chunk = chunk[best < threshold]
        similar = unit[chunk] @ unit[chunk].T
        fresh: list[int] = []
        for place, row in enumerate(chunk):
            near = [other for other in fresh if similar[place, other] >= threshold]
            if near:
                found.append(Match(int(row), int(chunk[near[0]]), float(similar[place, near[0]])))
            else:
                fresh.append(place)
        stay = np.concatenate([stay, chunk[fresh]])
    return found


def _nearby(unit: Vectors, rows: Rows, threshold: float) -> list[Match]:
    """Compare only pairs proposed by the index; a kept row also represents rows near its duplicates."""
    stays: dict[int, Match] = {}
    for row, near in _neighbours(unit, rows):
        for earlier in near:
            of = stays[earlier].of if earlier in stays else earlier
            cosine = float(unit[row] @ unit[of])
            if cosine >= threshold:
                stays[row] = Match(row, of, cosine)
                break
    return list(stays.values())


def _neighbours(unit: Vectors, rows: Rows) -> Iterator[tuple[int, list[int]]]:
    """Yield each row with the nearest rows before it, nearest first."""
    index = Index(ndim=unit.shape[1], metric="ip", dtype="f32")
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        index.add(chunk, unit[chunk], threads=1)  # one thread, for the same graph and cut each time
        matches = index.search(unit[chunk], NEIGHBOURS)
        assert isinstance(matches, BatchMatches)  # for a matrix
        for row, near, count in zip(chunk.tolist(), matches.keys.tolist(), matches.counts, strict=True):
            yield row, [other for other in near[:count] if other < row]
