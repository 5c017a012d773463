"""Score general text to measure what a model forgot in training (measure ``general``)."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.scorecards import Score
from deepcuts.components.training import models, scoring
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered

MEASURE = "general"
"""``general`` for the text we ship, ``general:FILE`` for your own passages, separated by blank lines."""
SHIPPED = Path(__file__).parent / "general.txt"


def path_of(measures: Sequence[str]) -> Path | None:
    """Return the text the measures ask for; None if they ask for none."""
    for measure in measures:
        if measure == MEASURE or measure.startswith(f"{MEASURE}:"):
            return Path(measure.partition(":")[2] or SHIPPED)
    return None


def passages(path: Path) -> list[str]:
    """Return the passages of a text.

    Raises:
        DataError: there are fewer than two, too few for an interval.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a text after {MEASURE}:, or {MEASURE} alone")
    parts = path.read_text(encoding="utf-8").split("\n\n")
    found = [" ".join(part.split()) for part in parts if part.strip()]
    if len(found) < 2:
        raise DataError(f"{path} has {len(found)} passages: separate at least two by a blank line")
    return found


def score(
    answer_nats: Callable[[Sequence[Rendered]], list[tuple[float, int]]],
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    context: int,
) -> list[Score]:
    """Score each passage as plain text, cut at ``context``: nats of every token but the first.

    ``answer_nats`` scores examples with the model's engine, like ``scoring.answer_nats``.
    """
    rows = [tokenizer(text, verbose=False)["input_ids"][:context] for text in texts]
    nats = answer_nats([Rendered(row, [0] + [1] * (len(row) - 1)) for row in rows])
    return [Score(f"general-{number}", total, tokens) for number, (total, tokens) in enumerate(nats)]


def score_network(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[Score]:
    """Score each passage with a transformers model, cut at its context."""
    nats = partial(scoring.answer_nats, CompletionLoss(network))
    return score(nats, tokenizer, texts, models.context_length(network))
