"""The paired comparison against a slow one written from its definition, and against a simulated truth."""

import random
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.core import bootstrap, scorecards
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.scorecards import Metric, Score, compare, smallest_gap, summarise

TRUE_GAP = 0.03


def scores(nats: list[float], tokens: list[int] | None = None) -> list[Score]:
    tokens = tokens or [10] * len(nats)
    return [Score(f"e{i}", n, t) for i, (n, t) in enumerate(zip(nats, tokens, strict=True))]


def slow_interval(
    candidates: list[list[Score]], references: list[list[Score]], resamples: int
) -> tuple[float, float, float]:
    """(mean, 5 %, 95 %) of the candidate's extra nats per token, one resample at a time, in plain Python."""
    rng = random.Random(0)
    seeds, examples = range(len(candidates)), range(len(candidates[0]))
    tokens = [score.answer_tokens for score in references[0]]
    worse = [
        [c.answer_nats - r.answer_nats for c, r in zip(candidates[s], references[s], strict=True)]
        for s in seeds
    ]

    def mean(some_seeds, some_examples):
        top = sum(worse[s][e] for s in some_seeds for e in some_examples)
        return top / sum(tokens[e] for _ in some_seeds for e in some_examples)

    def error(some_examples):
        ratio = mean(seeds, some_examples)
        over = [statistics.mean(run[e] for run in worse) - ratio * tokens[e] for e in some_examples]
        return sum(rest**2 for rest in over) ** 0.5 / sum(tokens[e] for e in some_examples)

    def chi_square(freedom):
        return sum(rng.gauss(0, 1) ** 2 for _ in range(freedom))

    count, all_of_it, whole_error = len(examples), mean(seeds, examples), error(examples)
    of_seeds = [mean([s], examples) for s in seeds]
    seed_error = statistics.stdev(of_seeds) / len(seeds) ** 0.5 if len(seeds) > 1 else 0.0
    draws: tuple[list[float], list[float]] = ([], [])
    for _ in range(resamples):
        drawn = rng.choices(examples, k=count)
        away = mean(seeds, drawn) - all_of_it
        t = away / max(error(drawn), bootstrap.MIN_ERROR * whole_error)
        freedom = max(1, len(seeds) - 1)
        centre = all_of_it + seed_error * rng.gauss(0, 1) / (chi_square(freedom) / freedom) ** 0.5
        draws[0].append(centre + away * (count / chi_square(count - 1)) ** 0.5)
        draws[1].append(centre - t * whole_error * (count / (count - 1)) ** 0.5)
    rest = [statistics.mean(run[e] for run in worse) - all_of_it * tokens[e] for e in examples]
    skewness = abs(sum(r**3 for r in rest)) / sum(r**2 for r in rest) ** 1.5
    skewness *= (whole_error**2 / (whole_error**2 + seed_error**2)) ** 1.5
    beyond = round(resamples * 0.05 * max(0.25, 1 - bootstrap.SKEW_SHARE * skewness))
    lows, highs = zip(*((sorted(d)[beyond], sorted(d)[-beyond]) for d in draws), strict=True)
    return all_of_it, min(lows), max(highs)


def simulated(
    rng: np.random.Generator, seeds: int, examples: int, seed_sd: float, example_sd: float, both_sd: float
) -> tuple[list[list[Score]], list[list[Score]]]:
    """(candidates, references) whose true difference is ``TRUE_GAP`` nats per token."""
    tokens = rng.integers(20, 200, examples).tolist()
    gaps = (
        TRUE_GAP
        + rng.normal(0, seed_sd, (seeds, 1))
        + rng.normal(0, example_sd, (1, examples))
        + rng.normal(0, both_sd, (seeds, examples))
    )
    reference = scores([2.0 * n for n in tokens], tokens)
    return [
        scores([(2.0 + g) * n for g, n in zip(row, tokens, strict=True)], tokens) for row in gaps.tolist()
    ], [reference] * seeds


