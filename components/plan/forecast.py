"""Tell, before training is paid for, how much data is left and how many epochs it will see."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from deepcuts.components.core import epochs, step_facts
from deepcuts.components.core.receipts import Receipt
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.core.step_facts import SelectFacts

BEGINNING = "training data: "
"""Prefix of the line, which the command shows once the plan is made."""
MANY_EPOCHS = 20
"""Epochs from which a model memorizes its rows, and only the best checkpoint is worth keeping."""
REASONS = {
    "leak": "also in valid or test",
    "duplicate": "duplicates",
    "near_duplicate": "near-duplicates",
    "reordered": "reordered",
    "semantic_duplicate": "semantic duplicates",
    "budget": "over the budget",
}


def data_tokens(recipe: Recipe, receipts: Mapping[str, Sequence[Receipt]], base: Path, train: Path) -> int:
    """Return the tokens of a pass over ``train``; without epochs those that select counted, 0 if none did."""
    if recipe.epochs:
        from deepcuts.components.training.data_tokens import count  # transformers takes seconds to import

        return count(train, base)
    found = _selected(receipts)
    return found.tokens if found else 0


def forecast(receipts: Mapping[str, Sequence[Receipt]], recipe: Recipe, data_tokens: int) -> str:
    """Return ``37 rows -> 10 to train on: 16 also in valid or test; 450,000 tokens = 163 epochs``.

    Rows only where the receipts of select are among those given; empty where nothing was counted.
    """
    if not data_tokens:
        return ""
    length = epochs.in_words(recipe.budget_tokens, data_tokens)
    if recipe.budget_tokens > MANY_EPOCHS * data_tokens:
        less = "recipe.epochs or budget_tokens"
        length += f" (memorizes: lower {less}, or give more rows; the best checkpoint is kept)"
    found = _selected(receipts)
    if found is None:
        return BEGINNING + length
    facts = receipts["select"][-1].facts
    counts = {words: int(facts.get(f"dropped_{key}") or 0) for key, words in REASONS.items()}
    gone = [f"{count:,} {words}" for words, count in counts.items() if count]
    rows = f"{found.examples:,} rows -> {found.kept:,} to train on{': ' * bool(gone)}{', '.join(gone)}"
    return f"{BEGINNING}{rows}; {length}"


def _selected(receipts: Mapping[str, Sequence[Receipt]]) -> SelectFacts | None:
    selected = receipts.get("select")
    return step_facts.read(SelectFacts, selected[-1].facts) if selected else None
