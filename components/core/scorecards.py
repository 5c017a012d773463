"""Scorecard: per-example scores of one model on one split, and paired comparison of two models.

Bare means are never compared: ``compare`` resamples both seeds and examples, because two seeds of one method
differ "significantly" if only examples are resampled (docs/DESIGN.md, Equal quality).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from deepcuts.components.core import bootstrap, files, former_names
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.strict import MALFORMED

Metric = Literal["completion_loss", "exact_match", "label_accuracy"]
LOWER_IS_BETTER: dict[Metric, bool] = {"completion_loss": True, "exact_match": False, "label_accuracy": False}


GENERAL = "general.jsonl"
"""File with scores on general text, if evaluate was asked for them."""
SAMPLES = "samples.jsonl"
"""File with the model's answers to the first examples."""


class Score(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Scores of one model on one Example."""

    id: str
    answer_nats: float
    """Negative log-likelihood of all answer tokens, in nats."""
    answer_tokens: int
    exact_match: bool | None = None
    label_correct: bool | None = None
    predicted: str | None = None
    """The answer of greedy decoding or label scoring."""


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question of the split and a model's answer."""

    id: str
    question: str
    expected: str
    answer: str


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
    completion_loss: Interval
    """Nats per answer token, pooled: total nats over total answer tokens."""
    perplexity: float
    exact_match: Interval | None = None
    label_accuracy: Interval | None = None
    seed: int = 0
    """Seed of the run that trained the model; pairs runs in ``compare``."""


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Comparison of a candidate with a reference; positive means worse."""

    metric: Metric
    margin: float
    worse_by: float
    """How much worse the candidate is, in the metric's own unit; negative is better."""
    low: float
    high: float
    """Two-sided 90 % interval; its upper end is the one-sided 95 % bound of the non-inferiority test."""
    non_inferior: bool
    """``high < margin``."""
    examples: int
    seeds: int


def summarise(scores: Sequence[Score], model_digest: str, split_digest: str, seed: int) -> Scorecard:
    """Summarise per-example scores as a Scorecard, with seeded bootstrap intervals over examples.

    Raises:
        DataError: there are no scores, or one is not finite.
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
        completion_loss=loss,
        perplexity=float(np.exp(min(loss.mean, 700.0))),
        exact_match=_share(matches) if matches else None,
        label_accuracy=_share(labels) if labels else None,
        seed=seed,
    )


def write(
    folder: Path, card: Scorecard, scores: Sequence[Score], extra: Mapping[str, bytes] = MappingProxyType({})
) -> None:
    """Write ``scorecard.json``, ``scores.jsonl`` and the files of ``extra``, all of them or none."""
    with files.staged(folder) as staging:
        staging.mkdir()
        staging.joinpath("scorecard.json").write_bytes(
            msgspec.json.format(msgspec.json.encode(card), indent=1)
        )
        staging.joinpath("scores.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(scores))
        for name, content in extra.items():
            staging.joinpath(name).write_bytes(content)


def read(folder: Path) -> Scorecard:
    """Read the summary in a Scorecard folder.

    Raises:
        FileNotFoundError: there is no Scorecard.
        DataError: it is not a Scorecard.
    """
    return _decode(folder / "scorecard.json", Scorecard)


def read_scores(folder: Path, name: str = "scores.jsonl") -> list[Score]:
    """Read the per-example scores in a Scorecard folder; pass ``GENERAL`` for those on general text."""
    path = folder / name
    decoder = msgspec.json.Decoder(Score)
    try:
        return [decoder.decode(line) for line in path.read_bytes().splitlines()]
    except MALFORMED as error:
        raise DataError(f"{path}: not per-example scores ({error}): run evaluate again") from error


def read_samples(folder: Path) -> list[Sample]:
    """Read the model's answers to the first examples; empty if an older evaluate kept none."""
    path = folder / SAMPLES
    if not path.exists():
        return []
    try:
        return msgspec.json.Decoder(Sample).decode_lines(path.read_bytes())
    except MALFORMED as error:
        raise DataError(f"{path}: not sample answers ({error}): run evaluate again") from error


def compare(
    candidates: Sequence[Sequence[Score]],
    references: Sequence[Sequence[Score]],
    metric: Metric,
    margin: float,
    seed: int,
) -> Comparison:
    """Test that the candidate is worse by less than ``margin``, paired by seed and example.

    Args:
        candidates: Scores of one run per seed.
        references: The same, in the same order of seeds.
        metric: The metric to compare.
        margin: Largest loss of quality that counts as equal, fixed before the run; > 0.
        seed: Seed of the resampling.

    Raises:
        ValueError: different numbers of runs, examples or tokenizers, or a metric that was not measured.
        DataError: a score is not finite, an id occurs twice, or there is only one example.
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
    low, high = bootstrap.interval(worse, weights, 0.90, np.random.default_rng(seed))
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
    """Return the smallest difference that a comparison of this width detects in 80 % of cases.

    It is (1.645 + 0.842) standard errors (one-sided 5 %, power 80 %); the 90 % interval is 2 x 1.645 wide.
    """
    return (1.645 + 0.842) * (comparison.high - comparison.low) / (2 * 1.645)


def _decode(path: Path, kind: type[Scorecard]) -> Scorecard:
    try:
        return msgspec.json.decode(former_names.current(path.read_bytes()), type=kind)
    except MALFORMED as error:
        raise DataError(f"{path}: not a Scorecard ({error}): run evaluate again") from error


def _aligned(run: Sequence[Score], ids: list[str], metric: Metric) -> NDArray[np.float64]:
    """Return (examples, 2): numerator and weight of each example, in the order of ``ids``."""
    by_id = {score.id: score for score in run}
    if len(by_id) != len(run):
        raise DataError(f"{len(run) - len(by_id)} ids occur twice in a run's scores: evaluate it again")
    if set(by_id) != set(ids):
        missing = sorted(set(ids) ^ set(by_id))
        raise ValueError(
            f"the runs were scored on different examples ({len(missing)} differ, first {missing[0]!r}): "
            "evaluate all of them on the same split"
        )
    rows = []
    for name in ids:
        score = by_id[name]
        if metric == "completion_loss":
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
    low, high = bootstrap.interval(numerator[None], weight, 0.95, np.random.default_rng(0))
    return Interval(mean=float(numerator.sum() / weight.sum()), low=low, high=high)


def _share(hits: list[bool]) -> Interval:
    share = _interval(np.array(hits, dtype=float), np.ones(len(hits)))
    return Interval(mean=share.mean, low=max(0.0, share.low), high=min(1.0, share.high))
