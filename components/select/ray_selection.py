"""A selection on Ray Data: texts stay in blocks on the workers, numbers per row come here.

The same functions as in a local selection run on each block. Ray's own shuffle brings together what is to be
compared: exact copies by digest, signatures by band, texts by connected candidates.
"""

import secrets
from collections.abc import Callable, Sequence, Set
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from deepcuts.components.core import examples, files
from deepcuts.components.core.examples import Example
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.store import Store
from deepcuts.components.rayjob.session import on_cluster
from deepcuts.components.select import duplicates, near, parts, ray_reading, reader
from deepcuts.components.select import ray_blocks as blocks
from deepcuts.components.select.duplicates import Match
from deepcuts.components.select.near import Bands
from deepcuts.components.select.reader import Reader
from deepcuts.components.select.remaining import Excerpt
from deepcuts.components.select.report import Dropped
from deepcuts.components.select.representations import Vectors
from deepcuts.components.select.represented import Represented
from deepcuts.components.select.views import View
from deepcuts.components.training import stored_lengths
from deepcuts.components.tune.inputs import deposit

if TYPE_CHECKING:
    from ray.data import Dataset

PARTITION_ROWS = 250_000
"""Keys of a partition in one worker: 16 MB of digests, or 8 MB of a band's keys."""


