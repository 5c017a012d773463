"""Tell, before training is paid for, how much data is left and how many epochs it will see."""

from collections.abc import Mapping, Sequence

from deepcuts.components.core import step_facts
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


def forecast(receipts: Mapping[str, Sequence[Receipt]], recipe: Recipe) -> str:
    """Return ``37 rows -> 10 to train on: 16 also in valid or test, 11 near-duplicates; 163 epochs``.

    Empty if there is no receipt of select.
    """
    selected = receipts.get("select") or []
    if not selected:
        return ""
    facts = selected[-1].facts
    found = step_facts.read(SelectFacts, facts)
    if found is None:
        return ""
    counts = {words: int(facts.get(f"dropped_{key}") or 0) for key, words in REASONS.items()}
    gone = [f"{count:,} {words}" for words, count in counts.items() if count]
    epochs = recipe.budget_tokens / found.tokens if found.tokens else 0.0
    line = f"{found.examples:,} rows -> {found.kept:,} to train on{': ' * bool(gone)}{', '.join(gone)}"
    line += f"; {epochs:,.0f} epochs" if epochs >= 2 else f"; {epochs:.2g} epochs"
    if epochs > MANY_EPOCHS:
        line += " (memorizes: lower recipe.budget_tokens or give more rows; the best checkpoint is kept)"
    return BEGINNING + line
