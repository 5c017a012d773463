"""Tokens of one pass over a file of examples, which ``recipe.epochs`` count."""

from collections.abc import Sequence
from pathlib import Path

from deepcuts.components.core import epochs, examples
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training import stored_lengths
from deepcuts.components.training.render import Rendered, load_tokenizer


def of(data: Sequence[Rendered]) -> int:
    """Return the tokens of all examples."""
    return sum(len(rendered.ids) for rendered in data)


def count(train: Path, base: Path) -> int:
    """Return the tokens of all examples of ``train``, as the tokenizer of ``base`` counts them."""
    return sum(stored_lengths.lengths(examples.read(train), load_tokenizer(base)))


def settled(recipe: Recipe, train: Path, base: Path) -> Recipe:
    """Return the Recipe with its epochs over ``train`` as ``budget_tokens``; without epochs nothing is read.

    Who trains and who watches count the same files, so both get the same tokens and the same training id.
    """
    return epochs.settled(recipe, count(train, base)) if recipe.epochs else recipe
