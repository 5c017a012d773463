"""Sample a valid split, so that scoring costs no more than a share of the training."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core import files
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training import scoring
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered

FORWARD_SHARE = 1 / 3
"""Cost of scoring a token relative to training on it: there is no backward pass."""
MIN_EXAMPLES = 32
"""Always scored: the mean of fewer says little, and these take seconds."""


class ValidSample(NamedTuple):
    """The part of a valid split to score."""

    data: list[Rendered]
    digest: str
    """Identifies the sample; the split's own digest if it is the whole split."""
    facts: Facts


def read(split: Path, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> ValidSample:
    """Read the sample that a training scores at its end; an empty split is allowed."""
    data = scoring.read(split, tokenizer)
    drawn = draw(data, affordable_tokens(recipe))
    name = key(files.digest(split), drawn, len(data))
    return ValidSample([data[i] for i in drawn], name, facts(drawn, len(data)))


def score(loss: CompletionLoss, split: Path, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Facts:
    """Return the ``valid_loss`` of the sample, and its size."""
    sample = read(split, tokenizer, recipe)
    return {"valid_loss": scoring.mean_loss(loss, sample.data), **sample.facts}


def affordable_tokens(recipe: Recipe) -> int:
    """Return the number of tokens that may be scored in a training: ``scoring_share`` of its cost."""
    return int(recipe.scoring_share * recipe.budget_tokens / FORWARD_SHARE)


def draw(data: Sequence[Rendered], tokens: int) -> list[int]:
    """Draw examples with at most ``tokens`` in total, or ``MIN_EXAMPLES``; return them in their own order.

    They are the first of a fixed shuffled order, so that all scores of a split are on the same examples.
    """
    order = list(range(len(data)))
    random.Random(0).shuffle(order)
    drawn, total = [], 0
    for place, example in enumerate(order):
        total += len(data[example].ids)
        if total > tokens and place >= MIN_EXAMPLES:
            break
        drawn.append(example)
    return sorted(drawn)


def key(split_digest: str, drawn: Sequence[int], count: int) -> str:
    """Identify the drawn examples; it is the split's own digest if all are drawn."""
    if len(drawn) == count:
        return split_digest
    return hashlib.sha256(f"{split_digest} {list(drawn)}".encode()).hexdigest()


def facts(drawn: Sequence[object], count: int) -> Facts:
    """Return how many examples were scored, and how many were left out to save cost."""
    return {"valid_examples": len(drawn), "valid_examples_left_out": count - len(drawn)}
