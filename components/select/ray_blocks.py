"""What a Ray worker does to one block of rows: the functions of a local selection, on Arrow tables.

Texts are bytes, as JSON may hold lone surrogates, which Arrow's strings cannot.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence, Set
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepcuts.components.core.examples import Example
from deepcuts.components.select import budget, duplicates, near
from deepcuts.components.select.near import PERMUTATIONS, Sketch
from deepcuts.components.select.parts import CorpusPart, read
from deepcuts.components.select.remaining import show
from deepcuts.components.select.views import SHINGLES, WORDS, View, encode

Rows = NDArray[np.int64]
"""By position in the file: place in the order of preference, or -1 for a row that is not left."""
CHUNK = 8192
"""Rows of a block as it is read."""
VIEWS = {"near_duplicate": SHINGLES, "reordered": WORDS}
READ = pa.schema(
    [
        ("position", pa.int64()),
        ("preference", pa.binary(56)),
        ("tokens", pa.int64()),
        ("label", pa.binary()),
        ("text", pa.binary()),
        ("id", pa.binary()),
        ("excerpt", pa.binary()),
    ]
)
MATCH = pa.schema([("row", pa.int64()), ("of", pa.int64()), ("similarity", pa.float64())])


def read_parts(parts: pa.Table, corpus: str) -> Iterator[pa.Table]:
    """Yield the rows of parts (columns ``uri`` and ``first``), a table for each CHUNK."""
    for uri, first in zip(parts["uri"].to_pylist(), parts["first"].to_pylist(), strict=True):
        records: list[Example] = []
        for record in read(CorpusPart(uri, first), corpus):
            records.append(record)
            if len(records) == CHUNK:
                yield _table(records, first)
                first, records = first + CHUNK, []
        if records:
            yield _table(records, first)


def _table(records: Sequence[Example], first: int) -> pa.Table:
    shown = [show(record) for record in records]
    columns = [
        range(first, first + len(records)),
        [preference(record, first + place) for place, record in enumerate(records)],
        [record.tokens for record in records],
        [None if record.label is None else encode(record.label) for record in records],
        [encode(duplicates.text(record)) for record in records],
        [encode(one.id) for one in shown],
        [encode(one.text) for one in shown],
    ]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, READ, strict=True)], schema=READ)


def preference(record: Example, position: int) -> bytes:
    """Return bytes that sort as ``duplicates.by_preference``, equal ones by position."""
    answer, said, digest = duplicates.preference(record)
    return struct.pack(">QQ32sQ", 2**63 + answer, 2**63 + said, digest, position)


def left(table: pa.Table, rows: Rows) -> pa.Table:
    """Return the rows that are left, with their place in the order of preference as ``row``."""
    row = rows[table["position"].to_numpy()]
    return table.append_column("row", pa.array(row)).filter(pa.array(row >= 0))


def exact_keys(table: pa.Table, rows: Rows, partitions: int) -> pa.Table:
    """Return what exact copies have in common: a digest of the text, the label and a partition."""
    table = left(table, rows)
    digests = [hashlib.sha256(text.as_py()).digest() for text in table["text"]]
    keys = [int.from_bytes(digest[:8]) % partitions for digest in digests]
    return pa.table(
        {
            "partition": pa.array(keys, pa.int64()),
            "row": table["row"],
            "digest": pa.array(digests, pa.binary(32)),
            "label": table["label"],
        }
    )


def exact_matches(group: pa.Table) -> pa.Table:
    """Return the exact copies in a partition; a first line has their texts with several labels, as ``of``."""
    group = group.sort_by("row")
    rows, labels = group["row"].to_pylist(), group["label"].to_pylist()
    texts = group["digest"].to_pylist()
    found = duplicates.exact(texts, labels)
    lines = [(-1, duplicates.conflicts(texts, labels), 0.0)]
    return matches([*lines, *((rows[m.row], rows[m.of], m.similarity) for m in found)])


def sketched(table: pa.Table, rows: Rows, searches: Sequence[str]) -> pa.Table:
    """Return the rows that are left with a signature for each search."""
    table = left(table, rows)
    texts = decoded(table["text"])
    for reason in searches:
        signatures = near.sketch(texts, VIEWS[reason]).signatures
        table = table.append_column(reason, fixed(signatures))
    return table


def leaks(table: pa.Table, held: dict[str, tuple[Sketch, float]]) -> pa.Table:
    """Return the rows within a threshold of held-out ones, with the number of the search that found them."""
    rows, texts, found = table["row"].to_numpy(), decoded(table["text"]), []
    stay = np.arange(len(rows))
    for number, (reason, (others, threshold)) in enumerate(held.items()):
        own = Sketch(VIEWS[reason], texts, signatures(table[reason])).only(stay.tolist())
        near_ones = near.near_others(own, others, threshold)
        made = matches([(int(rows[stay[m.row]]), m.of, m.similarity) for m in near_ones])
        found.append(made.append_column("search", pa.array([number] * len(made), pa.int64())))
        stay = np.delete(stay, [m.row for m in near_ones])
    return pa.concat_tables(found)


def band_rows(table: pa.Table, rows: Rows, reason: str, bands: near.Bands, partitions: int) -> pa.Table:
    """Return for each row its key in each band, and a partition for equal ones."""
    table = still(table, rows)
    row = table["row"].to_numpy()
    groups = near.label_hashes([None if label is None else text_of(label) for label in _labels(table)])
    made = list(near.band_keys(signatures(table[reason]), bands, groups))
    keys = np.concatenate(made) if len(made) else np.empty(0, dtype=np.uint64)
    band = np.repeat(np.arange(len(made), dtype=np.int64), len(row))
    partition = ((keys ^ band.astype(np.uint64)) % np.uint64(partitions)).astype(np.int64)
    return pa.table({"partition": partition, "band": band, "key": keys, "row": np.tile(row, len(made))})


def band_pairs(group: pa.Table) -> pa.Table:
    """Return the pairs of rows that share a bucket in a partition."""
    band, key, row = (group[name].to_numpy() for name in ("band", "key", "row"))
    found = []
    for one in np.unique(band):
        mine = np.flatnonzero(band == one)
        mine = mine[np.argsort(row[mine])]
        found.append(near.bucket_pairs(key[mine], row[mine].astype(np.uint64)))
    return pa.table({"pair": np.unique(np.concatenate(found))})


def candidates(table: pa.Table, wanted: NDArray[np.int64], reason: str) -> pa.Table:
    """Return the signatures of the rows ``wanted``, which are sorted."""
    return among(table, wanted).select(["row", reason])


def components(
    table: pa.Table, rows: NDArray[np.int64], firsts: NDArray[np.int64], partitions: int
) -> pa.Table:
    """Return the texts of ``rows`` (sorted), by a partition of whatever pairs connect (``firsts``)."""
    table = among(table, rows)
    found = firsts[np.searchsorted(rows, table["row"].to_numpy())]
    return pa.table({"partition": found % partitions, "row": table["row"], "text": table["text"]})


def near_matches(group: pa.Table, pairs: NDArray[np.int64], view: View, threshold: float) -> pa.Table:
    """Return the near-duplicates in a partition, of whose rows ``pairs`` (sorted) has all pairs."""
    rows = group["row"].to_numpy()
    texts = dict(zip(rows.tolist(), decoded(group["text"]), strict=True))
    return matches(near.settled(pairs[np.isin(pairs[:, 0], rows)], texts, view, threshold))


def draws(table: pa.Table, rows: Rows, seed: int) -> pa.Table:
    """Return what a random order sorts by."""
    table = left(table, rows)
    drawn = [budget.draw(text_of(id.as_py()), seed) for id in table["id"]]
    return pa.table({"row": table["row"], "draw": pa.array(drawn, pa.binary(32))})


def named(table: pa.Table, rows: Rows) -> pa.Table:
    """Return id and excerpt of the rows that are left."""
    return left(table, rows).select(["row", "id", "excerpt"])


def kept_lines(parts: pa.Table, corpus: str, keep: NDArray[np.bool_]) -> Iterator[pa.Table]:
    """Yield the Examples of parts that ``keep`` has by position, as JSONL."""
    encoder = msgspec.json.Encoder()
    for uri, first in zip(parts["uri"].to_pylist(), parts["first"].to_pylist(), strict=True):
        records = enumerate(read(CorpusPart(uri, first), corpus), start=first)
        lines = [encoder.encode(record) + b"\n" for position, record in records if keep[position]]
        yield pa.table(
            {"first": pa.array([first], pa.int64()), "lines": pa.array([b"".join(lines)], pa.binary())}
        )


def picked(parts: pa.Table, corpus: str, wanted: frozenset[int]) -> Iterator[pa.Table]:
    """Yield the Examples at the positions ``wanted``, as JSON."""
    for uri, first in zip(parts["uri"].to_pylist(), parts["first"].to_pylist(), strict=True):
        found = [
            (p, r) for p, r in enumerate(read(CorpusPart(uri, first), corpus), start=first) if p in wanted
        ]
        yield pa.table(
            {
                "position": pa.array([position for position, _ in found], pa.int64()),
                "record": pa.array([msgspec.json.encode(record) for _, record in found], pa.binary()),
            }
        )


def counted(parts: pa.Table, corpus: str, tokenizer: Any) -> Iterator[pa.Table]:
    """Yield the number of tokens of each Example of parts."""
    from deepcuts.components.training import scoring  # loads torch, which most workers do without

    for uri, first in zip(parts["uri"].to_pylist(), parts["first"].to_pylist(), strict=True):
        found = scoring.render_all(list(read(CorpusPart(uri, first), corpus)), tokenizer)
        positions = np.arange(first, first + len(found))
        yield pa.table({"position": positions, "tokens": [len(rendered.ids) for rendered in found]})


def having(table: pa.Table, rows: Rows, words: Set[str]) -> pa.Table:
    """Return whether each row that is left has one of ``words``."""
    texts = decoded(left(table, rows)["text"])
    return pa.table({"has": pa.array([not words.isdisjoint(text.split()) for text in texts], pa.bool_())})


def still(table: pa.Table, rows: Rows) -> pa.Table:
    """Return the rows of a table with ``row`` that are still left."""
    return table.filter(pa.array(rows[table["position"].to_numpy()] >= 0))


def among(table: pa.Table, wanted: NDArray[np.int64]) -> pa.Table:
    """Return the rows of a table whose ``row`` is in ``wanted``, which is sorted."""
    row = table["row"].to_numpy()
    place = np.minimum(np.searchsorted(wanted, row), max(0, len(wanted) - 1))
    return table.filter(pa.array(wanted[place] == row if len(wanted) else np.zeros(len(row), dtype=bool)))


def matches(found: Sequence[tuple[int, int, float]]) -> pa.Table:
    """Return (row, of, similarity) as a table."""
    columns = list(zip(*found, strict=True)) or [(), (), ()]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, MATCH, strict=True)], schema=MATCH)


def fixed(matrix: NDArray[np.uint32] | NDArray[np.float32]) -> pa.Array:
    """Return a matrix as one binary value per row."""
    width = 4 * matrix.shape[1]
    return pa.Array.from_buffers(
        pa.binary(width), len(matrix), [None, pa.py_buffer(np.ascontiguousarray(matrix))]
    )


def signatures(column: pa.ChunkedArray) -> NDArray[np.uint32]:
    """Return the signatures of a column made by ``fixed``: (rows, PERMUTATIONS)."""
    data = b"".join(column.to_pylist())
    return np.frombuffer(data, dtype=np.uint32).reshape(-1, PERMUTATIONS)


def decoded(column: pa.ChunkedArray) -> list[str]:
    """Return the texts of a column of bytes."""
    return [text_of(value) for value in column.to_pylist()]


def text_of(data: bytes) -> str:
    """Undo ``views.encode``."""
    return data.decode("utf-8", "surrogatepass")


def _labels(table: pa.Table) -> list[bytes | None]:
    found: list[bytes | None] = table["label"].to_pylist()
    return found
