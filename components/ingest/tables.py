"""CSV in the dialects that spreadsheets write, and Parquet."""

import csv
import json
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from deepcuts.components.core.errors import DataError
from deepcuts.components.ingest import encodings, sizes
from deepcuts.components.ingest.encodings import Encoding
from deepcuts.components.ingest.rows import NOT_UTF8, SHOWN_CHARS, BadRow, Row, bad, lines, names

DELIMITERS = (",", ";", "\t", "|")
SNIFFED_LINES = 50
UNREADABLE = (ValueError, OverflowError, LookupError, pyarrow.ArrowException)
"""What a cell raises that Python has no value for: the year 10000, a time zone nobody knows."""


def csv_rows(path: Path, encoding: Encoding, suffix: str) -> Iterator[Row | BadRow]:
    """Read a header, then rows; a quoted field may hold line breaks. A line ``sep=;`` names a delimiter."""
    recent: deque[str] = deque(maxlen=1)
    with encodings.opened(path, encoding) as file:
        delimiter, skipped = _delimiter(path, encoding, suffix)
        texts = _texts(file, recent)
        for _ in range(skipped):
            next(texts)
        reader = csv.reader(texts, delimiter=delimiter, strict=True)
        header = _csv_header(reader, path)
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield bad(path, reader.line_num + skipped, f"not CSV: {error}", recent[0])
                continue
            if fields:
                yield _csv_row(path, reader.line_num + skipped, header, fields, delimiter)


def _csv_row(path: Path, line: int, header: list[str], fields: list[str], delimiter: str) -> Row | BadRow:
    text = delimiter.join(fields)
    if len(fields) != len(header):
        reason = f"{len(fields)} fields where the header has {len(header)}: quote what holds a delimiter"
        return bad(path, line, reason, text)
    if not _is_utf8(text):
        return bad(path, line, NOT_UTF8, text)
    return Row(path.name, line, text[:SHOWN_CHARS], dict(zip(header, fields, strict=True)))


def dialect(path: Path, encoding: Encoding, suffix: str) -> str:
    """Return what was found besides UTF-8 and commas, in words; empty for plain CSV."""
    delimiter, _ = _delimiter(path, encoding, suffix)
    usual = "\t" if suffix == ".tsv" else ","
    shown = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}.get(delimiter, repr(delimiter))
    return "" if delimiter == usual else f"{shown} between fields"


def _delimiter(path: Path, encoding: Encoding, suffix: str) -> tuple[str, int]:
    """Return (delimiter, lines before the header): the one named, or that which splits most lines alike."""
    with encodings.opened(path, encoding) as file:
        texts = [text for _, text in zip(range(SNIFFED_LINES), _texts(file, deque(maxlen=1)), strict=False)]
    first = texts[0].strip().lower() if texts else ""
    if first.startswith("sep=") and len(first) <= 5:
        return texts[0].strip("\r\n")[4:] or "\t", 1
    usual = "\t" if suffix == ".tsv" else ","
    order = [usual, *(delimiter for delimiter in DELIMITERS if delimiter != usual)]
    return max(order, key=lambda delimiter: _alike(texts, delimiter)), 0


def _alike(texts: list[str], delimiter: str) -> float:
    """Share of records with as many fields as the header; 0 where that has one field."""
    reader = csv.reader(texts, delimiter=delimiter, strict=True)
    counts = []
    while True:
        try:
            counts.append(len(next(reader)))
        except StopIteration:
            break
        except csv.Error:  # also the last record, where the lines end inside a quoted field
            counts.append(0)
    if not counts or counts[0] < 2:
        return 0.0
    return sum(count == counts[0] for count in counts) / len(counts)


def _csv_header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise DataError(
            f"{path}:1: not a CSV header ({error}): name the columns in the first line"
        ) from error
    if not _is_utf8("".join(header)):
        raise DataError(f"{path}:1: {NOT_UTF8}")
    return names(header, path)


def _texts(file: BinaryIO, recent: deque[str]) -> Iterator[str]:
    """Yield the lines of ``file``; ``recent`` holds the last one, for the report of a bad row."""
    for _, line in lines(file):
        recent.append(line.decode(errors="surrogateescape"))
        yield recent[0]


