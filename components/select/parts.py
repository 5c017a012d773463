"""Divide a JSONL file into objects of the store that workers on other nodes read."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deepcuts.components.core import examples
from deepcuts.components.core.examples import Example
from deepcuts.components.core.store import Store, open_store

SMALLEST_BYTES, LARGEST_BYTES = 2**18, 2**26
"""Size of a part: below, starting a task takes longer than reading it; above, a worker's memory grows."""
PARTS_PER_WORKER = 4
"""So that workers end at about the same time."""


class Part(NamedTuple):
    """Lines of the file, as one object."""

    uri: str
    first: int
    """Number of its first line in the file, from 0."""


def divided(corpus: Path, store: Store, prefix: str, workers: int) -> tuple[list[Part], int]:
    """Put the lines of ``corpus`` into ``store``; return the parts and the number of lines.

    Uses the disk of one part and the memory of one line.
    """
    size = corpus.stat().st_size // (PARTS_PER_WORKER * workers)
    size = min(max(size, SMALLEST_BYTES), LARGEST_BYTES)
    parts: list[Part] = []
    number = 0
    with corpus.open("rb") as lines, tempfile.TemporaryDirectory(prefix="part-") as scratch:
        place = Path(scratch) / "part"
        line = lines.readline()
        while line:
            first, written, key = number, 0, f"{prefix}/{len(parts):06d}.jsonl"
            with place.open("wb") as out:
                while line and written < size:
                    written += out.write(line)
                    line, number = lines.readline(), number + 1
            store.put(key, place)
            parts.append(Part(store.uri(key), first))
    return parts, number


def read(part: Part, corpus: str) -> Iterator[Example]:
    """Yield the Examples of a part; ``corpus`` is the file it is of, for errors.

    Raises:
        DataError: a line is not an Example.
        StoreError: the store is unreachable.
    """
    parent, _, name = part.uri.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="part-") as scratch:
        place = Path(scratch) / name
        open_store(parent).get(name, place)
        with place.open("rb") as lines:
            yield from examples.decoded(lines, corpus, part.first + 1)