@pytest.mark.parametrize(("seeds", "examples"), [(1, 30), (2, 12), (5, 20)])
def test_compare_agrees_with_a_slow_reference_implementation(seeds, examples):
    candidates, references = simulated(np.random.default_rng(seeds), seeds, examples, 0.02, 0.05, 0.03)
    fast = compare(candidates, references, "completion_loss", 0.05, seed=0)
    mean, low, high = slow_interval(candidates, references, 4_000)
    assert fast.worse_by == pytest.approx(mean)
    assert fast.high - fast.low == pytest.approx(high - low, rel=0.15 if seeds == 2 else 0.06)
    assert fast.high == pytest.approx(high, abs=0.1 * (high - low))


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50), st.integers(1, 30)), min_size=2, max_size=6))
def test_compare_of_any_scores_holds_what_it_means(rows):
    ours, theirs, tokens = (list(column) for column in zip(*rows, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "RESAMPLES", 200)
        forth = compare([scores(ours, tokens)], [scores(theirs, tokens)], "completion_loss", 0.1, seed=1)
        back = compare([scores(theirs, tokens)], [scores(ours, tokens)], "completion_loss", 0.1, seed=1)
        shuffled = compare(
            [scores(ours, tokens)[::-1]], [scores(theirs, tokens)], "completion_loss", 0.1, seed=1
        )
    assert forth.worse_by == pytest.approx((sum(ours) - sum(theirs)) / sum(tokens), abs=1e-9)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), abs=1e-9)
    assert forth == shuffled
    assert forth.non_inferior == (forth.high < 0.1)


LIKE_CUTS_MD = 0.018, 0.04, 0.04
"""Nats between seeds (0.013 x sqrt(2)), between examples, of both: paired sd over examples 0.057."""


class World(NamedTuple):
    """Where two models are equal, and differ by chance."""

    seeds: int
    examples: int
    sds: tuple[float, float, float]
    """Nats per token between seeds, between examples, of both together."""
    sigma: float
    """0: normal differences; else lognormal ones between examples, a few are much worse."""

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(nats worse: seeds x examples, answer tokens)."""
        tokens = rng.integers(20, 200, self.examples).astype(float)
        gaps = rng.normal(0, self.sds[0], (self.seeds, 1)) + self.noise(rng, self.sds[1], 1)
        return (gaps + self.noise(rng, self.sds[2], self.seeds)) * tokens, tokens

    def noise(self, rng: np.random.Generator, sd: float, rows: int) -> np.ndarray:
        if not self.sigma:
            return rng.normal(0, sd, (rows, self.examples))
        spread = np.sqrt((np.exp(self.sigma**2) - 1) * np.exp(self.sigma**2))
        drawn = rng.lognormal(0, self.sigma, (rows, self.examples))
        return sd * (drawn - np.exp(self.sigma**2 / 2)) / spread

    def knowing_all(self, worse: np.ndarray, tokens: np.ndarray) -> bool:
        """What a test would accept that knows the standard deviations; at normal data in 5 % of all cases."""
        share = (tokens**2).sum() / tokens.sum() ** 2
        between, over, both = (sd**2 for sd in self.sds)
        error = np.sqrt(between / self.seeds + (over + both / self.seeds) * share)
        return bool(worse.mean(axis=0).sum() / tokens.sum() < -1.645 * error)


def coverage(world: World, repeats: int) -> tuple[float, float, float]:
    """Shares: of 95 % intervals, of 90 % intervals that hold the truth, of accepted ones at the margin.

    The last is held against the test that knows all, on the same draws: that takes most of the chance out.
    """
    rng, inside_95, inside_90, beyond = np.random.default_rng(7), 0, 0, 0
    for _ in range(repeats):
        worse, tokens = world.draw(rng)
        low_95, high_95 = bootstrap.interval(worse, tokens, 0.95, rng)
        low_90, high_90 = bootstrap.interval(worse, tokens, 0.90, rng)
        inside_95 += low_95 < 0 < high_95
        inside_90 += low_90 < 0 < high_90
        beyond += (high_90 < 0) - world.knowing_all(worse, tokens)
    many = 20_000 if world.sigma else 0
    expected = np.mean([world.knowing_all(*world.draw(rng)) for _ in range(many)]) if many else 0.05
    return inside_95 / repeats, inside_90 / repeats, beyond / repeats + float(expected)


def test_interval_of_five_seeds_holds_the_truth_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    inside, _, accepted = coverage(World(5, 60, LIKE_CUTS_MD, 0.0), repeats=600)
    assert 0.93 <= inside <= 0.98  # the standard error of 600 repeats is 0.009
    assert accepted <= 0.065  # the same, of 5 %


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("seeds", "examples", "sds"),
    [
        (1, 300, (0.0, 0.04, 0.04)),
        (1, 1000, (0.0, 0.04, 0.04)),
        (3, 300, LIKE_CUTS_MD),
        (5, 300, LIKE_CUTS_MD),
        (5, 200, (0.018, 1e-9, 1e-9)),
        (10, 100, (0.001, 0.04, 0.04)),
    ],
)
def test_interval_coverage_is_93_to_97_percent_and_false_acceptance_5_percent(
    seeds, examples, sds, sigma, monkeypatch
):
    """Skewness 0, 1.8, 6.2; GSM8K's differences (base against itself in int8, int4, with noise) have 0.1."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 800)
    inside_95, inside_90, accepted = coverage(World(seeds, examples, sds, sigma), repeats=2_000)
    print(f"{seeds} x {examples}, {sds}, {sigma}: {inside_95:.4f} {inside_90:.4f}, accepted {accepted:.4f}")
    assert 0.93 <= inside_95 <= 0.975  # 3 seeds: above 97 % would be wasteful, not wrong
    assert accepted <= 0.05 + 2 * 0.003  # the standard error is 0.002 to 0.005


