"""Count what ingest finds, in memory that does not grow with the data."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field

import msgspec

from deepcuts.components.core.examples import Example
from deepcuts.components.core.receipts import Facts
from deepcuts.components.ingest.rows import BadRow

SHOWN_EXAMPLES = 3
SEEN_BITS = 27
"""16 MB per split: of ten million ids, about 0.2 % are falsely taken as seen and get an extra number."""


class Seen:
    """Set of seen names in a bitmap of fixed size (a Bloom filter of 6 hashes), without false negatives."""

    def __init__(self) -> None:
        self._bits = bytearray(1 << SEEN_BITS - 3)

    def add(self, name: str) -> bool:
        """Add ``name``; return whether it was seen before."""
        digest = hashlib.blake2b(name.encode(), digest_size=24).digest()
        known = True
        for start in range(0, 24, 4):
            place = int.from_bytes(digest[start : start + 4]) >> 32 - SEEN_BITS
            known &= bool(self._bits[place >> 3] & 1 << (place & 7))
            self._bits[place >> 3] |= 1 << (place & 7)
        return known


@dataclass
class Tally:
    """Counts of one pass over the data."""

    format: str
    took: str
    """How the format was detected."""
    skipped: list[str]
    """Files that were not read."""
    files: dict[str, list[str]] = field(default_factory=dict)
    """Names of the files read for each split."""
    dialects: list[str] = field(default_factory=list)
    """Files that are not plain UTF-8 with the usual delimiter, with their dialect."""
    rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    """Bad rows by reason."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """``file:line`` of the first bad rows of each reason."""
    changes: Counter[str] = field(default_factory=Counter)
    """Repairs, and unused parts of rows."""
    too_long: int = 0
    overlap_removed: int = 0
    split_conversations: int = 0
    """Conversations made into one example per turn, as their template writes earlier answers differently."""
    examples: Counter[str] = field(default_factory=Counter)
    """Examples kept, by split."""
    labels: set[str] = field(default_factory=set)
    lengths: Counter[int] = field(default_factory=Counter)
    """Number of training examples by length in tokens."""
    answer_tokens: int = 0
    """Learned tokens of the training examples."""
    shown: list[Example] = field(default_factory=list)
    """The first training examples."""
    shortest: Example | None = None
    longest: Example | None = None
    _ids: dict[str, Seen] = field(default_factory=dict)

    def set_aside(self, row: BadRow) -> None:
        """Count a bad row."""
        self.bad[row.reason] += 1
        places = self.where.setdefault(row.reason, [])
        if len(places) < 3:
            places.append(f"{row.file}:{row.line}")

    def named(self, split: str, example: Example) -> Example:
        """Return ``example`` with an id that is unique in its split."""
        seen = self._ids.get(split) or self._ids.setdefault(split, Seen())  # one bitmap per split
        if not seen.add(example.id):
            return example
        self.changes["duplicate ids, renumbered"] += 1
        number = self.examples.total()
        while seen.add(name := f"{example.id}~{number}"):
            number += 1
        return msgspec.structs.replace(example, id=name)

    def keep(self, split: str, example: Example, answer_tokens: int) -> None:
        """Count a written Example."""
        self.examples[split] += 1
        if example.label is not None:
            self.labels.add(example.label)
        if split != "train":
            return
        self.lengths[example.tokens] += 1
        self.answer_tokens += answer_tokens
        if len(self.shown) < SHOWN_EXAMPLES:
            self.shown.append(example)
        if self.longest is None or example.tokens > self.longest.tokens:
            self.longest = example
        if self.shortest is None or example.tokens < self.shortest.tokens:
            self.shortest = example

    @property
    def tokens(self) -> int:
        """Count the tokens of all training examples."""
        return sum(length * count for length, count in self.lengths.items())

    def length_at(self, share: float) -> int:
        """Return a quantile of the training examples' lengths; 0.5 is the median."""
        place = min(int(self.examples["train"] * share), self.examples["train"] - 1)
        for length in sorted(self.lengths):
            place -= self.lengths[length]
            if place < 0:
                return length
        return 0

    def facts(self) -> Facts:
        """Return the counts, for the receipt."""
        return {
            "format": self.format,
            "took": self.took,
            "rows": self.rows,
            "kept": self.examples.total(),
            "bad": self.bad.total(),
            "too_long": self.too_long,
            "overlap_removed": self.overlap_removed,
            "split_conversations": self.split_conversations,
            "changes": "; ".join(f"{count} x {what}" for what, count in self.changes.most_common(20)),
            "files_read": self.files_read(),
            "files_not_read": ", ".join(self.skipped[:20]),
            "dialects": "; ".join(self.dialects[:20]),
            "train": self.examples["train"],
            "valid": self.examples["valid"],
            "test": self.examples["test"],
            "tokens": self.tokens,
            "answer_tokens": self.answer_tokens,
            "labels": len(self.labels),
        }

    def files_read(self) -> str:
        """Return ``train from train.csv, valid from dev.csv, val.csv``, at most three files per split."""
        return "; ".join(
            f"{split} from {', '.join(names[:3])}" + f" and {len(names) - 3} more" * (len(names) > 3)
            for split, names in self.files.items()
        )

    def worst(self) -> list[str]:
        """Return the three most frequent reasons, one line each."""
        return [
            f"{count} x {reason} ({', '.join(self.where[reason])})"
            for reason, count in self.bad.most_common(3)
        ]
