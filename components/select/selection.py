"""A selection in this process, with all Examples in memory."""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedModel

from deepcuts.components.core import examples
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example
from deepcuts.components.core.progress import ProgressLog
from deepcuts.components.core.receipts import Facts
from deepcuts.components.select import budget, duplicates, near
from deepcuts.components.select.coverage import coverage
from deepcuts.components.select.duplicates import Match
from deepcuts.components.select.loss import middling
from deepcuts.components.select.near import Bands
from deepcuts.components.select.remaining import Excerpt, Remaining, show
from deepcuts.components.select.report import Dropped
from deepcuts.components.select.representations import Vectors, directions, embed
from deepcuts.components.select.semantic import semantic_duplicates
from deepcuts.components.select.target import target
from deepcuts.components.training import models, scoring, stored_lengths
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered

if TYPE_CHECKING:
    from deepcuts.components.select.embedder import Embedder

CHUNK = 8192
"""Examples rendered at a time, as the token ids of a million are gigabytes as Python lists."""


class Selection(Remaining):
    """A choice among ``given``; ``records`` are these in the order of preference."""

    def __init__(self, base: Path, embedder_uri: str, given: Sequence[Example]) -> None:
        self.order = duplicates.by_preference(given)
        self.base, self.embedder_uri, self.records = base, embedder_uri, [given[row] for row in self.order]
        self.tokenizer = models.load_tokenizer(base)
        super().__init__(
            stored_lengths.lengths(self.records, self.tokenizer), [record.label for record in self.records]
        )
        self.texts = [duplicates.text(record) for record in self.records]
        self.scoring_tokens = 0
        self._held: Sequence[Example] = ()
        self._vectors: Vectors | None = None

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

    def drop_semantic(self, threshold: float) -> None:
        """Drop rows that mean the same to the base model and have the same label."""
        vectors = self._embedded()
        with self.timed("semantic_seconds"):
            unit = directions(vectors, vectors.mean(0))
            found = semantic_duplicates(unit, self._labels(), threshold)
            stay = self._drop("semantic_duplicate", found)
            self._vectors = vectors[stay]

    def random(self, seed: int) -> list[int]:
        return budget.shuffled([self.records[row].id for row in self.rows], seed)

    def coverage(self, budget_tokens: int, seed: int) -> list[int]:
        vectors = self._embedded()
        with self.timed("choose_seconds"):
            unit = directions(vectors, vectors.mean(0))
            return coverage(unit, [self.lengths[row] for row in self.rows], budget_tokens, seed)

    def target(self, wanted: Sequence[Example]) -> list[int]:
        """Order by similarity to ``wanted``; raises DataError if it is empty or shares no word."""
        words = {word for record in wanted for word in duplicates.text(record).split()}
        if words.isdisjoint(word for text in self._texts() for word in text.split()):
            raise DataError(
                f"the {len(wanted)} examples of valid share no word with the corpus: "
                "give a valid file of the same kind, or another method"
            )
        vectors = self._embedded()
        theirs = self._embed(wanted)
        with self.timed("choose_seconds"):
            centre = vectors.mean(0)
            return target(directions(vectors, centre), directions(theirs, centre))

    def middling(self) -> list[int]:
        with self.timed("score_seconds"):
            loss = CompletionLoss(self._network)
            progress = ProgressLog(len(self.rows), "examples scored")
            chunks = self._rendered(self._left())
            scores = [s for data in chunks for s in scoring.answer_nats(loss, data, progress.add)]
            nats = [total / tokens for total, tokens in scores]
            self._check_finite([math.isfinite(value) for value in nats], self._left())
            return middling(nats)

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
        return super().facts() | {"label_conflicts": conflicts, "scoring_tokens": self.scoring_tokens}

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

    def _embedded(self) -> Vectors:
        if self._vectors is None:
            self._vectors = self._embed(self._left())
        return self._vectors

    def _embed(self, records: Sequence[Example]) -> Vectors:
        with self.timed("embed_seconds"):
            progress = ProgressLog(len(records), "examples embedded")
            if self.embedder_uri:
                texts = [duplicates.text(record) for record in records]
                vectors = self._embedder.embed(texts, progress.add)
            else:
                chunks = self._rendered(records)
                vectors = np.concatenate([embed(self._network, data, progress.add) for data in chunks])
            self._check_finite(np.isfinite(vectors.sum(1)), records)
            return vectors

    def _rendered(self, records: Sequence[Example]) -> Iterator[list[Rendered]]:
        for start in range(0, len(records), CHUNK):
            data = scoring.render_all(records[start : start + CHUNK], self.tokenizer)
            self.scoring_tokens += sum(len(rendered.ids) for rendered in data)
            yield data

    def _check_finite(self, finite: Iterable[bool], records: Sequence[Example]) -> None:
        bad = [record.id for ok, record in zip(finite, records, strict=True) if not ok]
        if bad:
            raise DataError(
                f"{self.embedder_uri or 'the base model'} gives {len(bad)} examples no finite score (first: "
                f"{bad[0]!r}): check its weights, or use method random"
            )

    @cached_property
    def _embedder(self) -> "Embedder":
        from deepcuts.components.select.embedder import Embedder  # takes a CPU-second to import

        return Embedder(self.embedder_uri)

    @cached_property
    def _network(self) -> PreTrainedModel:
        network, _ = models.load_base(self.base)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.to(device=device, dtype=models.resolve_precision("auto", device))
        return network
