"""How much of a valid split is scored: never more than a share of what the training costs."""

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
"""Of a trained token's cost, what a scored one costs: no backward pass."""
MIN_EXAMPLES = 32
"""Scored in any case: a mean of fewer says little, and so few cost seconds."""


class ValidSample(NamedTuple):
    """What of a valid split is scored."""

    data: list[Rendered]
    digest: str
    """Names the sample; the split's own where it is all of it."""
    facts: Facts


def read(split: Path, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> ValidSample:
    """Return the sample that a training scores at its end; an empty split is fine."""
    data = scoring.read(split, tokenizer)
    drawn = draw(data, affordable_tokens(recipe))
    name = key(files.digest(split), drawn, len(data))
    return ValidSample([data[i] for i in drawn], name, facts(drawn, len(data)))


def score(loss: CompletionLoss, split: Path, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Facts:
    """Return the ``valid_loss`` of the sample and its size."""
    sample = read(split, tokenizer, recipe)
    return {"valid_loss": scoring.mean_loss(loss, sample.data), **sample.facts}


def affordable_tokens(recipe: Recipe) -> int:
    """Return the tokens that may be scored in a training: ``scoring_share`` of its cost."""
    return int(recipe.scoring_share * recipe.budget_tokens / FORWARD_SHARE)


def draw(data: Sequence[Rendered], tokens: int) -> list[int]:
    """Return examples of at most ``tokens`` together, or ``MIN_EXAMPLES``, in their own order.

    They are the first of one shuffled order, so that all who score a split compare on the same examples.
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
    """Return a name for the drawn examples: the split's own digest if all of it is drawn."""
    if len(drawn) == count:
        return split_digest
    return hashlib.sha256(f"{split_digest} {list(drawn)}".encode()).hexdigest()


def facts(drawn: Sequence[object], count: int) -> Facts:
    """Return how many examples were scored, and how many were not, for their cost."""
    return {"valid_examples": len(drawn), "valid_examples_left_out": count - len(drawn)}
