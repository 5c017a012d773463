"""Read CSV in the dialects that spreadsheets and databases write."""

import csv
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from deepcuts.components.core.errors import DataError
from deepcuts.components.ingest import encodings
from deepcuts.components.ingest.encodings import Encoding
from deepcuts.components.ingest.rows import (
    MAX_ROW_BYTES,
    NOT_UTF8,
    SHOWN_CHARS,
    BadRow,
    Row,
    bad,
    lines,
    names,
)

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SNIFFED_LINES = 50
csv.field_size_limit(MAX_ROW_BYTES)  # process-wide; the default, 131,072, is one long document
ESCAPED_QUOTE = re.compile(r'(?<!\\)((?:\\\\)*)\\"')
"""A quote after an odd number of backslashes, which Spark and MySQL write in quoted fields."""


class Dialect(NamedTuple):
    delimiter: str
    skipped: int = 0
    """Lines before the header: ``sep=;``."""
    spaced: bool = False
    """There may be a space between a delimiter and a quoted field."""
    backslashes: bool = False
    """Quotes in quoted fields are escaped by a backslash instead of doubled."""

    def words(self, suffix: str) -> str:
        """Describe what is unusual about the dialect; empty for plain CSV."""
        shown = DELIMITERS.get(self.delimiter, repr(self.delimiter))
        found = [] if self.delimiter == _usual(suffix) else [f"{shown} between fields"]
        found += ["spaces before quotes"] * self.spaced + ["backslashes before quotes"] * self.backslashes
        return ", ".join(found)


def rows(path: Path, encoding: Encoding, suffix: str) -> Iterator[Row | BadRow]:
    """Yield the rows after the header; a quoted field may hold line breaks. ``sep=;`` sets a delimiter."""
    recent: deque[str] = deque(maxlen=1)
    dialect = detect(path, encoding, suffix)
    with encodings.opened(path, encoding) as file:
        texts = _texts(file, recent)
        for _ in range(dialect.skipped):
            next(texts)
        reader = csv.reader(
            _doubled(texts, dialect),
            delimiter=dialect.delimiter,
            skipinitialspace=dialect.spaced,
            strict=True,
        )
        header = _header(reader, path)
        while True:
            start = reader.line_num + dialect.skipped + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:  # an unclosed quote swallows lines, all of which are lost
                reason = f"not CSV: {error}"
                end = reader.line_num + dialect.skipped
                reason += f", in the quote opened at line {start}" if end > start else ""
                yield from (bad(path, line, reason, recent[0]) for line in range(start, end + 1))
                continue
            if any(field.strip() for field in fields):  # spreadsheets write empty rows as bare delimiters
                yield _row(path, reader.line_num + dialect.skipped, header, fields, dialect.delimiter)


def detect(path: Path, encoding: Encoding, suffix: str) -> Dialect:
    """Return the dialect that splits the first lines most evenly, or the one given by ``sep=``.

    Raises:
        DataError: the first line has one column and all others have more fields.
    """
    with encodings.opened(path, encoding) as file:
        texts = [text for _, text in zip(range(SNIFFED_LINES), _texts(file, deque(maxlen=1)), strict=False)]
    start = texts[0].strip("\r\n").strip('"') if texts else ""
    if start[:4].lower() == "sep=" and len(start) <= 5:
        found, texts = Dialect(start[4:] or "\t", skipped=1), texts[1:]
    else:
        order = sorted(DELIMITERS, key=lambda delimiter: delimiter != _usual(suffix))
        found = max(map(Dialect, order), key=lambda dialect: _alike(_counts(texts, dialect)))
        if not _alike(_counts(texts, found)):
            _check_header(path, texts)
    spaced, backslashes = found._replace(spaced=True), found._replace(backslashes=True)
    if any(field.startswith(' "') for record in _records(texts, found) for field in record):
        found = max(found, spaced, key=lambda d: (_alike(_counts(texts, d)), d.spaced))
    if any('\\"' in text for text in texts):
        found = max(found, backslashes, key=lambda dialect: _alike(_counts(texts, dialect)))
    return found


def _check_header(path: Path, texts: list[str]) -> None:
    for delimiter in DELIMITERS:
        first, *others = [*_counts(texts, Dialect(delimiter)), 0]
        if first == 1 and len(others) > 1 and min(others[:-1]) > 1:
            raise DataError(
                f"{path}:1: the first line has one column, those below have {others[0]} fields: remove "
                "the lines above the column names, or quote fields that contain a delimiter"
            )


def _usual(suffix: str) -> str:
    return "\t" if suffix == ".tsv" else ","


def _doubled(texts: Iterator[str], dialect: Dialect) -> Iterator[str]:
    """Yield lines with quotes in quoted fields doubled, as ``csv`` reads them."""
    return (ESCAPED_QUOTE.sub(r'\1""', text) for text in texts) if dialect.backslashes else texts


def _records(texts: list[str], dialect: Dialect) -> Iterator[list[str]]:
    """Yield the records of the first lines, except broken ones, such as an unclosed quote at the end."""
    reader = csv.reader(
        _doubled(iter(texts), dialect),
        delimiter=dialect.delimiter,
        skipinitialspace=dialect.spaced,
        strict=True,
    )
    while True:
        try:
            if record := next(reader):
                yield record
        except StopIteration:
            return
        except csv.Error:
            yield []


def _counts(texts: list[str], dialect: Dialect) -> list[int]:
    return [len(record) for record in _records(texts, dialect)]


def _alike(counts: list[int]) -> float:
    """Return the share of records with as many fields as the header; 0 if the header has one field."""
    if not counts or counts[0] < 2:
        return 0.0
    return sum(count == counts[0] for count in counts) / len(counts)


def _row(path: Path, line: int, header: list[str], fields: list[str], delimiter: str) -> Row | BadRow:
    text = delimiter.join(fields)
    if not any(fields[len(header) :]):  # a delimiter at the end of every line except the header
        fields = fields[: len(header)]
    if len(fields) != len(header):
        reason = f"{len(fields)} fields, but the header has {len(header)}: quote fields with a delimiter"
        return bad(path, line, reason, text)
    if not _is_utf8(text):
        return bad(path, line, NOT_UTF8, text)
    return Row(path.name, line, text[:SHOWN_CHARS], dict(zip(header, fields, strict=True)))


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = next(filter(None, reader), [])
    except csv.Error as error:
        raise DataError(
            f"{path}:1: not a CSV header ({error}): name the columns in the first line"
        ) from error
    if not _is_utf8("".join(header)):
        raise DataError(f"{path}:1: {NOT_UTF8}")
    return names(header, path)


def _texts(file: BinaryIO, recent: deque[str]) -> Iterator[str]:
    """Yield the lines of ``file``; ``recent`` keeps the last one for the report of a bad row."""
    for _, line in lines(file):
        recent.append(line.decode(errors="surrogateescape"))
        yield recent[0]


def _is_utf8(text: str) -> bool:
    try:
        text.encode()  # fails on bad bytes that surrogateescape let pass
    except UnicodeEncodeError:
        return False
    return True