class RaySelection(Represented):
    """A choice among the Examples in ``corpus``, which are never in memory all at once.

    For the body of ``rayjob.session``. The workers reach ``store``; ``close`` deletes what is put there.
    """

    def __init__(self, base: Path, embedder_uri: str, corpus: Path, store: Store, workers: int) -> None:
        self._base, self._embedder_uri = base, embedder_uri
        self._corpus, self._store, self._workers = str(corpus), store, workers
        self._prefix = f"parts/{files.digest(corpus)[:12]}-{secrets.token_hex(4)}"
        self._parts, count = parts.divided(corpus, store, self._prefix, workers)
        if not count:
            raise examples.empty(corpus)
        self._read = self._of_parts(blocks.read_parts).materialize()
        table = _collected(self._read, "position", "preference", "tokens", "label")
        table = table.sort_by("preference")
        self._positions: NDArray[np.int64] = table["position"].to_numpy()
        model = Reader(base, embedder_uri)
        lengths = self._lengths(model.tokenizer, table["tokens"].to_numpy())
        super().__init__(lengths, _texts(table["label"].combine_chunks().dictionary_encode()), model)
        self._partitions = max(2 * workers, count // PARTITION_ROWS)
        self._held: Sequence[Example] = ()
        self._conflicts = 0

    def close(self) -> None:
        """Delete the parts from the store."""
        for part in self._parts:
            self._store.delete(f"{self._prefix}/{part.uri.rpartition('/')[2]}")

    def drop_duplicates(
        self, near_threshold: float, word_threshold: float, held: Sequence[Example]
    ) -> dict[str, Bands]:
        """Drop what ``Selection.drop_duplicates`` drops, in its order; raises its errors."""
        searches, self._held = near.searches(near_threshold, word_threshold), held
        with self.timed("exact_seconds"):
            self._drop_exact()
        with self.timed("sketch_seconds"):
            sketched = self._map(
                self._read, blocks.sketched, rows=self._left(), searches=list(searches)
            ).materialize()
        with self.timed("leak_seconds"):
            self._drop_leaks(sketched, searches)
        if not self.rows:
            raise near.nothing_left(near_threshold, word_threshold)
        bands = {reason: near.choose_bands(threshold) for reason, (_, threshold) in searches.items()}
        for reason, (view, threshold) in searches.items():
            with self.timed(f"{reason}_seconds"):
                pairs = self._pairs(sketched, reason, bands[reason], threshold)
                self.drop(reason, self._near(sketched, pairs, view, threshold))
        return bands

    def random(self, seed: int) -> list[int]:
        """Return the positions in ``rows`` in the order of ``budget.shuffled``."""
        table = _collected(self._map(self._read, blocks.draws, rows=self._left(), seed=seed))
        place = {row: place for place, row in enumerate(self.rows)}
        drawn = zip(table["draw"].to_pylist(), table["row"].to_pylist(), strict=True)
        return [place[row] for _, row in sorted(drawn)]

    def write(self, cut: Path) -> None:
        """Write the remaining Examples in the order of the corpus."""
        keep = np.zeros(len(self.lengths), dtype=bool)
        keep[self._positions[self.rows]] = True
        lines = self._of_parts(blocks.kept_lines, keep=keep)
        with files.staged(cut) as staging, staging.open("wb") as out:
            for batch in lines.iter_batches(batch_size=1, batch_format="pyarrow"):
                out.write(batch["lines"][0].as_py())

    def dropped(self) -> list[Dropped]:
        """Return the dropped rows for the report."""
        rows = self._by_position(sorted(self.named()))
        table = _collected(self._map(self._read, blocks.named, rows=rows))
        shown = {
            row: Excerpt(id, excerpt)
            for row, id, excerpt in zip(
                table["row"].to_pylist(),
                blocks.decoded(table["id"]),
                blocks.decoded(table["excerpt"]),
                strict=True,
            )
        }
        return self.cases(shown, self._held)

    def facts(self) -> Facts:
        """Return the selection as facts of the receipt."""
        own: Facts = {"label_conflicts": self._conflicts, "ray_workers": self._workers}
        return super().facts() | own

    def _read_vectors(self) -> Vectors:
        said = b"".join(self._read_by_model(ray_reading.embedded)["vector"].to_pylist())
        return np.frombuffer(said, dtype=np.float32).reshape(len(self.rows), -1)

    def _read_nats(self) -> list[float]:
        nats: list[float] = self._read_by_model(ray_reading.scored)["nats"].to_pylist()
        return nats

    def _has_word_of(self, words: Set[str]) -> bool:
        found = self._map(self._read, blocks.having, rows=self._left(), words=words)
        return bool(_collected(found)["has"].to_numpy().any())

    def _read_by_model(self, function: Callable[..., pa.Table]) -> pa.Table:
        """Apply ``function`` to the remaining rows, in the chunks of a local selection; keep the order."""
        places = np.full(len(self._positions), -1, dtype=np.int64)
        places[self._positions[self.rows]] = np.arange(len(self.rows))
        records = self._of_parts(ray_reading.chunks, places=places, size=reader.CHUNK)
        base = self._base.resolve().as_uri()
        if on_cluster():
            base = self._store.uri(f"inputs/{deposit(self._store, self._base)}")
        read = partial(function, base=base, embedder_uri=self._embedder_uri)
        table = _collected(self._grouped(records, read)).sort_by("row")
        self._reader.tokens += sum(table["tokens"].to_pylist())
        return table

    def _lengths(self, tokenizer: PreTrainedTokenizerBase, stored: NDArray[np.int64]) -> list[int]:
        """Return the number of tokens of each row, as ``stored_lengths.lengths`` does."""
        places = stored_lengths.checked_places(stored.tolist())
        wanted = frozenset(self._positions[places].tolist())
        table = _collected(self._of_parts(blocks.picked, wanted=wanted))
        records = dict(zip(table["position"].to_pylist(), table["record"].to_pylist(), strict=True))
        checked = [
            msgspec.json.decode(records[position], type=Example)
            for position in self._positions[places].tolist()
        ]
        if bool(stored.all()) and stored_lengths.are_lengths(checked, tokenizer):
            return [int(tokens) for tokens in stored]
        table = _collected(self._of_parts(blocks.counted, tokenizer=tokenizer)).sort_by("position")
        tokens: list[int] = table["tokens"].to_numpy()[self._positions].tolist()
        return tokens

    def _drop_exact(self) -> None:
        keys = self._map(self._read, blocks.exact_keys, rows=self._left(), partitions=self._partitions)
        table = _collected(self._grouped(keys, blocks.exact_matches))
        found = _matches(table)
        self._conflicts = sum(match.of for match in found if match.row < 0)
        self.drop("duplicate", [match for match in found if match.row >= 0])

    def _drop_leaks(self, sketched: "Dataset", searches: dict[str, tuple[View, float]]) -> None:
        said = [duplicates.text(record) for record in self._held]
        held = {reason: (near.sketch(said, view), limit) for reason, (view, limit) in searches.items()}
        table = _collected(self._map(sketched, blocks.leaks, held=held))
        for number in range(len(searches)):
            self.drop("leak", _matches(table.filter(pa.array(table["search"].to_numpy() == number))))

    def _pairs(self, sketched: "Dataset", reason: str, bands: Bands, threshold: float) -> NDArray[np.int64]:
        """Return the candidates, sorted: (row, earlier row) whose signatures are similar enough."""
        keys = self._map(
            sketched,
            blocks.band_rows,
            rows=self._left(),
            reason=reason,
            bands=bands,
            partitions=self._partitions,
        )
        packed = _collected(self._grouped(keys, blocks.band_pairs))["pair"].to_numpy()
        pairs = near.unpack(np.unique(packed.astype(np.uint64)))
        rows = np.unique(pairs)
        table = _collected(self._map(sketched, blocks.candidates, wanted=rows, reason=reason)).sort_by("row")
        signatures = blocks.signatures(table[reason])
        later, earlier = (signatures[np.searchsorted(rows, pairs[:, side])] for side in (0, 1))
        return pairs[near.estimate(later, earlier) >= threshold - near.SLACK]

    def _near(
        self, sketched: "Dataset", pairs: NDArray[np.int64], view: View, threshold: float
    ) -> list[Match]:
        """Return the near-duplicates among candidates; texts of connected ones come together."""
        if not len(pairs):
            return []
        rows, firsts = near.connected(pairs)
        texts = self._map(sketched, blocks.components, rows=rows, firsts=firsts, partitions=self._partitions)
        settle = partial(blocks.near_matches, pairs=pairs, view=view, threshold=threshold)
        return _matches(_collected(self._grouped(texts, settle)))

    def _of_parts(self, function: Callable[..., Any], **given: Any) -> "Dataset":
        """Apply ``function`` to each part."""
        import ray.data

        items = [part._asdict() for part in self._parts]
        rows = ray.data.from_items(items, override_num_blocks=len(items))
        given |= {"corpus": self._corpus}
        return rows.map_batches(function, fn_kwargs=given, batch_size=1, batch_format="pyarrow")

    def _map(self, data: "Dataset", function: Callable[..., pa.Table], **given: Any) -> "Dataset":
        return data.map_batches(function, fn_kwargs=given, batch_size=None, batch_format="pyarrow")

    def _grouped(self, rows: "Dataset", function: Callable[[pa.Table], pa.Table]) -> "Dataset":
        """Bring the rows of each ``partition`` together in one worker, by Ray's shuffle."""
        groups = rows.groupby("partition", num_partitions=self._partitions)
        return groups.map_groups(function, batch_format="pyarrow")

    def _left(self) -> blocks.Rows:
        return self._by_position(self.rows)

    def _by_position(self, rows: Sequence[int]) -> blocks.Rows:
        """Return ``rows`` by position in the file, -1 for all others."""
        found = np.full(len(self._positions), -1, dtype=np.int64)
        found[self._positions[rows]] = rows
        return found


def _collected(rows: "Dataset", *columns: str) -> pa.Table:
    """Return the rows as one table in this process."""
    chosen = rows.select_columns(list(columns)) if columns else rows
    return pa.concat_tables(chosen.iter_batches(batch_size=None, batch_format="pyarrow"))


def _matches(table: pa.Table) -> list[Match]:
    """Return the matches of a table, by row."""
    table = table.sort_by("row")
    columns = (table[name].to_pylist() for name in ("row", "of", "similarity"))
    return [Match(*values) for values in zip(*columns, strict=True)]


def _texts(labels: pa.DictionaryArray) -> list[str | None]:
    """Return the label of each row, with one Python object per label."""
    names = [blocks.text_of(name) for name in labels.dictionary.to_pylist()]
    return [None if place is None else names[place] for place in labels.indices.to_pylist()]
