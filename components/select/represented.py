"""What a selection does with a model's vectors and losses, on any engine."""

from abc import ABC, abstractmethod
from collections.abc import Sequence, Set

import numpy as np

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example
from deepcuts.components.core.progress import ProgressLog
from deepcuts.components.core.receipts import Facts
from deepcuts.components.select import duplicates, reader
from deepcuts.components.select.coverage import coverage
from deepcuts.components.select.duplicates import Match
from deepcuts.components.select.loss import middling
from deepcuts.components.select.reader import Reader
from deepcuts.components.select.remaining import Remaining
from deepcuts.components.select.representations import Vectors, directions
from deepcuts.components.select.semantic import semantic_duplicates
from deepcuts.components.select.target import target


class Represented(Remaining, ABC):
    """Remaining rows, which a Reader reads when a method asks for it; vectors are in this process."""

    def __init__(self, lengths: Sequence[int], labels: Sequence[str | None], model: Reader) -> None:
        super().__init__(lengths, labels)
        self._reader = model
        self._vectors: Vectors | None = None

    @abstractmethod
    def _read_vectors(self) -> Vectors:
        """Represent all remaining rows."""

    @abstractmethod
    def _read_nats(self) -> list[float]:
        """Return the loss per answer token of all remaining rows."""

    @abstractmethod
    def _has_word_of(self, words: Set[str]) -> bool:
        """Tell whether a remaining row has one of ``words``."""

    def drop_semantic(self, threshold: float) -> None:
        """Drop rows that mean the same to the model and have the same label."""
        vectors = self._embedded()
        with self.timed("semantic_seconds"):
            unit = directions(vectors, vectors.mean(0))
            labels = [self.labels[row] for row in self.rows]
            found = [
                Match(self.rows[m.row], self.rows[m.of], m.similarity)
                for m in semantic_duplicates(unit, labels, threshold)
            ]
            self._vectors = vectors[self.drop("semantic_duplicate", found)]

    def coverage(self, budget_tokens: int, seed: int) -> list[int]:
        vectors = self._embedded()
        with self.timed("choose_seconds"):
            unit = directions(vectors, vectors.mean(0))
            return coverage(unit, [self.lengths[row] for row in self.rows], budget_tokens, seed)

    def target(self, wanted: Sequence[Example]) -> list[int]:
        """Order by similarity to ``wanted``; raises DataError if it is empty or shares no word."""
        if not self._has_word_of({word for record in wanted for word in duplicates.text(record).split()}):
            raise DataError(
                f"the {len(wanted)} examples of valid share no word with the corpus: "
                "give a valid file of the same kind, or another method"
            )
        vectors = self._embedded()
        with self.timed("embed_seconds"):
            theirs = self._embed(wanted)
        with self.timed("choose_seconds"):
            centre = vectors.mean(0)
            return target(directions(vectors, centre), directions(theirs, centre))

    def middling(self) -> list[int]:
        with self.timed("score_seconds"):
            return middling(self._read_nats())

    def facts(self) -> Facts:
        """Return the selection as facts of the receipt."""
        return super().facts() | {"scoring_tokens": self._reader.tokens}

    def _embedded(self) -> Vectors:
        if self._vectors is None:
            with self.timed("embed_seconds"):
                self._vectors = self._read_vectors()
        return self._vectors

    def _embed(self, records: Sequence[Example]) -> Vectors:
        """Represent Examples in this process."""
        progress = ProgressLog(len(records), "examples embedded")
        chunks = (records[start : start + reader.CHUNK] for start in range(0, len(records), reader.CHUNK))
        return np.concatenate([self._reader.embed(chunk, progress.add) for chunk in chunks])
