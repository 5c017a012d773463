"""Semantic near-duplicates: examples whose directions point the same way (SemDeDup, Abbas et al. 2023)."""

from collections.abc import Sequence

import numpy as np

from components.select.duplicates import Match
from components.select.representations import Vectors

BLOCK = 1024
"""Rows compared at a time: 1024 x 100,000 similarities are 400 MB."""


def semantic_duplicates(unit: Vectors, labels: Sequence[str | None], threshold: float) -> list[Match]:
    """Rows with a cosine of at least ``threshold`` to an earlier row of the same label that stays.

    Exact, in blocks: rows x rows that stay x width multiplications within a label.
    """
    groups: dict[str | None, list[int]] = {}
    for row, label in enumerate(labels):
        groups.setdefault(label, []).append(row)
    return [match for rows in groups.values() for match in _within(unit, np.array(rows), threshold)]


def _within(unit: Vectors, rows: np.ndarray, threshold: float) -> list[Match]:
    found = []
    stay = np.empty(0, dtype=np.int64)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        if len(stay):
            similar = unit[block] @ unit[stay].T
            nearest = similar.argmax(1)
            best = similar[np.arange(len(block)), nearest]
            found += [
                Match(int(row), int(stay[of]), float(cosine))
                for row, of, cosine in zip(block, nearest, best, strict=True)
                if cosine >= threshold
            ]
            block = block[best < threshold]
        similar = unit[block] @ unit[block].T
        fresh: list[int] = []
        for place, row in enumerate(block):
            near = [other for other in fresh if similar[place, other] >= threshold]
            if near:
                found.append(Match(int(row), int(block[near[0]]), float(similar[place, near[0]])))
            else:
                fresh.append(place)
        stay = np.concatenate([stay, block[fresh]])
    return found
