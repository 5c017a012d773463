"""State of a selection: remaining rows, dropped ones with reasons, and costs."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedModel

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example
from deepcuts.components.core.progress import ProgressLog
from deepcuts.components.core.receipts import Facts
from deepcuts.components.select import budget, duplicates, near
from deepcuts.components.select.coverage import coverage
from deepcuts.components.select.duplicates import Match
from deepcuts.components.select.loss import middling
from deepcuts.components.select.near import Bands
from deepcuts.components.select.report import REASONS, Dropped, excerpt
from deepcuts.components.select.representations import Vectors, directions, embed
from deepcuts.components.select.semantic import semantic_duplicates
from deepcuts.components.select.target import target
from deepcuts.components.select.views import SHINGLES, WORDS
from deepcuts.components.training import models, scoring
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered

if TYPE_CHECKING:
    from deepcuts.components.select.embedder import Embedder

CHUNK = 8192
"""Examples rendered at a time, as the token ids of a million are gigabytes as Python lists."""


class Selection:
    """``records`` in the order of preference; ``rows`` are the remaining ones."""

    def __init__(self, base: Path, embedder_uri: str, records: Sequence[Example]) -> None:
        self.base, self.embedder_uri, self.records = base, embedder_uri, records
        self.tokenizer = models.load_tokenizer(base)
        self.lengths = scoring.lengths(records, self.tokenizer)
        self.labels = [record.label for record in records]
        self.texts = [duplicates.text(record) for record in records]
        self.rows = list(range(len(records)))
        self.dropped: list[Dropped] = []
        self.seconds: Facts = {}
        self.scoring_tokens = 0
        self._vectors: Vectors | None = None

    def drop_duplicates(
        self, near_threshold: float, word_threshold: float, held: Sequence[Example]
    ) -> dict[str, Bands]:
        """Drop exact duplicates, rows (nearly) in ``held`` under any label, and near-duplicates.

        First by shingles, then, with a ``word_threshold`` below 1, by words; return each search's bands.

        Raises:
            DataError: all remaining rows are in ``held``.
        """
        searches = {"near_duplicate": (SHINGLES, near_threshold)}
        if word_threshold < 1:
            searches["reordered"] = (WORDS, word_threshold)
        with self._timed("exact_seconds"):
            self._drop("duplicate", duplicates.exact(self._texts(), self._labels()), self.records)
        with self._timed("sketch_seconds"):
            sketches = {reason: near.sketch(self._texts(), view) for reason, (view, _) in searches.items()}
        with self._timed("leak_seconds"):
            said = [duplicates.text(record) for record in held]
            for reason, (view, threshold) in searches.items():
                found = near.near_others(sketches[reason], near.sketch(said, view), threshold)
                stay = self._drop("leak", found, held)
                sketches = {name: sketch.only(stay) for name, sketch in sketches.items()}
        if not self.rows:
            raise DataError(
                "every example is in valid or test, or nearly: split the data again, or raise "
                f"near_threshold {near_threshold} or word_threshold {word_threshold}"
            )
        for reason, (_, threshold) in searches.items():
            with self._timed(f"{reason}_seconds"):
                found = near.near_duplicates(sketches.pop(reason), self._labels(), threshold)
                stay = self._drop(reason, found, self._left())
                sketches = {name: sketch.only(stay) for name, sketch in sketches.items()}
        return {reason: near.choose_bands(threshold) for reason, (_, threshold) in searches.items()}

    def drop_semantic(self, threshold: float) -> None:
        """Drop rows that mean the same to the base model and have the same label."""
        vectors = self._embedded()
        with self._timed("semantic_seconds"):
            unit = directions(vectors, vectors.mean(0))
            found = semantic_duplicates(unit, self._labels(), threshold)
            stay = self._drop("semantic_duplicate", found, [self.records[row] for row in self.rows])
            self._vectors = vectors[stay]

    def spend(self, budget_tokens: int, order: Callable[[], list[int]]) -> None:
        """Keep rows in ``order`` up to the budget; ``order`` is not called when everything fits."""
        lengths = [self.lengths[row] for row in self.rows]
        if sum(lengths) <= budget_tokens:
            return
        if budget_tokens < min(lengths):
            raise ValueError(
                f"budget_tokens {budget_tokens} is below the {min(lengths)} tokens of the shortest example: "
                "raise it"
            )
        ranking = order()
        with self._timed("choose_seconds"):
            kept = budget.fill(ranking, lengths, self._labels(), budget_tokens)
            gone = sorted(set(range(len(self.rows))) - set(kept))
            self._drop("budget", [Match(row, row, 1.0) for row in gone], None)

    def random(self, seed: int) -> list[int]:
        return budget.shuffled([self.records[row].id for row in self.rows], seed)

    def coverage(self, budget_tokens: int, seed: int) -> list[int]:
        vectors = self._embedded()
        with self._timed("choose_seconds"):
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
        with self._timed("choose_seconds"):
            centre = vectors.mean(0)
            return target(directions(vectors, centre), directions(theirs, centre))

    def middling(self) -> list[int]:
        with self._timed("score_seconds"):
            loss = CompletionLoss(self._network)
            progress = ProgressLog(len(self.rows), "examples scored")
            chunks = self._rendered(self._left())
            scores = [s for data in chunks for s in scoring.answer_nats(loss, data, progress.add)]
            nats = [total / tokens for total, tokens in scores]
            self._check_finite([math.isfinite(value) for value in nats], self._left())
            return middling(nats)

    def facts(self) -> Facts:
        """Return the selection as facts of the receipt."""
        counts = {f"dropped_{reason}": 0 for reason in REASONS}
        for case in self.dropped:
            counts[f"dropped_{case.reason}"] += 1
        left = {self.labels[row] for row in self.rows}
        return {
            "examples": len(self.records),
            "corpus_tokens": sum(self.lengths),
            "kept": len(self.rows),
            "tokens": sum(self.lengths[row] for row in self.rows),
            **counts,
            "label_conflicts": duplicates.conflicts(self.texts, self.labels),
            "labels_lost": len(set(self.labels) - left),
            "scoring_tokens": self.scoring_tokens,
            **self.seconds,
        }

    def _left(self) -> list[Example]:
        return [self.records[row] for row in self.rows]

    def _texts(self) -> list[str]:
        return [self.texts[row] for row in self.rows]

    def _labels(self) -> list[str | None]:
        return [self.labels[row] for row in self.rows]

    def _drop(self, reason: str, found: Sequence[Match], others: Sequence[Example] | None) -> list[int]:
        """Drop ``found``, whose ``of`` is an index into ``others``; return the positions left in ``rows``."""
        for match in found:
            row = self.rows[match.row]
            record = self.records[row]
            case = Dropped(record.id, reason, self.lengths[row], excerpt(record))
            if others is not None:
                of = others[match.of]
                case = Dropped(
                    case.id, reason, case.tokens, case.text, of.id, excerpt(of), round(match.similarity, 4)
                )
            self.dropped.append(case)
        gone = {match.row for match in found}
        stay = [place for place in range(len(self.rows)) if place not in gone]
        self.rows = [self.rows[place] for place in stay]
        return stay

    def _embedded(self) -> Vectors:
        if self._vectors is None:
            self._vectors = self._embed(self._left())
        return self._vectors

    def _embed(self, records: Sequence[Example]) -> Vectors:
        with self._timed("embed_seconds"):
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

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Add the body's wall time to the fact ``name``."""
        began = time.monotonic()
        yield
        self.seconds[name] = round(float(self.seconds.get(name) or 0) + time.monotonic() - began, 3)
