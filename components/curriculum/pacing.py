"""Pacing: the share of the examples, easiest first, from which each phase draws."""

import math
import random
from collections.abc import Iterator, Sequence
from typing import Literal

Pacing = Literal["linear", "root", "step"]


def share(pacing: Pacing, phase: int, phases: int) -> float:
    """Return the share of easiest examples used in ``phase``; the last phase uses all (Wu et al. 2021).

    ``root`` opens early (Platanios et al. 2019); ``step`` uses half of the examples in half of the phases.
    """
    done = (phase + 1) / phases
    match pacing:
        case "linear":
            return done
        case "root":
            return math.sqrt(done)
        case "step":
            return 0.5 if done <= 0.5 else 1.0


def draw(
    easiest_first: Sequence[int],
    lengths: Sequence[int],
    pacing: Pacing,
    phases: int,
    budget_tokens: int,
    seed: int,
) -> list[tuple[int, int]]:
    """Draw (row, phase) in training order, until ``budget_tokens`` are reached.

    Each phase has an equal part of the tokens and draws at random from its examples, using all before
    repeating any. So easy ones are drawn more often: the number of tokens is fixed, not that of epochs.
    """
    rng = random.Random(seed)
    drawn: list[tuple[int, int]] = []
    tokens = 0
    for phase in range(phases):
        pool = easiest_first[: math.ceil(share(pacing, phase, phases) * len(easiest_first))]
        rows = _shuffled_for_ever(pool, rng)
        while tokens < budget_tokens * (phase + 1) / phases:
            row = next(rows)
            drawn.append((row, phase))
            tokens += lengths[row]
    return drawn


def _shuffled_for_ever(pool: Sequence[int], rng: random.Random) -> Iterator[int]:
    while True:
        yield from rng.sample(pool, len(pool))
