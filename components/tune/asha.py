"""Asynchronous successive halving over several brackets: which training comes next. Pure and stateless.

Li et al. 2018 (Hyperband), Li et al. 2020 (ASHA). Unlike in ASHA, a rung never promotes more than its share,
which bounds the resource by Hyperband's formula: of 27 configurations, 9, 3 and 1 are promoted.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

from deepcuts.components.tune.space import Values, key

RungEntry = tuple[str, int]
"""(key of a configuration, rung): one training, assigned at most once."""


class Trial(NamedTuple):
    values: Values
    rung: int
    loss: float | None
    """None while it runs; not finite if it failed or diverged."""

    @property
    def entry(self) -> RungEntry:
        return key(self.values), self.rung

    @property
    def finished(self) -> bool:
        return self.loss is not None and math.isfinite(self.loss)


class Work(NamedTuple):
    values: Values
    rung: int


class Search(NamedTuple):
    levels: tuple[int, ...]
    """Resource at each rung, rising."""
    eta: int
    brackets: int
    """Bracket b starts at rung b; a configuration belongs to the bracket of its first rung."""
    configurations: int
    """Maximum configurations to start; 0: no limit, every request is answered in full."""


class Closing(NamedTuple):
    """External limits of a search: trainings ``left``, and ``parallel`` at a time."""

    left: float
    parallel: int


NEVER = Closing(math.inf, 1)
Draw = Callable[[Sequence[Trial], frozenset[str], int], Values | None]
"""A new configuration from (trials, keys not to draw, number of the assignment); None if there is none."""


def levels(low: int, high: int, eta: int) -> tuple[int, ...]:
    """Return rungs from ``high`` down to ``low`` by integer division: 1, 243, 3 -> 1, 3, 9, 27, 81, 243.

    No logarithms, as ``int(math.log(243) / math.log(3))`` is 4, one rung too few.

    Raises:
        ValueError: the bounds or eta give no rungs.
    """
    if not 1 <= low <= high:
        raise ValueError(f"resource from {low} to {high}: give whole numbers from 1, the smaller first")
    if eta < 2:
        raise ValueError(f"eta {eta}: a rung promotes one of eta trials, give 2 or more (3 is common)")
    found = []
    while high >= low:
        found.append(high)
        high //= eta
    return tuple(reversed(found))


def trainings(search: Search) -> int:
    """Count the trainings of ``search.configurations``: every rung promotes its share, rounded up."""
    return sum(count for _, _, count in _rungs(search))


def resource(search: Search) -> int:
    """Return the resource of these trainings, each promoted one continuing from the rung below."""
    return sum(
        count * (search.levels[rung] - (search.levels[rung - 1] if rung > bracket else 0))
        for bracket, rung, count in _rungs(search)
    )


def _rungs(search: Search) -> Iterator[tuple[int, int, int]]:
    """Yield (bracket, rung, trainings there)."""
    whole = sum(share(search, bracket) for bracket in range(search.brackets))
    for bracket in range(search.brackets):
        here = round(search.configurations * share(search, bracket) / whole)
        for rung in range(bracket, len(search.levels)):
            yield bracket, rung, here
            here = math.ceil(here / search.eta)


def assign(
    search: Search,
    trials: Sequence[Trial],
    ledger: Sequence[RungEntry],
    count: int,
    draw: Draw,
    closing: Closing = NEVER,
) -> list[Work]:
    """Return the next ``count`` trainings: promotions if a rung allows them, else new configurations.

    Args:
        search: Rungs, brackets and bounds.
        trials: Known trainings assigned before, in any order.
        ledger: All trainings assigned before, including those not in ``trials``.
        count: How many to return. There are fewer only if ``search.configurations`` or the space is used up
            and nothing may be promoted yet.
        draw: Makes a new configuration.
        closing: Set if the number of trainings is limited externally.
    """
    trials = sorted(trials, key=lambda trial: trial.entry)
    started = {*ledger, *(trial.entry for trial in trials)}
    number, work = len(ledger), list[Work]()
    while len(work) < count:
        chosen = (
            _climb(search, trials, started, closing, len(work))
            or _promotion(search, trials, started, settled=False)
            or _new(search, trials, started, number, draw)
            or _promotion(search, trials, started, settled=True)
            or _beyond(search, trials, started, number, draw)
        )
        if chosen is None:
            break
        started.add((key(chosen.values), chosen.rung))
        number += 1
        work.append(chosen)
    return work


def _climb(
    search: Search, trials: Sequence[Trial], started: set[RungEntry], closing: Closing, made: int
) -> Work | None:
    """Promote the best trial of the highest rung with a result, regardless of its share.

    This is for the end of a search, if few trainings are left and the top rung is still empty; otherwise all
    of them could go to the lowest rung.
    """
    empty = len(search.levels) - 1 - max((rung for _, rung in started), default=-1)
    if not empty or closing.left - made > closing.parallel * empty:
        return None
    known = [trial for trial in trials if trial.finished and (trial.entry[0], trial.rung + 1) not in started]
    best = min(known, key=lambda trial: (-trial.rung, trial.loss, trial.entry), default=None)
    return Work(best.values, best.rung + 1) if best else None


def brackets(entries: set[RungEntry]) -> dict[str, int]:
    """Map configurations to brackets, the lowest rung at which each was started."""
    first: dict[str, int] = {}
    for name, rung in entries:
        first[name] = min(rung, first.get(name, rung))
    return first


def _promotion(
    search: Search, trials: Sequence[Trial], started: set[RungEntry], settled: bool
) -> Work | None:
    """Return the best trial that may be promoted, highest rung first, without failed and running ones.

    A rung promotes its share rounded down, so that there is room for a late best one. Once nothing more
    arrives (``settled``, lowest rung first) the share is rounded up: of 27 some may have failed, and one of
    two in a small bracket is promoted, too. Trainings assigned and not ended, known or not, may still arrive.
    """
    bracket_of = brackets(started)
    pending = started - {trial.entry for trial in trials if trial.loss is not None}
    rungs = range(len(search.levels) - 1)
    for rung in rungs if settled else reversed(rungs):
        for bracket in range(min(rung + 1, search.brackets)):
            members = [trial for trial in trials if bracket_of[trial.entry[0]] == bracket]
            if settled and any(bracket_of[name] == bracket and at <= rung for name, at in pending):
                continue
            here = [trial for trial in members if trial.rung == rung and trial.finished]
            here.sort(key=lambda trial: (trial.loss, trial.entry))
            above = {name for name, at in started if at == rung + 1 and bracket_of[name] == bracket}
            places = math.ceil(len(here) / search.eta) if settled else len(here) // search.eta
            best = next((trial for trial in here if trial.entry[0] not in above), None)
            if best and len(above) < places:
                return Work(best.values, rung + 1)
    return None


def _new(
    search: Search, trials: Sequence[Trial], started: set[RungEntry], number: int, draw: Draw
) -> Work | None:
    """Start a new configuration in the bracket furthest behind its share."""
    bracket_of = brackets(started)
    if search.configurations and len(bracket_of) >= search.configurations:
        return None
    values = draw(trials, frozenset(bracket_of), number)
    if values is None:
        return None
    sizes = Counter(bracket_of.values())
    bracket = min(
        range(search.brackets),
        key=lambda b: (Fraction(sizes[b] + 1) / share(search, b), b),
    )
    return Work(values, bracket)


def share(search: Search, bracket: int) -> Fraction:
    """Return the relative share of a bracket in Hyperband: eta^s / (s + 1), s rungs above it."""
    above = len(search.levels) - 1 - bracket
    return Fraction(search.eta**above, above + 1)


def _beyond(
    search: Search, trials: Sequence[Trial], started: set[RungEntry], number: int, draw: Draw
) -> Work | None:
    """In a used-up space, promote the best trial of the lowest rung possible, beyond its share.

    If there is none, a configuration is assigned again; it resumes and ends at once.
    """
    if search.configurations:
        return None
    known = sorted(
        (trial for trial in trials if trial.finished and trial.rung < len(search.levels) - 1),
        key=lambda trial: (trial.rung, trial.loss, trial.entry),
    )
    for trial in known:
        if (trial.entry[0], trial.rung + 1) not in started:
            return Work(trial.values, trial.rung + 1)
    again = draw(trials, frozenset(), number)
    return Work(again, 0) if again else None
