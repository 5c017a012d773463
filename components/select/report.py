"""Report what was dropped and why, as records and as a page."""

from collections.abc import Mapping, Sequence

import msgspec

from deepcuts.components.core import escape, verdicts
from deepcuts.components.core.examples import Example
from deepcuts.components.core.markdown import table
from deepcuts.components.core.receipts import Facts
from deepcuts.components.select.near import Bands

REASONS = {
    "duplicate": "The same text and label, after normalisation",
    "leak": "Occurs, or nearly, in valid or test",
    "near_duplicate": "Nearly the same text, same label",
    "reordered": "Nearly the same words in any order, same label",
    "semantic_duplicate": "Same meaning to the base model, same label",
    "budget": "Worth less than the examples kept under the budget",
}
SHOWN = 5


class Dropped(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An Example that was not kept."""

    id: str
    reason: str
    tokens: int
    text: str
    of: str | None = None
    """Id of the Example kept in its place, or leaked by it."""
    of_text: str | None = None
    similarity: float | None = None


def markdown(facts: Facts, searches: Mapping[str, Bands], dropped: Sequence[Dropped]) -> str:
    """Render counts and tokens by reason, error rates of the search, SHOWN examples of each reason."""
    lines = [
        "# Select",
        f"{escape.markdown(verdicts.read(facts)[0].reason)}.",
        table(("what", "examples", "tokens"), _rows(facts, dropped), right=(1, 2)),
        *(_search(reason, bands) for reason, bands in searches.items()),
        "Exact Jaccard similarity then decides, so dropped rows are as similar as stated. Of duplicates the "
        "one with the longest answer is kept, then the longest text.",
        f"{facts['label_conflicts']:,} texts have more than one label; labels are never merged. "
        f"{facts['labels_lost']:,} labels lost all their examples.",
    ]
    for reason, title in REASONS.items():
        cases = [case for case in dropped if case.reason == reason]
        if cases:
            lines += [f"## {title}: {len(cases):,}", "\n".join(map(_case, cases[:SHOWN]))]
    return "\n\n".join(lines) + "\n"


def excerpt(example: Example) -> str:
    """Return the first 160 characters in one line."""
    return " ".join(" / ".join(message.content for message in example.messages).split())[:160]


def _search(reason: str, bands: Bands) -> str:
    name = reason.replace("_", " ").capitalize()
    return (
        f"{name}: {bands.bands} bands of {bands.rows} rows. Chance to miss a pair above the threshold "
        f"{bands.false_negative_rate:.1%}, to look at one below it {bands.false_positive_rate:.1%} (means "
        "over all similarities)."
    )


def _rows(facts: Facts, dropped: Sequence[Dropped]) -> list[tuple[str, str, str]]:
    rows = [("given", f"{facts['examples']:,}", f"{facts['corpus_tokens']:,}")]
    for reason in REASONS:
        tokens = [case.tokens for case in dropped if case.reason == reason]
        rows.append((reason.replace("_", " "), f"{len(tokens):,}", f"{sum(tokens):,}"))
    return [*rows, ("**kept**", f"{facts['kept']:,}", f"{facts['tokens']:,}")]


def _case(case: Dropped) -> str:
    line = f"- {escape.code(case.id)} {escape.code(case.text)}"
    if case.of is not None and case.of_text is not None:
        line += f"\n  {case.similarity:.2f} with {escape.code(case.of)} {escape.code(case.of_text)}"
    return line
