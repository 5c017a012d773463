"""Policies that decide whether to retrain now, as pure functions of the costs of past windows.

They use only what is known before paying for a retraining: dollars lost in past windows, including the last
one, by the model that served them, and the price of a retraining.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import msgspec
import numpy as np
from river.drift import ADWIN, PageHinkley

from deepcuts.components.core.receipts import Facts
from deepcuts.components.retrain.oracle import total

Cycle = Sequence[float]
"""Dollars lost in each window since a retraining."""
Cycles = Sequence[Cycle]
"""Cycles, the current one last."""
Policy = Literal[
    "res",
    "cara-threshold",
    "cara-cumulative",
    "ski-rental",
    "ski-rental-random",
    "page-hinkley",
    "adwin",
    "periodic",
    "never",
    "always",
]
POLICIES: tuple[Policy, ...] = get_args(Policy)
SETTLE = 2
"""Windows after a retraining that show the cost of a fresh model; until then nothing counts as excess."""
FRESH_CYCLES = 4
"""Previous cycles whose fresh models count, as a retraining on too little new data may be poor."""
MIN_CREDIT = 0.1
"""Lower bound: however badly past retrainings did, a benefit of ten times the cost triggers the next one."""
TAUS = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Thresholds that CARA tries, in units of a retraining's cost."""


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings that do not come from the windows."""

    cost: float
    """Dollars of one retraining at today's prices; > 0."""
    period: int
    """Windows between two retrainings (``periodic``)."""
    horizon: int
    """Windows for which a new model is sure to serve (``res``)."""
    memory: int
    """Past windows by which ``res`` and CARA tune themselves."""
    seed: int
    """Seed of the threshold of ``ski-rental-random``, drawn again in each cycle."""


class Advice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A policy's decision after the last window."""

    policy: Policy
    retrain: bool
    why: str
    numbers: Facts


Rule = Callable[[Cycles, Terms], tuple[bool, str, Facts]]


def advise(policy: Policy, cycles: Cycles, terms: Terms) -> Advice:
    """Apply ``policy``; the current cycle has at least one window."""
    retrain, why, numbers = RULES[policy](cycles, terms)
    return Advice(policy, retrain, why, numbers)


def noise(cycles: Cycles) -> float:
    """Estimate a window's standard deviation without drift, from neighbours; 0 if there are few."""
    steps = [abs(b - a) for cycle in cycles for a, b in zip(cycle, cycle[1:], strict=False)]
    return float(np.median(steps)) / 0.6745 / math.sqrt(2) if len(steps) >= 3 else 0.0


def fresh(cycles: Cycles) -> float:
    """Return the cost of a window with a fresh model: in the current cycle, or before if that is lower."""
    own, *past = [float(np.mean(cycle[:SETTLE])) for cycle in reversed(cycles[-1 - FRESH_CYCLES :])]
    return min(own, float(np.mean(past))) if past else own


def next_fresh(cycles: Cycles) -> float:
    """Return the cost of a window with the next fresh model: ``fresh``, including the current cycle.

    A cycle that starts worse than earlier ones shows that a fresh model now costs more. Without that, ``res``
    took a useless retraining as a reason to retrain again: on 65 streams not used for any choice it was 5 %
    above the best period in 86 of 260 cases, with it in 74.
    """
    recent = [float(np.mean(cycle[:SETTLE])) for cycle in cycles[-1 - FRESH_CYCLES :]]
    return min(recent[-1], float(np.mean(recent)))


def excess(cycles: Cycles, least: float) -> list[float]:
    """Return the dollars of each window of the current cycle above ``least`` and noise; may be negative.

    A window counts at most as much as the one before it, as a spike of one window is not drift (a wiki page's
    traffic rose tenfold for a week, and retraining on it cost 46 % of the optimum).
    """
    cycle, bar = cycles[-1], least + noise(cycles)
    return [0.0 if age < SETTLE else min(cycle[age - 1 : age + 1]) - bar for age in range(len(cycle))]


