"""Bootstrap interval of a ratio of sums over seeds and examples.

5 seeds x 10,000 examples take 0.9 s on one core.
"""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Monte-Carlo error of a 2.5 % quantile from 10,000 resamples is about 0.02 standard errors."""

SKEW_SHARE = 2.2
"""Relative error of a one-sided 5 % bound, per unit of the mean's skewness: the first term of Edgeworth's
series, (2 z^2 + 1) phi(z) / 6 / 0.05 at z = 1.645 (Hall 1992, The Bootstrap and Edgeworth Expansion, 3.5).
A studentized bootstrap corrects for it once, with a skewness that a small sample understates."""
MIN_ERROR = 0.2
"""Smallest error of a resample, in standard errors of the whole sample; without it t is unbounded."""


def interval(
    numerator: NDArray[np.float64], weight: NDArray[np.float64], level: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the two-sided interval of sum(numerator) / sum(weight) at ``level``.

    All seeds were scored on the same examples, so the two factors are crossed: a draw is the mean, plus a
    deviation over seeds (Student's t), plus a deviation over resampled examples. The latter is drawn in two
    ways, and each side takes the wider bound, because either way alone is too narrow in some cases: the
    percentile bootstrap when differences are skewed (a few examples much worse), the studentized one when few
    examples differ at all (shares). If the mean itself is skewed, both are still too short, so the level is
    raised by SKEW_SHARE times the skewness. Seeds are assumed symmetric. tests/core/test_scorecards.py
    measures the coverage.

    Args:
        numerator: (seeds, examples).
        weight: (examples,); answer tokens, or 1 for shares.
        level: 0.90 or 0.95.
        rng: Draws the resamples.
    """
    seeds, examples = numerator.shape
    of_seeds = numerator.sum(axis=1) / weight.sum()
    mean = of_seeds.mean()
    error = float(of_seeds.std(ddof=1) / np.sqrt(seeds)) if seeds > 1 else 0.0  # one seed has no spread
    by_seeds = error * rng.standard_t(max(1, seeds - 1), RESAMPLES)
    over_seeds = numerator.mean(axis=0)
    away, studentized = _by_examples(over_seeds, weight, rng)
    spread = float(away.var())
    of_examples = spread / max(spread + error**2, np.finfo(float).tiny)
    skewness = _skewness(over_seeds - mean * weight) * of_examples**1.5
    tail = (1 - level) / 2 * max(0.25, 1 - SKEW_SHARE * skewness)
    tails = [tail, 1 - tail]
    bounds = np.array(
        [np.quantile(by_seeds + d, tails) for d in (_widened(away, examples, rng), studentized)]
    )
    return float(mean + bounds[:, 0].min()), float(mean + bounds[:, 1].max())


def _skewness(deviations: NDArray[np.float64]) -> float:
    """Return the absolute skewness of a sum of independent terms, from their ``deviations``."""
    scale = float(np.abs(deviations).max())
    if scale == 0:
        return 0.0
    unit = deviations / scale  # so that cubes neither overflow nor underflow
    return float(abs((unit**3).sum()) / (unit**2).sum() ** 1.5)


def _by_examples(
    numerator: NDArray[np.float64], weight: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Resample examples; return per resample (deviation of the ratio, -t times the ratio's standard error).

    t is the deviation in the resample's own standard errors. A resample without the outliers has too small a
    ratio and too small an error; t shows that, the deviation alone does not.
    """
    examples = len(weight)
    columns = np.stack([numerator, weight, numerator**2, numerator * weight, weight**2], axis=1)
    sums = np.empty((RESAMPLES, columns.shape[1]))
    chunk = max(1, 4_000_000 // examples)  # 32 MB of counts at a time
    for start in range(0, RESAMPLES, chunk):
        size = min(chunk, RESAMPLES - start)
        sums[start : start + size] = _counts(examples, size, rng) @ columns
    whole, whole_error = _ratio(columns.sum(axis=0))
    ratios, errors = _ratio(sums)
    away = ratios - whole
    if whole_error == 0:
        return away, away
    t = away / np.maximum(errors, MIN_ERROR * whole_error)
    return away, -t * whole_error * np.sqrt(examples / (examples - 1))


def _ratio(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (ratio, its standard error) from sums over examples of a, b, aa, ab, bb (last axis)."""
    a, b, aa, ab, bb = np.moveaxis(sums, -1, 0)
    ratio = a / b
    return ratio, np.sqrt(np.maximum(0.0, aa - 2 * ratio * ab + ratio**2 * bb)) / b


def _widened(deviations: NDArray[np.float64], items: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Multiply deviations of bootstrap means of ``items`` by sqrt(items / chi-square(items - 1)).

    items / (items - 1) makes up for the variance a resample lacks, chi-square for the variance being
    estimated (Student's t). A single item has no spread and is left as it is.
    """
    return deviations * np.sqrt(items / rng.chisquare(items - 1, RESAMPLES)) if items > 1 else deviations


def _counts(items: int, resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Count how often each item is drawn, (resamples, items); 6 times as fast as ``rng.multinomial``."""
    drawn = rng.integers(items, size=(resamples, items), dtype=np.int32)
    drawn += (np.arange(resamples, dtype=np.int32) * items)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * items)
    return counts.reshape(resamples, items).astype(float)
