"""Convert rows to Examples with lengths, in chunks over all cores, as templates and tokenizers are slow."""

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice, takewhile
from multiprocessing import get_context
from typing import NamedTuple

import msgspec
from transformers import PreTrainedTokenizerBase

from deepcuts.components.core.errors import DataError, ModelFault
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.ingest import columns as naming
from deepcuts.components.ingest import formats
from deepcuts.components.ingest.rows import BadRow, Row
from deepcuts.components.training.render import Rendered, render_each, turns_of, with_system_folded

CHUNK_ROWS = 500
ALONE_ROWS = 2_000
"""Rows to convert before other processes are started (0.1 s each)."""
AHEAD = 4
"""Chunks per worker to read ahead."""


class ExamplePart(NamedTuple):
    """An Example in its output form, and how many of its tokens are learned."""

    example: Example
    answer_tokens: int


class Converted(NamedTuple):
    """Result of converting one row."""

    whole: Example
    """Determines the split, so that parts of one text are never in two."""
    parts: list[ExamplePart]
    """One, or the pieces of a long text, or one Example per turn (``turns_of``)."""
    changes: Counter[str]


Numbered = tuple[int, Row | BadRow]
"""A row and its position in its split."""
Chunk = list[Converted | BadRow]
"""Rows converted together, in order."""


class Converter(NamedTuple):
    tokenizer: PreTrainedTokenizerBase
    form: str
    columns: Mapping[str, str]
    fold_system: bool
    max_tokens: int

    def chunk(self, rows: list[Numbered]) -> Chunk:
        """Convert a chunk of rows, in order, tokenised together; an unusable row comes with the reason."""
        read = [self._read(position, row) for position, row in rows]
        wholes = [one.whole for one in read if isinstance(one, _Read)]
        rendered = iter(render_each(wholes, self.tokenizer))
        result: Chunk = []
        for one, (_, row) in zip(read, rows, strict=True):
            if isinstance(one, _Read) and isinstance(row, Row):
                try:
                    parts = self._parts(one.whole, _checked(next(rendered)), one.changes)
                    result.append(Converted(one.whole, parts, one.changes))
                except DataError as error:
                    if isinstance(error, ModelFault):
                        raise
                    result.append(_bad(row, error))
            elif isinstance(one, BadRow):
                result.append(one)
        return result

    def _read(self, position: int, row: Row | BadRow) -> "_Read | BadRow":
        """Convert one row to an Example that is not rendered yet."""
        if isinstance(row, BadRow):
            return row
        changes: Counter[str] = Counter()
        try:
            values = naming.renamed(row.values, self.columns) if self.columns else row.values
            whole = formats.convert(values, self.form, position, changes)
        except DataError as error:
            return _bad(row, error)
        return _Read(with_system_folded(whole) if self.fold_system else whole, changes)

    def _parts(self, whole: Example, rendered: Rendered, changes: Counter[str]) -> list[ExamplePart]:
        turns = turns_of(whole, rendered)
        if len(turns) > 1:
            return self._rendered(turns)
        if whole.form != "text" or len(rendered.ids) <= self.max_tokens or not self.tokenizer.is_fast:
            return [_part(whole, rendered)]
        changes["texts longer than max_tokens, cut into pieces"] += 1
        pieces = list(self._cut(whole.messages[-1].content))
        return self._rendered(
            [
                msgspec.structs.replace(
                    whole,
                    id=f"{whole.id}#{number}",
                    messages=(Message("assistant", piece),),
                    form="text" if number == len(pieces) else "passage",
                )
                for number, piece in enumerate(pieces, start=1)
            ]
        )

    def _rendered(self, parts: list[Example]) -> list[ExamplePart]:
        found = render_each(parts, self.tokenizer)
        return [_part(part, _checked(one)) for part, one in zip(parts, found, strict=True)]

    def _cut(self, text: str) -> Iterator[str]:
        """Yield a text in pieces of at most ``max_tokens``, including first and end token.

        A piece is cut at white space if there is any in its last fifth.
        """
        room = max(1, self.max_tokens - 2)
        offsets = self.tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )["offset_mapping"]
        start = first = 0  # in characters, as a token may cross a cut
        while start < len(text):
            first = next((i for i in range(first, len(offsets)) if offsets[i][1] > start), len(offsets))
            # a character may take several tokens
            least = next((i for i in range(first + 1, len(offsets)) if offsets[i][0] > start), len(offsets))
            end = min(max(least, first + room), len(offsets))
            while True:
                stop = _at_space(text, start, offsets[end][0]) if end < len(offsets) else len(text)
                piece = text[start:stop]
                over = len(self.tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]) - room
                if over <= 0 or end <= least:  # a piece cut elsewhere may have more tokens than before
                    break
                end = max(least, end - over)
            if piece.strip():
                yield piece
            start = stop


