"""What a Ray worker does to the Examples that a model reads together: those that a local selection does."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from deepcuts.components.core import carry
from deepcuts.components.core.examples import Example
from deepcuts.components.core.progress import unheard
from deepcuts.components.select.parts import CorpusPart, read
from deepcuts.components.select.ray_blocks import Rows, fixed
from deepcuts.components.select.reader import Reader


def chunks(parts: pa.Table, corpus: str, places: Rows, size: int) -> Iterator[pa.Table]:
    """Yield the Examples of parts that have a place as JSON; ``size`` places in a row are a partition."""
    for uri, first in zip(parts["uri"].to_pylist(), parts["first"].to_pylist(), strict=True):
        records = enumerate(read(CorpusPart(uri, first), corpus), start=first)
        found = [(places[p], msgspec.json.encode(record)) for p, record in records if places[p] >= 0]
        row = np.array([place for place, _ in found], dtype=np.int64)
        said = pa.array([record for _, record in found], pa.binary())
        yield pa.table({"partition": row // size, "row": row, "record": said})


def embedded(group: pa.Table, base: str, embedder_uri: str) -> pa.Table:
    """Return the vectors of the Examples in a partition, and the tokens that the base at a URI read."""
    group = group.sort_by("row")
    with _reader(base, embedder_uri) as reader:
        vectors = reader.embed(_records(group), unheard)
    return pa.table({"row": group["row"], "vector": fixed(vectors), "tokens": _tokens(reader, len(group))})


def scored(group: pa.Table, base: str, embedder_uri: str) -> pa.Table:
    """Return the losses per answer token of the Examples in a partition, otherwise as ``embedded``."""
    group = group.sort_by("row")
    with _reader(base, embedder_uri) as reader:
        nats = reader.nats(_records(group), unheard)
    return pa.table({"row": group["row"], "nats": nats, "tokens": _tokens(reader, len(group))})


@contextmanager
def _reader(base: str, embedder_uri: str) -> Iterator[Reader]:
    with tempfile.TemporaryDirectory(prefix="base-") as scratch:
        carry.get(base, Path(scratch) / "base")
        yield Reader(Path(scratch) / "base", embedder_uri)


def _records(group: pa.Table) -> list[Example]:
    return [msgspec.json.decode(line, type=Example) for line in group["record"].to_pylist()]


def _tokens(reader: Reader, rows: int) -> list[int]:
    """Return the tokens that the base read, as a column with that sum."""
    return [reader.tokens] + [0] * (rows - 1)