def lost(steps: Sequence[float]) -> float:
    """Sum ``steps`` since the sum was last 0, as in a CUSUM: better windows pay back, down to 0."""
    found = 0.0
    for step in steps:
        found = max(0.0, found + step)
    return found


def credit(cycles: Cycles, memory: int) -> float:
    """Return the share of past retrainings' expected benefit that came true, 0.1 to 1; 1 without any.

    Expected is the loss before a retraining above fresh; the actual benefit is the loss before above after.
    """
    kept, promises, back = 1.0, 1, 0
    for number in range(len(cycles) - 1, 0, -1):
        back += len(cycles[number])
        before, after = cycles[number - 1], cycles[number]
        if back > memory:
            break
        promise = float(np.mean(before[-2:])) - next_fresh(cycles[:number])
        if len(before) > SETTLE and len(after) >= SETTLE and promise > 0:
            came = float(np.mean(before[-2:]) - np.mean(after[:SETTLE]))
            kept, promises = kept + min(1.0, max(0.0, came / promise)), promises + 1
    return max(MIN_CREDIT, kept / promises)


def res(cycles: Cycles, terms: Terms) -> tuple[bool, str, Facts]:
    """Apply the Retraining-Efficiency Score: benefit / (benefit + cost) >= lambda, benefit estimated first.

    The benefit is what the stale model has cost already (by itself, ski rental) or what it will cost over
    ``horizon``, whichever is larger. lambda is 1/2 if past retrainings brought their expected benefit, and
    1 / (1 + credit) if only that share: then benefit x credit >= cost.
    """
    above = excess(cycles, next_fresh(cycles))
    benefit = max(lost(above), above[-1] * terms.horizon, 0.0)
    score, least = benefit / (benefit + terms.cost), 1 / (1 + credit(cycles, terms.memory))
    numbers: Facts = {"benefit_usd": benefit, "score": score, "lambda": least, "excess_usd": above[-1]}
    why = (
        f"score {score:.3f} against lambda {least:.3f}: benefit ${benefit:,.4g}, cost ${terms.cost:,.4g}, "
        f"the last window ${above[-1]:,.4g} above a fresh model and noise"
    )
    return score >= least, why, numbers


def drift(cycles: Cycles) -> list[float]:
    """Return how far each window moved from the first, in dollars; drift adds up over retrainings."""
    path, moved = [], 0.0
    for number in range(1, len(cycles) + 1):
        steps = [moved + max(0.0, step) for step in excess(cycles[:number], fresh(cycles[:number]))]
        path += steps
        moved = max(moved, steps[-1]) if steps else moved
    return path


def replayed(path: Sequence[float], least: float, cost: float, cumulative: bool) -> float:
    """Replay ``path``: its cost above fresh when retraining at ``least`` dollars lost."""
    losses = np.maximum(0.0, np.subtract.outer(path, path).T)  # [r, t] is the drift from r to t
    start, gone, plan = 0, 0.0, []
    for window in range(len(path) - 1):
        gone = losses[start, window] + (gone if cumulative else 0.0)
        if gone >= least:
            start, gone = window + 1, 0.0
            plan.append(start)
    return total(losses, cost, plan)


def cara(cycles: Cycles, terms: Terms, cumulative: bool) -> tuple[bool, str, Facts]:
    """Apply cost-aware retraining (arXiv 2310.04216): staleness, of a window or summed, against a threshold.

    The threshold is the one that would have been cheapest over the last ``memory`` windows, replayed on their
    drift; of equal ones the highest, to avoid useless retrainings.
    """
    path = drift(cycles)[-terms.memory :]
    least = min(
        (tau * terms.cost for tau in reversed(TAUS)),
        key=lambda level: replayed(path, level, terms.cost, cumulative),
    )
    above = excess(cycles, fresh(cycles))
    stale = lost(above) if cumulative else max(0.0, above[-1])
    word = "all windows" if cumulative else "the last window"
    why = f"staleness of {word} ${stale:,.4g} against ${least:,.4g}, cheapest over {len(path)} windows"
    return stale >= least, why, {"stale_usd": stale, "threshold_usd": least}


