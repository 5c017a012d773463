"""Epochs: passes over the data as trained tokens, and the other way round."""

import msgspec

from deepcuts.components.core.recipe import Recipe


def settled(recipe: Recipe, data_tokens: int) -> Recipe:
    """Return the Recipe with its epochs over ``data_tokens`` as ``budget_tokens``; without epochs as it is.

    Raises:
        ValueError: they are less than one token, or contradict the Recipe's other fields.
    """
    if not recipe.epochs:
        return recipe
    budget = round(recipe.epochs * data_tokens)
    if budget < 1:
        raise ValueError(f"recipe.epochs {recipe.epochs:g} of {data_tokens:,} tokens: not one: raise epochs")
    return msgspec.structs.replace(recipe, epochs=None, budget_tokens=budget)


def in_words(tokens: int, data_tokens: int) -> str:
    """Say ``450,000 tokens = 12.3 epochs``."""
    epochs = tokens / data_tokens
    shown = f"{epochs:,.0f}" if epochs >= 100 else f"{epochs:.3g}"
    return f"{tokens:,} tokens = {shown} epoch{'s' * (shown != '1')}"
