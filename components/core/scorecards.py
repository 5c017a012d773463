"""Scorecard: per-example scores of one model on one split, and the paired comparison of two models.

Two bare means are never compared: ``compare`` resamples seeds and examples (hierarchical bootstrap), because
two seeds of one method differ "significantly" when only examples are resampled (cuts.md, Equal quality).
5 seeds x 10,000 examples take 0.9 s on one core.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from components.core import files
from components.core.errors import DataError

Metric = Literal["answer_loss", "exact_match", "label_accuracy"]
LOWER_IS_BETTER: dict[Metric, bool] = {"answer_loss": True, "exact_match": False, "label_accuracy": False}
RESAMPLES = 10_000
"""Monte-Carlo error of a 2.5 % quantile from 10,000 resamples is about 0.02 standard errors."""

SKEW_SHARE = 2.2
"""By how much of its 5 % a one-sided bound misses, for each unit of the mean's skewness: the first term of
Edgeworth's series, (2 z^2 + 1) phi(z) / 6 / 0.05 at z = 1.645 (Hall 1992, The Bootstrap and Edgeworth
Expansion, 3.5). A studentized bootstrap allows for it once, with a skewness that few examples understate."""
LEAST_ERROR = 0.2
"""Of a resample, in standard errors of the whole sample: one of equal examples has none, and t no bound."""


GENERAL = "general.jsonl"
"""Scores of general text beside a Scorecard's, where evaluate was asked for them."""


