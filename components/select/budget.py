"""Spend the budget: choose the rows to keep from rows in order of value."""

import hashlib
from collections.abc import Sequence


def fill(
    order: Sequence[int], lengths: Sequence[int], labels: Sequence[str | None], budget_tokens: int
) -> list[int]:
    """Return the rows kept, ascending: the best of each label first, then those that still fit, by ``order``.

    So no class is lost, unless the budget is too small for one example of each.
    """
    best: dict[str | None, int] = {}
    for row in order:
        best.setdefault(labels[row], row)
    firsts = set(best.values())
    kept, spent = [], 0
    for row in sorted(order, key=lambda row: row not in firsts):  # stable: else by order
        if spent + lengths[row] <= budget_tokens:
            kept.append(row)
            spent += lengths[row]
    return sorted(kept)


def shuffled(ids: Sequence[str], seed: int) -> list[int]:
    """Shuffle all rows by ids and seed, independently of the order in the file."""
    return sorted(range(len(ids)), key=lambda row: draw(ids[row], seed))


def draw(id: str, seed: int) -> bytes:
    """Return what ``shuffled`` sorts by."""
    return hashlib.sha256(f"{seed} {id}".encode()).digest()
