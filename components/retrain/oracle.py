"""Find the cheapest retrainings in retrospect by dynamic programming, to compare policies with."""

import numpy as np
from numpy.typing import NDArray

Losses = NDArray[np.float64]
"""(windows, windows): ``[r, t]`` is the cost of window t with a model trained just before window r <= t."""


def optimum(losses: Losses, cost: float) -> tuple[float, list[int]]:
    """Return (lowest total, windows before which to retrain); the model of window 0 is free.

    Exact in O(windows squared): the best continuation after a model starts at window r does not depend on
    what was before r.
    """
    windows = len(losses)
    least = np.zeros(windows + 1)  # least[r]: from window r on, with a model trained just before it
    end = [windows] * windows
    for start in range(windows - 1, -1, -1):
        served = np.cumsum(losses[start, start:])  # until window start + 1, start + 2, ... windows
        again = cost + least[start + 1 : windows + 1]
        again[-1] = 0.0
        choice = int(np.argmin(served + again))
        least[start], end[start] = served[choice] + again[choice], start + 1 + choice
    plan = []
    start = end[0] if windows else 0
    while start < windows:
        plan.append(start)
        start = end[start]
    return float(least[0]), plan


def total(losses: Losses, cost: float, plan: list[int]) -> float:
    """Add up the windows' costs when the model is retrained before each window of ``plan`` (ascending)."""
    bounds = [0, *plan, len(losses)]
    served = sum(losses[a, a:b].sum() for a, b in zip(bounds, bounds[1:], strict=False))
    return float(served) + cost * len(plan)
