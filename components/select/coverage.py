"""Coverage: examples that together are near all others (facility location, lazy greedy)."""

import heapq
from collections.abc import Sequence

import numpy as np

from deepcuts.components.select.representations import Vectors

WITNESSES = 4096
"""Examples that are to be covered, drawn where there are more: a pick costs witnesses x width then."""
BLOCK = 1024


def coverage(unit: Vectors, lengths: Sequence[int], budget_tokens: int, seed: int) -> list[int]:
    """Order all rows, best first: each adds the most cover per token, given those before (Minoux 1978).

    The cover is the sum over witnesses of their best cosine to a picked row, 0 at least. Rows that the budget
    does not reach follow in the order of what they last promised.
    """
    witnesses = unit
    if len(unit) > WITNESSES:
        witnesses = unit[np.random.default_rng(seed).choice(len(unit), WITNESSES, replace=False)]
    covered = np.zeros(len(witnesses), dtype=np.float32)
    promised = np.concatenate(
        [
            np.maximum(unit[start : start + BLOCK] @ witnesses.T, 0).sum(1)
            for start in range(0, len(unit), BLOCK)
        ]
    ) / np.array(lengths)
    queue = [(-gain, row) for row, gain in enumerate(promised.tolist())]
    heapq.heapify(queue)
    picked: list[int] = []
    spent = 0
    while queue and spent < budget_tokens:
        _, row = heapq.heappop(queue)
        now = np.maximum(covered, witnesses @ unit[row])
        gain = float((now - covered).sum()) / lengths[row]
        if queue and -gain > queue[0][0]:  # what was promised can only have shrunk: look again later
            heapq.heappush(queue, (-gain, row))
            continue
        covered = now
        picked.append(row)
        spent += lengths[row]
    return picked + [row for _, row in sorted(queue)]
