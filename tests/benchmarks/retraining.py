"""Total cost of every retraining policy against the cheapest plan in retrospect, on real data that drift.

    python -m tests.benchmarks.retraining --data ../shared/data

Weekly series (electricity, M5, wiki): a forecaster by least squares (4 lags, a yearly wave, last 52 weeks)
is refit whenever the policy retrains; a week costs its absolute error over the mean of the warm-up.
Text (banking77): naive Bayes on hashed words learns the intents of the last 4 windows of 150 questions; which
of the 77 intents are asked changes gradually, at once, to and fro, by additions, or never; a window costs its
share of wrong answers. A retraining costs 0.5, 2, 8 or 32 windows of a fresh model. A policy sees only what
the model in service cost in past windows. Prints one JSON line for each stream, cost and policy, and a table.
Its last columns ask how far above the best period a policy is if the stream ends when that is worst, its last
line how far any policy has to be that knows all losses beforehand but not when the stream ends.
"""

import argparse
import csv
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepcuts.components.retrain.oracle import Losses, optimum, total
from deepcuts.components.retrain.policies import POLICIES, Policy, Terms, advise

SERIES = {"electricity_weekly": 26, "m5_sales_clean": 52, "wiki_weekly": 20}
"""Weeks before the first forecast; leading zeros (a meter not yet installed) do not count."""
LAGS, WEEKS = 4, 52
DRIFTS = ("gradual", "abrupt", "recurring", "additions", "none")
WINDOWS, QUESTIONS, KEPT = 40, 150, 4
BUCKETS = 4096
COSTS = (0.5, 2.0, 8.0, 32.0)


class Result(NamedTuple):
    """One policy on one stream at one cost of retraining."""

    stream: str
    cost: float
    """In windows of a fresh model."""
    policy: str
    retrainings: int
    over_optimum: float
    """Total cost over that of the cheapest plan."""
    over_period: float
    """Over that of the best fixed period, known in retrospect only; never retraining is one of them."""
    over_period_worst: float
    """The same if the stream ends after the window after which it is worst."""
    unavoidable: float
    """The least ``over_period_worst`` of any plan."""


def series_losses(path: Path, start: int) -> Losses:
    """[r, t]: the error in week start + t of a forecaster fitted to the weeks before start + r."""
    with path.open() as rows:
        y = np.trim_zeros(np.array([float(row["y"]) for row in csv.DictReader(rows)]), "f")
    week = 2 * np.pi * np.arange(LAGS, len(y)) / 52
    lags = np.lib.stride_tricks.sliding_window_view(y, LAGS)[:-1]
    x = np.column_stack([np.ones(len(week)), lags, np.sin(week), np.cos(week)])
    y, start = y[LAGS:], start - LAGS
    losses = np.zeros((len(y) - start, len(y) - start))
    for row in range(len(losses)):
        known = slice(max(0, start + row - WEEKS), start + row)
        square = x[known].T @ x[known]
        ridge = 1e-3 * np.trace(square) / len(square) * np.eye(len(square))
        weights = np.linalg.solve(square + ridge, x[known].T @ y[known])
        losses[row, row:] = np.abs(x[start + row :] @ weights - y[start + row :])
    return losses / np.abs(y[:start]).mean()