def _is_utf8(text: str) -> bool:
    try:
        text.encode()  # fails on what surrogateescape makes of bad bytes
    except UnicodeEncodeError:
        return False
    return True


def parquet_columns(path: Path) -> tuple[list[str], int]:
    """Return (column names, rows) from the file's footer.

    Raises:
        DataError: it is not Parquet.
    """
    try:
        file = pyarrow.parquet.ParquetFile(path)
        return names(file.schema_arrow.names, path), file.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: Parquet that cannot be read ({error}): write it again") from error


def parquet_rows(path: Path, wanted: Collection[str] | None) -> Iterator[Row | BadRow]:
    """Yield the rows, of all columns or of those ``wanted``: others are not even decoded.

    Class numbers whose names stand in the schema (Hugging Face's ``ClassLabel``) come as the names.
    """
    try:
        file = pyarrow.parquet.ParquetFile(path)
        header = names(file.schema_arrow.names, path)
        places = [place for place, name in enumerate(header) if wanted is None or name in wanted]
        classes = _class_names(file.schema_arrow.metadata or {})
        taken = [file.schema_arrow.names[place] for place in places]
        batch_rows = sizes.check_parquet(path, file.metadata, taken)
        number = unpacked = 0
        for batch in file.iter_batches(batch_size=batch_rows, columns=taken):
            unpacked += batch.nbytes
            sizes.check_unpacked(path, unpacked)
            known = {name: place for place, name in enumerate(batch.schema.names)}
            columns = [_column(batch.column(known[name])) for name in taken]
            for place in range(batch.num_rows):
                number += 1
                values = {header[i]: column[place] for i, column in zip(places, columns, strict=True)}
                if (
                    wanted is None
                ):  # a look at all columns, for a choice: one strange cell must not hide a row
                    values = {n: None if _is_strange(v) else v for n, v in values.items()}
                yield _parquet_row(path, number, values, classes)
    except (pyarrow.ArrowException, OSError) as error:  # OSError: a damaged page
        raise DataError(f"{path}: Parquet that cannot be read ({error}): write it again") from error


def _parquet_row(
    path: Path, number: int, values: dict[str, Any], classes: dict[str, list[str]]
) -> Row | BadRow:
    for name, value in values.items():
        if isinstance(value, UnicodeDecodeError):
            return bad(path, number, NOT_UTF8, "")
        if isinstance(value, Exception):
            return bad(path, number, f"column {name} cannot be read here ({value}): correct it", "")
    for name in classes.keys() & values.keys():
        value = values[name]
        if isinstance(value, int) and 0 <= value < len(classes[name]):
            values[name] = classes[name][value]
        elif value is not None:
            reason = f"{name} {value} is none of the {len(classes[name])} classes of the schema: correct it"
            return bad(path, number, reason, str(values)[:SHOWN_CHARS])
    return Row(path.name, number, str(values)[:SHOWN_CHARS], values)


def _is_strange(value: object) -> bool:
    return isinstance(value, Exception) and not isinstance(value, UnicodeDecodeError)


def _column(column: Any) -> list[Any]:
    """Return a column as Python values; cells that cannot be, as the exception."""
    try:
        values: list[Any] = column.to_pylist()
    except UNREADABLE:
        values = [_cell(column, place) for place in range(len(column))]
    return [_without_gaps(value) for value in values]


def _cell(column: Any, place: int) -> Any:
    try:
        return column[place].as_py()
    except UNREADABLE as error:
        return error


def _without_gaps(value: Any) -> Any:
    """Leave out fields that are null here, as Arrow gives every struct the fields of all others.

    Binary text becomes text.
    """
    if isinstance(value, dict):
        return {key: _without_gaps(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_gaps(item) for item in value]
    if isinstance(value, bytes):  # text, as writers without the UTF-8 annotation store it
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            return error
    return value


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Names of each class column, from what the ``datasets`` library writes into the schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, LookupError, TypeError):
        return {}
    return {
        name.strip().lower(): feature["names"]
        for name, feature in (features.items() if isinstance(features, dict) else ())
        if isinstance(feature, dict) and isinstance(feature.get("names"), list)
    }