def shares(rng: np.random.Generator, examples: int, discordant: float) -> np.ndarray:
    """Differences of two models that are right equally often but differ on that many examples."""
    return rng.choice([-1.0, 0.0, 1.0], (1, examples), p=[discordant / 2, 1 - discordant, discordant / 2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("examples", "discordant", "most"), [(300, 0.05, 0.05), (300, 0.3, 0.05), (100, 0.1, 0.055)]
)
def test_false_acceptance_of_shares_is_5_percent(examples, discordant, most, monkeypatch):
    """Not with 10 examples that differ: measured 5.2, 4.6 and 5.75 %, standard error 0.34."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1_000)
    rng, ones, accepted = np.random.default_rng(7), np.ones(examples), 0
    for _ in range(4_000):
        accepted += bootstrap.interval(shares(rng, examples, discordant), ones, 0.90, rng)[1] < 0
    print(f"{examples} examples, {discordant:.0%} apart: accepted {accepted / 4_000:.4f}")
    assert accepted / 4_000 <= most + 2 * (0.05 * 0.95 / 4_000) ** 0.5


def test_compare_of_5_seeds_and_10_000_examples_takes_seconds():
    candidates, references = simulated(np.random.default_rng(0), 5, 10_000, *LIKE_CUTS_MD)
    began = time.process_time()
    compare(candidates, references, "completion_loss", 0.02, seed=0)
    assert time.process_time() - began < 10  # 0.9 s on an idle core


def test_two_seeds_of_one_method_are_not_told_apart_by_many_examples():
    """Example-only resampling calls a difference between seeds significant (docs/DESIGN.md)."""
    rng = np.random.default_rng(3)
    seeds = [rng.normal(0, 0.013, 2) for _ in range(5)]
    runs = [
        [scores([10 * (2 + shift) + n for n in rng.normal(0, 0.05, 300)]) for shift in pair] for pair in seeds
    ]
    one = compare([runs[0][0]], [runs[0][1]], "completion_loss", 0.03, seed=0)
    all_five = compare([a for a, _ in runs], [b for _, b in runs], "completion_loss", 0.03, seed=0)
    assert not one.low < 0 < one.high
    assert all_five.low < 0 < all_five.high
    assert smallest_gap(all_five) > 5 * smallest_gap(one)


def test_compare_is_the_same_for_the_same_seed_only():
    candidates, references = simulated(np.random.default_rng(0), 2, 50, *LIKE_CUTS_MD)
    first, again, other = (
        compare(candidates, references, "completion_loss", 0.1, seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


def test_smallest_gap_shrinks_with_the_root_of_the_examples():
    few, many = (
        smallest_gap(
            compare(
                *simulated(np.random.default_rng(0), 1, count, 0, 0.05, 0), "completion_loss", 0.1, seed=0
            )
        )
        for count in (400, 6_400)
    )
    assert few == pytest.approx(4 * many, rel=0.15)
    assert many == pytest.approx(2.487 * 0.05 / 80, rel=0.25)  # token weights cost a little


def test_share_metrics_count_more_as_better():
    hits = [Score(str(i), 1.0, 1, exact_match=True) for i in range(20)]
    misses = [msgspec.structs.replace(score, exact_match=False) for score in hits]
    worse = compare([misses], [hits], "exact_match", 0.5, seed=0)
    assert (worse.worse_by, worse.low, worse.high, worse.non_inferior) == (1.0, 1.0, 1.0, False)


def measured(**changes: float | int | str) -> list[Score]:
    first, *rest = scores([5.0, 6.0, 7.0])
    return [msgspec.structs.replace(first, **changes), *rest]


@pytest.mark.parametrize(
    ("candidates", "references", "metric", "error", "words"),
    [
        ([measured()], [scores([1.0, 2.0])], "completion_loss", ValueError, "1 differ, first 'e2'"),
        ([measured(id="x")], [measured()], "completion_loss", ValueError, "different examples"),
        ([measured(id="e1")], [measured()], "completion_loss", DataError, "occur twice"),
        ([measured()], [measured()], "exact_match", ValueError, "exact_match was not measured on 'e0'"),
        (
            [measured(answer_nats=float("nan"))],
            [measured()],
            "completion_loss",
            DataError,
            "'e0' is not finite",
        ),
        (
            [measured()],
            [measured(answer_nats=float("inf"))],
            "completion_loss",
            DataError,
            "'e0' is not finite",
        ),
        ([measured(answer_tokens=9)], [measured()], "completion_loss", ValueError, "tokenizers differ"),
        ([measured()] * 2, [measured()], "completion_loss", ValueError, "2 candidate and 1 reference"),
        ([], [], "completion_loss", ValueError, "give one of each"),
        ([scores([1.0])], [scores([1.0])], "completion_loss", DataError, "at least 2"),
    ],
)
def test_compare_refuses_what_is_no_pair(
    candidates: list[list[Score]],
    references: list[list[Score]],
    metric: Metric,
    error: type[Exception],
    words: str,
):
    with pytest.raises(error, match=words):
        compare(candidates, references, metric, 0.1, seed=0)


def test_compare_refuses_a_margin_without_room():
    with pytest.raises(ValueError, match="margin 0"):
        compare([measured()], [measured()], "completion_loss", 0, seed=0)


def test_scorecard_pools_nats_over_tokens_and_reads_back_as_written(tmp_path: Path):
    lines = [
        Score("a", 10.0, 10, exact_match=True, predicted="yes"),
        Score("b", 40.0, 10, exact_match=False, label_correct=True),
        Score("c", 1.0, 31),
    ]
    card = summarise(lines, "model", "split", seed=3)
    assert card.completion_loss.mean == pytest.approx(51 / 51) and card.perplexity == pytest.approx(np.e)
    assert card.completion_loss.low < 1 < card.completion_loss.high
    assert card.exact_match is not None and card.label_accuracy is not None
    assert (card.exact_match.mean, card.label_accuracy.mean) == (0.5, 1.0)
    assert 0 <= card.exact_match.low <= card.exact_match.high <= 1
    scorecards.write(tmp_path / "card", card, lines)
    assert scorecards.read(tmp_path / "card") == card
    assert scorecards.read_scores(tmp_path / "card") == lines


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scorecard_of_a_broken_model_is_refused_with_the_example(bad):
    with pytest.raises(DataError, match="1 of 3 scores are not finite, first 'e0'"):
        summarise(measured(answer_nats=bad), "model", "split", seed=0)


def test_scorecard_of_nothing_is_refused():
    with pytest.raises(DataError, match="split is empty"):
        summarise([], "model", "split", seed=0)


def test_files_that_are_no_scorecard_are_refused(tmp_path):
    (tmp_path / "scorecard.json").write_text("{}")
    (tmp_path / "scores.jsonl").write_text("[]\n")
    with pytest.raises(DataError, match="not a Scorecard"):
        scorecards.read(tmp_path)
    with pytest.raises(DataError, match="not per-example scores"):
        scorecards.read_scores(tmp_path)
