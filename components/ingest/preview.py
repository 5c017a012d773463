"""What ingest found, counted while the rows pass, and the page that shows it."""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from components.core import escape
from components.core.examples import Example
from components.core.receipts import Facts
from components.ingest.readers import BadRow
from components.training.render import Rendered

SHOWN_EXAMPLES = 3


@dataclass
class Tally:
    format: str
    skipped: list[str]
    """Files that were not read."""
    rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    """Bad rows by reason."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """``file:line`` of the first bad rows of each reason."""
    too_long: int = 0
    overlap_removed: int = 0
    split_conversations: int = 0
    """Made one example a turn, as their template writes earlier answers differently."""
    examples: Counter[str] = field(default_factory=Counter)
    """Kept, by split."""
    labels: set[str] = field(default_factory=set)
    train_lengths: "array[int]" = field(default_factory=lambda: array("L"))
    """Tokens of each training example."""
    answer_tokens: int = 0
    """Tokens of the training examples that are learned."""
    shown: list[Rendered] = field(default_factory=list)
    """The first training examples."""

    def set_aside(self, row: BadRow) -> None:
        self.bad[row.reason] += 1
        places = self.where.setdefault(row.reason, [])
        if len(places) < 3:
            places.append(f"{row.file}:{row.line}")

    def keep(self, split: str, example: Example, rendered: Rendered) -> None:
        self.examples[split] += 1
        if example.label is not None:
            self.labels.add(example.label)
        if split == "train":
            self.train_lengths.append(len(rendered.ids))
            self.answer_tokens += sum(rendered.mask)
            if len(self.shown) < SHOWN_EXAMPLES:
                self.shown.append(rendered)

    def facts(self) -> Facts:
        return {
            "format": self.format,
            "rows": self.rows,
            "kept": self.examples.total(),
            "bad": self.bad.total(),
            "too_long": self.too_long,
            "overlap_removed": self.overlap_removed,
            "split_conversations": self.split_conversations,
            "train": self.examples["train"],
            "valid": self.examples["valid"],
            "test": self.examples["test"],
            "tokens": sum(self.train_lengths),
            "answer_tokens": self.answer_tokens,
            "labels": len(self.labels),
        }

    def worst(self) -> list[str]:
        """The three most frequent reasons, one line each."""
        return [
            f"{count} x {reason} ({', '.join(self.where[reason])})"
            for reason, count in self.bad.most_common(3)
        ]


def markdown(tally: Tally, max_tokens: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """The page: format, splits, what was set aside and why, tokens, examples with their answers marked."""
    lengths = sorted(tally.train_lengths)
    tokens = sum(lengths)
    median, high = lengths[len(lengths) // 2], lengths[len(lengths) * 9 // 10]
    lines = [
        "# Ingest",
        f"Format {escape.code(tally.format)}, {tally.rows:,} rows, {tally.examples.total():,} kept.",
        _table(
            ("split", "examples"),
            [(split, f"{tally.examples[split]:,}") for split in ("train", "valid", "test")],
        ),
        "## Set aside",
        _table(("why", "rows", "where"), list(_reasons(tally, max_tokens))),
        f"{len(tally.skipped):,} files not read{': ' * bool(tally.skipped)}"
        + f"{', '.join(map(escape.code, tally.skipped[:20]))}.",
        "## Training tokens",
        f"{tokens:,} tokens, {tally.answer_tokens:,} ({tally.answer_tokens / tokens:.0%}) of them learned; "
        f"an example has {median:,} at the median, {high:,} at the 90th percentile, {lengths[-1]:,} at most.",
    ]
    if tally.split_conversations:
        lines.append(
            f"{tally.split_conversations:,} conversations are trained as one example a turn: the chat "
            "template writes earlier answers differently later."
        )
    if tally.labels:
        lines.append(f"{len(tally.labels):,} labels.")
    lines += ["## The first examples", "What is learned stands between ⟦ and ⟧."]
    lines += [escape.block(marked(rendered, tokenizer)) for rendered in tally.shown]
    return "\n\n".join(lines) + "\n"


def marked(rendered: Rendered, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of ``rendered``, special tokens included, with what is learned between ⟦ and ⟧."""
    text = ""
    for learned, run in groupby(zip(rendered.ids, rendered.mask, strict=True), key=lambda pair: pair[1]):
        part = tokenizer.decode([token for token, _ in run])
        text += f"⟦{part}⟧" if learned else str(part)
    return text


def _reasons(tally: Tally, max_tokens: int) -> Iterator[tuple[str, str, str]]:
    if tally.too_long:
        yield f"more than {max_tokens:,} tokens", f"{tally.too_long:,}", ""
    if tally.overlap_removed:
        yield "stands in test or valid too", f"{tally.overlap_removed:,}", ""
    for reason, count in tally.bad.most_common(20):
        yield reason, f"{count:,}", ", ".join(tally.where[reason])


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return "Nothing."
    cells = [header, ("---",) * len(header), *(tuple(map(escape.markdown, row)) for row in rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)