def _at_space(text: str, start: int, stop: int) -> int:
    """Return the last position after white space in the last fifth before ``stop``, else ``stop``."""
    for place in range(stop, max(start + 1, stop - (stop - start) // 5), -1):
        if text[place - 1].isspace():
            return place
    return stop


class _Read(NamedTuple):
    whole: Example
    changes: Counter[str]


def _bad(row: Row, error: DataError) -> BadRow:
    return BadRow(row.file, row.line, str(error), row.text)


def _checked(found: Rendered | DataError) -> Rendered:
    if isinstance(found, DataError):
        raise found
    return found


def _part(example: Example, rendered: Rendered) -> ExamplePart:
    """Return ``example`` with its length."""
    return ExamplePart(msgspec.structs.replace(example, tokens=len(rendered.ids)), sum(rendered.mask))


_converter: Converter
"""In a worker: the converter of the parent at the fork."""


def converted(rows: Iterable[Numbered], converter: Converter) -> Iterator[Converted | BadRow]:
    """Yield all rows converted, in order: the first ones here, the others in one process per core.

    Only enough chunks to keep the workers busy are in memory at a time.
    """
    rows = iter(rows)
    yield from converter.chunk(list(islice(rows, ALONE_ROWS)))
    chunks = chunked(rows)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    first = next(chunks, None)
    if first is None:
        return
    chunks = chain([first], chunks)
    if workers == 1:
        for chunk in chunks:
            yield from converter.chunk(chunk)
        return
    yield from _spread(chunks, converter, workers)


def first_bytes(rows: Iterator[Numbered], most: float) -> Iterator[Numbered]:
    """Yield rows until they hold about ``most`` bytes."""
    if most == math.inf:
        return rows
    sizes = _with_sizes(rows)
    return (row for row, size in takewhile(lambda pair: pair[1] <= most, sizes))


def _with_sizes(rows: Iterator[Numbered]) -> Iterator[tuple[Numbered, int]]:
    """Yield each row with the number of bytes up to it."""
    total = 0
    for number, row in rows:
        total += len(str(row.values)) if isinstance(row, Row) else len(row.text)
        yield (number, row), total


def chunked(rows: Iterable[Numbered]) -> Iterator[list[Numbered]]:
    """Yield rows in chunks of CHUNK_ROWS."""
    rows = iter(rows)
    return iter(lambda: list(islice(rows, CHUNK_ROWS)), [])


def _spread(
    chunks: Iterator[list[Numbered]], converter: Converter, workers: int
) -> Iterator[Converted | BadRow]:
    global _converter
    _converter = converter  # forked, not pickled: rebuilding a tokenizer of 50,000 tokens takes seconds
    os.environ["TOKENIZERS_PARALLELISM"] = (
        "false"  # there is a process per core already, and its threads do not survive a fork
    )
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        yield from in_order(chunks, lambda chunk: pool.submit(_work, chunk), workers)


def _work(chunk: list[Numbered]) -> Chunk:
    return _converter.chunk(chunk)


def in_order(
    chunks: Iterator[list[Numbered]], submit: Callable[[list[Numbered]], Future[Chunk]], workers: int
) -> Iterator[Converted | BadRow]:
    """Yield the rows of all chunks in order, with AHEAD chunks per worker submitted at a time."""
    waiting: deque[Future[Chunk]] = deque()
    for chunk in chunks:
        waiting.append(submit(chunk))
        if len(waiting) >= AHEAD * workers:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()