class Score(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One model on one Example."""

    id: str
    answer_nats: float
    """Negative log-likelihood of all answer tokens, in nats."""
    answer_tokens: int
    exact_match: bool | None = None
    label_correct: bool | None = None
    predicted: str | None = None
    """What greedy decoding or label scoring answered."""


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mean with its two-sided 95 % bootstrap interval over examples."""

    mean: float
    low: float
    high: float


class Scorecard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    model_digest: str
    split_digest: str
    examples: int
    answer_tokens: int
    answer_loss: Interval
    """Nats per answer token, pooled: all nats over all answer tokens."""
    perplexity: float
    exact_match: Interval | None = None
    label_accuracy: Interval | None = None
    seed: int = 0
    """Seed of the run that trained the model; pairs runs in ``compare``."""


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Candidate against reference, so that positive means worse."""

    metric: Metric
    margin: float
    worse_by: float
    """How much worse the candidate is, in the metric's own unit; negative is better."""
    low: float
    high: float
    """Two-sided 90 % interval: its upper end is the one-sided 95 % bound of the non-inferiority test."""
    non_inferior: bool
    """``high < margin``."""
    examples: int
    seeds: int


def summarise(scores: Sequence[Score], model_digest: str, split_digest: str, seed: int) -> Scorecard:
    """The Scorecard of per-example scores; intervals by bootstrap over examples, seeded.

    Raises:
        DataError: no scores, or one that is not finite.
    """
    if not scores:
        raise DataError("no example was scored: the split is empty; give evaluate at least one example")
    bad = [score.id for score in scores if not np.isfinite(score.answer_nats)]
    if bad:
        raise DataError(
            f"{len(bad)} of {len(scores)} scores are not finite, first {bad[0]!r}: the model is broken "
            "(diverged training or non-finite weights); lower the learning rate or check the weights"
        )
    nats = np.array([score.answer_nats for score in scores])
    tokens = np.array([score.answer_tokens for score in scores], dtype=float)
    loss = _interval(nats, tokens)
    matches = [score.exact_match for score in scores if score.exact_match is not None]
    labels = [score.label_correct for score in scores if score.label_correct is not None]
    return Scorecard(
        model_digest=model_digest,
        split_digest=split_digest,
        examples=len(scores),
        answer_tokens=int(tokens.sum()),
        answer_loss=loss,
        perplexity=float(np.exp(min(loss.mean, 700.0))),
        exact_match=_share(matches) if matches else None,
        label_accuracy=_share(labels) if labels else None,
        seed=seed,
    )


def write(
    folder: Path, card: Scorecard, scores: Sequence[Score], beside: Mapping[str, bytes] = MappingProxyType({})
) -> None:
    """``scorecard.json``, ``scores.jsonl`` and files ``beside`` them, whole or not at all."""
    with files.staged(folder) as staging:
        staging.mkdir()
        staging.joinpath("scorecard.json").write_bytes(
            msgspec.json.format(msgspec.json.encode(card), indent=1)
        )
        staging.joinpath("scores.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(scores))
        for name, content in beside.items():
            staging.joinpath(name).write_bytes(content)


def read(folder: Path) -> Scorecard:
    """The summary in a Scorecard folder.

    Raises:
        FileNotFoundError: evaluate has not written it.
        DataError: it is not a Scorecard.
    """
    return _decode(folder / "scorecard.json", Scorecard)


def read_scores(folder: Path, name: str = "scores.jsonl") -> list[Score]:
    """The per-example scores in a Scorecard folder; ``GENERAL`` are those of general text."""
    path = folder / name
    decoder = msgspec.json.Decoder(Score)
    try:
        return [decoder.decode(line) for line in path.read_bytes().splitlines()]
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: not per-example scores ({error}): run evaluate again") from error


def compare(
    candidates: Sequence[Sequence[Score]],
    references: Sequence[Sequence[Score]],
    metric: Metric,
    margin: float,
    seed: int,
) -> Comparison:
    """Is the candidate no worse than the reference by ``margin``? Paired by seed (outer), example id (inner).

    Args:
        candidates: Scores of one run a seed; ``references`` in the same order of seeds.
        margin: Largest loss of quality that still counts as equal, fixed before the run; > 0.

    Raises:
        ValueError: different numbers of runs, examples or tokenizers, or a metric that was not measured.
        DataError: a score is not finite, an id stands twice, or there is one example only.
    """
    if len(candidates) != len(references) or not candidates:
        raise ValueError(
            f"{len(candidates)} candidate and {len(references)} reference runs: give one of each per seed"
        )
    if margin <= 0:
        raise ValueError(f"margin {margin} is not positive: a non-inferiority test needs room to be wrong in")
    ids = [score.id for score in references[0]]
    if len(ids) < 2:
        raise DataError(f"scored on {len(ids)} example: an interval needs at least 2; evaluate more")
    candidate = np.stack([_aligned(run, ids, metric) for run in candidates])
    reference = np.stack([_aligned(run, ids, metric) for run in references])
    sign = 1.0 if LOWER_IS_BETTER[metric] else -1.0
    weights = reference[0, :, 1]  # answer tokens; 1 for shares
    if (candidate[..., 1] != weights).any() or (reference[..., 1] != weights).any():
        raise ValueError(
            "the runs count different answer tokens for one example, so their tokenizers differ and nats per "
            "token cannot be compared: compare exact_match, or models with one tokenizer"
        )
    worse = sign * (candidate[..., 0] - reference[..., 0])
    low, high = _bounds(worse, weights, 0.90, np.random.default_rng(seed))
    return Comparison(
        metric=metric,
        margin=margin,
        worse_by=float(worse.mean(axis=0).sum() / weights.sum()),
        low=low,
        high=high,
        non_inferior=high < margin,
        examples=len(ids),
        seeds=len(candidates),
    )


def smallest_gap(comparison: Comparison) -> float:
    """The smallest difference that a comparison as wide as this one sees in 80 % of all cases.

    It is (1.645 + 0.842) standard errors (one-sided 5 %, power 80 %); the 90 % interval is 2 x 1.645 wide.
    """
    return (1.645 + 0.842) * (comparison.high - comparison.low) / (2 * 1.645)


def _decode(path: Path, kind: type[Scorecard]) -> Scorecard:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: not a Scorecard ({error}): run evaluate again") from error


def _aligned(run: Sequence[Score], ids: list[str], metric: Metric) -> NDArray[np.float64]:
    """(examples, 2): numerator and weight of each example, in the order of ``ids``."""
    by_id = {score.id: score for score in run}
    if len(by_id) != len(run):
        raise DataError(f"{len(run) - len(by_id)} ids stand twice in a run's scores: evaluate it again")
    if set(by_id) != set(ids):
        missing = sorted(set(ids) ^ set(by_id))
        raise ValueError(
            f"the runs were scored on different examples ({len(missing)} differ, first {missing[0]!r}): "
            "evaluate all of them on the same split"
        )
    rows = []
    for name in ids:
        score = by_id[name]
        if metric == "answer_loss":
            rows.append((score.answer_nats, float(score.answer_tokens)))
            continue
        hit = score.exact_match if metric == "exact_match" else score.label_correct
        if hit is None:
            raise ValueError(f"{metric} was not measured on {name!r}: add it to evaluate's measures")
        rows.append((float(hit), 1.0))
    aligned = np.array(rows)
    if not np.isfinite(aligned).all():
        bad = ids[int(np.argmin(np.isfinite(aligned).all(axis=1)))]
        raise DataError(f"the score of {bad!r} is not finite: the model is broken; look at its training")
    return aligned


def _interval(numerator: NDArray[np.float64], weight: NDArray[np.float64]) -> Interval:
    low, high = _bounds(numerator[None], weight, 0.95, np.random.default_rng(0))
    return Interval(mean=float(numerator.sum() / weight.sum()), low=low, high=high)


def _share(hits: list[bool]) -> Interval:
    share = _interval(np.array(hits, dtype=float), np.ones(len(hits)))
    return Interval(mean=share.mean, low=max(0.0, share.low), high=min(1.0, share.high))


def _bounds(
    numerator: NDArray[np.float64], weight: NDArray[np.float64], level: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Two-sided interval of sum(numerator) / sum(weight); (seeds, examples) and (examples,) in.

    Every seed was scored on the same examples, so the two are crossed: a draw is the mean, plus how far seeds
    lie from it, by Student's t, plus how far resampled examples do. How far examples do is drawn in two ways,
    and the wider bound is taken on either side, because each alone accepts too much somewhere: a percentile
    bootstrap where differences are skewed (a few examples much worse), a studentized one where few differ at
    all (shares).
    Where the mean itself is skewed, both still end too early, and the level is raised by SKEW_SHARE of it;
    seeds are taken for symmetric. Figures are in the test of coverage.
    """
    seeds, examples = numerator.shape
    of_seeds = numerator.sum(axis=1) / weight.sum()
    mean = of_seeds.mean()
    error = float(of_seeds.std(ddof=1) / np.sqrt(seeds)) if seeds > 1 else 0.0  # of one nothing is known
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
    """Size of the skewness of a sum of such independent terms: theirs over the root of their number."""
    scale = float(np.abs(deviations).max())
    if scale == 0:
        return 0.0
    unit = deviations / scale  # their cubes neither overflow nor vanish
    return float(abs((unit**3).sum()) / (unit**2).sum() ** 1.5)


def _by_examples(
    numerator: NDArray[np.float64], weight: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(ratios of resampled examples less the ratio of all, -t times its standard error), one each a resample.

    t is a resample's deviation in its own standard errors, that of a ratio of means: where examples far off
    were not drawn, ratio and error are both too small, which t shows and the deviation alone does not.
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
    t = away / np.maximum(errors, LEAST_ERROR * whole_error)
    return away, -t * whole_error * np.sqrt(examples / (examples - 1))


def _ratio(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(ratio, its standard error) from sums over examples of a, b, aa, ab, bb, in the last dimension."""
    a, b, aa, ab, bb = np.moveaxis(sums, -1, 0)
    ratio = a / b
    return ratio, np.sqrt(np.maximum(0.0, aa - 2 * ratio * ab + ratio**2 * bb)) / b


def _widened(deviations: NDArray[np.float64], items: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Deviations of bootstrap means of ``items``, times sqrt(items / chi-square(items - 1)).

    That is items / (items - 1) for the variance that a resample lacks, and Student's t for not knowing it.
    One item says nothing of its spread, and none is claimed.
    """
    return deviations * np.sqrt(items / rng.chisquare(items - 1, RESAMPLES)) if items > 1 else deviations


def _counts(items: int, resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(resamples, items): how often each resample drew each item. 6 times as fast as ``rng.multinomial``."""
    drawn = rng.integers(items, size=(resamples, items), dtype=np.int32)
    drawn += (np.arange(resamples, dtype=np.int32) * items)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * items)
    return counts.reshape(resamples, items).astype(float)