def asked(drift: str, window: int, intents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which intents are asked in a window; the first ``KEPT`` windows are before the service starts."""
    served = max(0, window - KEPT)
    first = {"gradual": window, "abrupt": served // 14 * 25, "recurring": window // 8 % 2 * 25}.get(drift, 0)
    count = 25 + 15 * (served > 15) + 10 * (served > 19) if drift == "additions" else 25
    return intents[(first + np.arange(count)) % len(intents)]


class Questions:
    """banking77 as sets of hashed words."""

    def __init__(self, path: Path) -> None:
        with path.open(newline="") as rows:
            texts, names = zip(*((row["text"], row["category"]) for row in csv.DictReader(rows)), strict=True)
        _, self.labels = np.unique(names, return_inverse=True)
        self.words = [
            np.unique([zlib.crc32(word.strip(".,?!'\"").encode()) % BUCKETS for word in text.lower().split()])
            for text in texts
        ]

    def losses(self, drift: str, seed: int) -> Losses:
        """[r, t]: share of wrong answers in window t of a model of the ``KEPT`` windows before window r."""
        rng = np.random.default_rng(seed)
        intents = rng.permutation(self.labels.max() + 1)
        windows = []
        for window in range(KEPT + WINDOWS):
            pool = np.flatnonzero(np.isin(self.labels, asked(drift, window, intents)))
            windows.append(rng.choice(pool, QUESTIONS, replace=False))
        losses = np.zeros((WINDOWS, WINDOWS))
        for row in range(WINDOWS):
            weights, prior = self.fitted(np.concatenate(windows[row : row + KEPT]))
            for column in range(row, WINDOWS):
                window = windows[column + KEPT]
                words = [self.words[question] for question in window]
                starts = np.cumsum([0, *map(len, words[:-1])])
                answers = np.argmax(np.add.reduceat(weights[np.concatenate(words)], starts) + prior, axis=1)
                losses[row, column] = (answers != self.labels[window]).mean()
        return losses

    def fitted(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(words, intents) log likelihoods and (intents,) log counts; intents not seen are never answered."""
        seen = np.zeros((BUCKETS, self.labels.max() + 1), np.float32)
        for question in rows:
            seen[self.words[question], self.labels[question]] += 1
        counts = np.bincount(self.labels[rows], minlength=seen.shape[1]).astype(np.float32)
        likelihoods = np.log((seen + 0.1) / (counts + 0.2))
        prior = np.where(counts > 0, np.log(np.maximum(counts, 1)), -1e9)
        return likelihoods, prior.astype(np.float32)


def streams(data: Path, seeds: int) -> Iterator[tuple[str, Losses]]:
    """(name, losses) of each series and each drift with each seed."""
    for name, start in SERIES.items():
        yield name, series_losses(data / "retraining" / f"{name}.csv", start)
    questions = Questions(data / "banking77" / "train.csv")
    for drift in DRIFTS:
        for seed in range(seeds):
            yield f"banking77 {drift} {seed}", questions.losses(drift, seed)


def replay(losses: Losses, policy: Policy, terms: Terms) -> list[int]:
    """The windows before which ``policy`` retrains, seeing one window after the other."""
    start, plan = 0, []
    cycles: list[list[float]] = [[]]
    for window in range(len(losses) - 1):  # after the last there is nothing to win
        cycles[-1].append(float(losses[start, window]))
        if advise(policy, cycles, terms).retrain:
            start = window + 1
            plan.append(start)
            cycles.append([])
    return plan


def fixed(losses: Losses, cost: float) -> float:
    """The total of the best fixed period."""
    windows = len(losses)
    return min(total(losses, cost, [*range(p, windows, p)]) for p in range(1, windows + 1))


def ends(losses: Losses, cost: float, plan: list[int], best: list[float]) -> list[float]:
    """What ``plan`` costs over ``best`` if the stream ends after its first window, ... its last."""
    return [
        total(losses[:end, :end], cost, [start for start in plan if start < end]) / least
        for end, least in enumerate(best, 1)
    ]


def unavoidable(losses: Losses, cost: float, best: list[float]) -> float:
    """The least r so that some plan costs at most r times ``best[t]`` whichever window t is the last.

    The plan may know every loss beforehand, but not the end. Exact but for the bisection: of two histories
    with the same model in service the cheaper one is never worse, so one cost a model is enough.
    """

    def holds(ratio: float) -> bool:
        paid = np.full(len(losses), np.inf)  # paid[r]: so far, with a model trained just before window r
        paid[0] = 0.0
        for window, least in enumerate(best):
            if window:
                paid[window] = paid.min() + cost
            paid += losses[:, window]
            paid[paid > ratio * least] = np.inf
        return bool(np.isfinite(paid).any())

    low, high = 1.0, max(ends(losses, cost, [], best))
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def results(name: str, losses: Losses) -> Iterator[Result]:
    """Every policy at every cost."""
    for windows in COSTS:
        cost = windows * float(np.diag(losses).mean())
        least = optimum(losses, cost)[0]
        best = [fixed(losses[:end, :end], cost) for end in range(1, len(losses) + 1)]
        bound = unavoidable(losses, cost, best)
        terms = Terms(cost=cost, period=4, horizon=5, memory=52, seed=0)
        for policy in POLICIES:
            plan = replay(losses, policy, terms)
            paid = total(losses, cost, plan)
            ratios = ends(losses, cost, plan, best)
            yield Result(name, windows, policy, len(plan), paid / least, ratios[-1], max(ratios), bound)


def summary(found: list[Result]) -> str:
    """One line a policy, and one of what no policy can do."""

    def columns(values: list[float]) -> str:
        return f"{np.mean(values):7.3f} {max(values):6.2f} {sum(v > 1.05 for v in values):4d}/{len(values)}"

    lines = ["mean, worst, above 1.05:  over the optimum      over the best period  the same, worst end"]
    for policy in POLICIES:
        ours = [result for result in found if result.policy == policy]
        three = ([r.over_optimum, r.over_period, r.over_period_worst] for r in ours)
        lines.append(f"{policy:22s}" + "".join(map(columns, map(list, zip(*three, strict=True)))))
    bounds = [result.unavoidable for result in found if result.policy == POLICIES[0]]
    lines.append(f"{'whoever knows but the end':66s}{columns(bounds)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    found = [result for name, losses in streams(given.data, given.seeds) for result in results(name, losses)]
    for result in found:
        print(json.dumps(result._asdict()))
    print(summary(found))


if __name__ == "__main__":
    main()
