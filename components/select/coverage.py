"""Coverage: choose examples that together are near all others (facility location, lazy greedy)."""

import heapq
from collections.abc import Sequence

import numpy as np

from deepcuts.components.select.representations import Vectors

WITNESSES = 4096
"""Maximum examples to cover; of more, a sample is drawn, so that a pick costs witnesses x width."""
BLOCK = 1024


def coverage(unit: Vectors, lengths: Sequence[int], budget_tokens: int, seed: int) -> list[int]:
    """Order all rows, best first: each adds the most coverage per token to the previous ones (Minoux 1978).

    Coverage is the sum over witnesses of their best cosine to a picked row, at least 0. Rows beyond the
    budget follow in the order of their last known gain.
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
        if queue and -gain > queue[0][0]:  # gains can only shrink, so check again later
            heapq.heappush(queue, (-gain, row))
            continue
        covered = now
        picked.append(row)
        spent += lengths[row]
    return picked + [row for _, row in sorted(queue)]
