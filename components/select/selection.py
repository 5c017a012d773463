"""A selection in this process, with all Examples in memory."""

from collections.abc import Sequence, Set
from pathlib import Path

from deepcuts.components.core import examples
from deepcuts.components.core.examples import Example
from deepcuts.components.core.progress import ProgressLog
from deepcuts.components.core.receipts import Facts
from deepcuts.components.select import budget, duplicates, near, reader
from deepcuts.components.select.duplicates import Match
from deepcuts.components.select.near import Bands
from deepcuts.components.select.reader import Reader
from deepcuts.components.select.remaining import Excerpt, show
from deepcuts.components.select.report import Dropped
from deepcuts.components.select.representations import Vectors
from deepcuts.components.select.represented import Represented
from deepcuts.components.training import stored_lengths


class Selection(Represented):
    """A choice among ``given``; ``records`` are these in the order of preference."""

    def __init__(self, base: Path, embedder_uri: str, given: Sequence[Example]) -> None:
        self.order = duplicates.by_preference(given)
        self.records = [given[row] for row in self.order]
        model = Reader(base, embedder_uri)
        lengths = stored_lengths.lengths(self.records, model.tokenizer)
        super().__init__(lengths, [record.label for record in self.records], model)
        self.texts = [duplicates.text(record) for record in self.records]
        self._held: Sequence[Example] = ()

    def drop_duplicates(
        self, near_threshold: float, word_threshold: float, held: Sequence[Example]
    ) -> dict[str, Bands]:
        """Drop exact duplicates, rows (nearly) in ``held`` under any label, and near-duplicates.

        First by shingles, then, with a ``word_threshold`` below 1, by words; return each search's bands.

        Raises:
            DataError: all remaining rows are in ``held``.
        """
        searches, self._held = near.searches(near_threshold, word_threshold), held
        with self.timed("exact_seconds"):
            self._drop("duplicate", duplicates.exact(self._texts(), self._labels()))
        with self.timed("sketch_seconds"):
            sketches = {reason: near.sketch(self._texts(), view) for reason, (view, _) in searches.items()}
        with self.timed("leak_seconds"):
            said = [duplicates.text(record) for record in held]
            for reason, (view, threshold) in searches.items():
                found = near.near_others(sketches[reason], near.sketch(said, view), threshold)
                stay = self._drop("leak", found)
                sketches = {name: sketch.only(stay) for name, sketch in sketches.items()}
        if not self.rows:
            raise near.nothing_left(near_threshold, word_threshold)
        for reason, (_, threshold) in searches.items():
            with self.timed(f"{reason}_seconds"):
                found = near.near_duplicates(sketches.pop(reason), self._labels(), threshold)
                stay = self._drop(reason, found)
                sketches = {name: sketch.only(stay) for name, sketch in sketches.items()}
        return {reason: near.choose_bands(threshold) for reason, (_, threshold) in searches.items()}

    def random(self, seed: int) -> list[int]:
        return budget.shuffled([self.records[row].id for row in self.rows], seed)

    def write(self, cut: Path) -> None:
        """Write the remaining Examples in the order of the corpus."""
        kept = sorted(self.rows, key=lambda row: self.order[row])
        examples.write(cut, (self.records[row] for row in kept))

    def dropped(self) -> list[Dropped]:
        """Return the dropped rows for the report."""
        shown: dict[int, Excerpt] = {row: show(self.records[row]) for row in self.named()}
        return self.cases(shown, self._held)

    def facts(self) -> Facts:
        """Return the selection as facts of the receipt."""
        conflicts = duplicates.conflicts(self.texts, self.labels)
        return super().facts() | {"label_conflicts": conflicts}

    def _left(self) -> list[Example]:
        return [self.records[row] for row in self.rows]

    def _texts(self) -> list[str]:
        return [self.texts[row] for row in self.rows]

    def _labels(self) -> list[str | None]:
        return [self.labels[row] for row in self.rows]

    def _drop(self, reason: str, found: Sequence[Match]) -> list[int]:
        """Drop ``found``, whose rows are positions in ``rows``; of a leak, ``of`` is one in ``held``."""
        of = list(range(len(self._held))) if reason == "leak" else self.rows
        return self.drop(reason, [Match(self.rows[m.row], of[m.of], m.similarity) for m in found])

    def _read_vectors(self) -> Vectors:
        return self._embed(self._left())

    def _read_nats(self) -> list[float]:
        left = self._left()
        progress = ProgressLog(len(left), "examples scored")
        chunks = (left[start : start + reader.CHUNK] for start in range(0, len(left), reader.CHUNK))
        return [nats for chunk in chunks for nats in self._reader.nats(chunk, progress.add)]

    def _has_word_of(self, words: Set[str]) -> bool:
        return not words.isdisjoint(word for text in self._texts() for word in text.split())