def ski_rental(cycles: Cycles, terms: Terms, share: float, bound: float) -> tuple[bool, str, Facts]:
    """Retrain once the loss above fresh since the last retraining has reached ``share`` of a retraining.

    A cycle's loss and retraining cost at most ``bound`` times the cheapest in retrospect, if retraining
    removes the loss: 2 for share 1, e/(e-1) expected for a share drawn with density e^z/(e-1) (Karlin et al.
    1994). Noise is not subtracted, so that the bound holds for what was measured.
    """
    cycle, least = cycles[-1], fresh(cycles)
    rent = sum(max(0.0, loss - least) for loss in cycle[SETTLE:])
    why = (
        f"lost ${rent:,.4g} since the last retraining against {share:.3f} of its ${terms.cost:,.4g}: "
        f"at most {bound:.3f} times the cheapest in retrospect"
    )
    return rent >= share * terms.cost, why, {"rent_usd": rent, "share": share, "bound": bound}


def drawn_share(seed: int, cycle: int) -> float:
    """Draw from (0, 1) with density e^z / (e - 1), once per cycle."""
    return math.log1p(random.Random(f"{seed}/{cycle}").random() * (math.e - 1))


def detected(detector: PageHinkley | ADWIN, values: Sequence[float]) -> bool:
    """Tell whether ``detector`` found a change to higher ``values``."""
    for number, value in enumerate(values):
        detector.update(value)  # type: ignore[no-untyped-call]
        if detector.drift_detected and value > np.mean(values[: number + 1]):
            return True
    return False


def page_hinkley(cycles: Cycles, terms: Terms) -> tuple[bool, str, Facts]:
    """Run Page-Hinkley in units of noise: slack 1/2, alarm at 5; for shifts of one standard deviation."""
    deviation = noise(cycles)
    values = [loss / deviation for loss in cycles[-1]] if deviation else []
    alarm = detected(
        PageHinkley(min_instances=SETTLE, delta=0.5, threshold=5.0, alpha=1.0, mode="up"), values
    )
    return (
        alarm,
        f"{'a' if alarm else 'no'} rise of the loss since the last retraining",
        {"noise_usd": deviation},
    )


def adwin(cycles: Cycles, terms: Terms) -> tuple[bool, str, Facts]:
    """Run ADWIN (river) on each window; its bound holds for single predictions with values from 0 to 1.

    For means of windows the bound is far too conservative: at a confidence of 0.05 it missed a rise by 15
    standard deviations in 28 windows, hence 0.5.
    """
    highest = max(max(cycle) for cycle in cycles)
    values = [loss / highest for loss in cycles[-1]] if highest > 0 else []
    detector = ADWIN(  # type: ignore[no-untyped-call]
        delta=0.5, clock=1, min_window_length=2, grace_period=SETTLE
    )
    alarm = detected(detector, values)
    return alarm, f"{'a' if alarm else 'no'} change to a higher loss since the last retraining", {}


def periodic(cycles: Cycles, terms: Terms) -> tuple[bool, str, Facts]:
    """Retrain every ``period`` windows, whatever they cost."""
    age = len(cycles[-1])
    return (
        age >= terms.period,
        f"{age} windows since the last retraining, period {terms.period}",
        {"age": age},
    )


RULES: dict[Policy, Rule] = {
    "res": res,
    "cara-threshold": lambda cycles, terms: cara(cycles, terms, cumulative=False),
    "cara-cumulative": lambda cycles, terms: cara(cycles, terms, cumulative=True),
    "ski-rental": lambda cycles, terms: ski_rental(cycles, terms, 1.0, 2.0),
    "ski-rental-random": lambda cycles, terms: ski_rental(
        cycles, terms, drawn_share(terms.seed, len(cycles)), math.e / (math.e - 1)
    ),
    "page-hinkley": page_hinkley,
    "adwin": adwin,
    "periodic": periodic,
    "never": lambda cycles, terms: (False, "never, whatever it costs", {}),
    "always": lambda cycles, terms: (True, "always, whatever it costs", {}),
}
