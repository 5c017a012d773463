"""Target: choose examples similar to given ones (RDS+, Ivison et al. 2025)."""

import numpy as np

from deepcuts.components.select.representations import Vectors

MAX_SIMILARITIES = 2**27
"""Candidates x target examples: 1.6 GB with their order."""


def target(unit: Vectors, wanted: Vectors) -> list[int]:
    """Order all rows, best first: wanted rows take turns, each picks the most similar row left.

    Raises:
        ValueError: there are too many for memory.
    """
    if len(unit) * len(wanted) > MAX_SIMILARITIES:
        raise ValueError(
            f"{len(wanted)} target examples for {len(unit)} candidates: give at most "
            f"{MAX_SIMILARITIES // len(unit)} in valid"
        )
    favourites = np.argsort(-(wanted @ unit.T), axis=1, kind="stable")
    taken = np.zeros(len(unit), dtype=bool)
    position = [0] * len(wanted)
    order: list[int] = []
    while len(order) < len(unit):
        for turn, mine in enumerate(favourites):
            while position[turn] < len(mine) and taken[mine[position[turn]]]:
                position[turn] += 1
            if position[turn] < len(mine):
                row = int(mine[position[turn]])
                taken[row] = True
                order.append(row)
    return order
