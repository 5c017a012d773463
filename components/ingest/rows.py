"""A raw row, or why it cannot be read; shared by all readers."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from deepcuts.components.core.errors import DataError
from deepcuts.components.ingest.encodings import BYTE_ORDER_MARK

MAX_ROW_BYTES = 1_000_000
"""A longer line is not a training record; it is neither parsed nor held in memory whole."""
SHOWN_CHARS = 200
WHOLE = re.compile(r"-?(0|[1-9]\d*)\.0+")
"""A whole number written as a float; not 1.10 or 01.0."""
NOT_UTF8 = "not UTF-8: save the file as UTF-8"
Cells = Mapping[str, object]
"""A row's values by column."""


class Row(NamedTuple):
    file: str
    line: int
    """Line on which the row ends, from 1; for JSON and Parquet its number in the file."""
    text: str
    """Its beginning, to show to people."""
    values: dict[str, object]


class BadRow(msgspec.Struct, frozen=True):
    file: str
    line: int
    reason: str
    text: str


def bad(path: Path, line: int, reason: str, text: str) -> BadRow:
    """Return a BadRow with its text shortened and printable."""
    shown = text[:SHOWN_CHARS].encode(errors="replace").decode()
    return BadRow(file=path.name, line=line, reason=reason, text=shown)


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, line); a line above ``MAX_ROW_BYTES`` is cut one byte past it."""
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_ROW_BYTES)


def names(header: Sequence[str], path: Path) -> list[str]:
    """Normalise column names: lower case, stripped; empty ones are numbered."""
    known = [name.strip().lower() or f"column {place}" for place, name in enumerate(header, start=1)]
    if len(set(known)) < len(known):
        raise DataError(f"{path}: two columns have one name in {', '.join(known)[:200]}: rename one")
    return known


def parse(path: Path, line: int, raw: bytes) -> Row | BadRow:
    """Parse one JSON object as a row."""
    text = raw[: SHOWN_CHARS * 4].decode(errors="replace").strip()
    try:
        return Row(path.name, line, text[:SHOWN_CHARS], _object(raw))
    except DataError as error:
        return bad(path, line, str(error), text)


def row(path: Path, number: int, value: object) -> Row | BadRow:
    """Make a row of a decoded JSON value."""
    text = str(value)
    if not isinstance(value, dict):
        return bad(path, number, f"{type(value).__name__}, not an object: write one object per row", text)
    return Row(path.name, number, text[:SHOWN_CHARS], lowered(value))


def lowered(value: dict[str, object]) -> dict[str, object]:
    """Normalise the column names of a row, unless two would become the same."""
    known = {str(key).strip().lower(): item for key, item in value.items()}
    return known if len(known) == len(value) else value


def cell(value: object) -> object:
    """Return a number as text; 3.0, pandas' form of whole numbers in columns with gaps, becomes 3."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, Decimal):
        return str(int(value)) if value == value.to_integral_value() else str(value)
    return str(value) if isinstance(value, int) else value


def class_name(value: object) -> object:
    """Return the class in a cell, equal for all file formats; empty if there is none.

    CSV has no types: pandas writes whole numbers as ``1.0`` if a column has an empty cell, and true as
    ``True``; Parquet and JSON give a number and a Boolean, which ``cell`` converts to 1 and true.

    Raises:
        DataError: the cell is a list of several classes.
    """
    if isinstance(value, list):
        if len(value) != 1:
            raise DataError(f"{len(value)} classes in one row: a row can have one, join them into one text")
        value = value[0]
    name = cell(value)
    if not isinstance(name, str):
        return name
    name = name.strip()
    if WHOLE.fullmatch(name):
        return str(int(name.partition(".")[0]))
    if name in ("True", "TRUE", "False", "FALSE"):
        return name.lower()
    return "" if name.lower() == "nan" else name  # pandas' empty cell


def decode(raw: bytes) -> object:
    """Decode JSON; ``NaN`` and ``Infinity``, which pandas writes for empty cells, become null.

    Raises:
        DataError: it is not JSON; says why.
    """
    try:
        return msgspec.json.decode(raw)
    except UnicodeDecodeError as error:
        raise DataError(NOT_UTF8) from error
    except RecursionError as error:
        raise DataError("nested too deeply to be a training record: flatten it") from error
    except msgspec.DecodeError as error:
        if re.search(rb"NaN|Infinity", raw):
            return _lenient(raw, error)
        raise DataError(_not_json(error, raw)) from error


def _lenient(raw: bytes, first: msgspec.DecodeError) -> object:
    try:
        value = json.loads(raw, parse_constant=lambda constant: None)
        msgspec.json.encode(value)  # fails on a lone surrogate, which json lets pass
    except (ValueError, RecursionError) as error:
        raise DataError(_not_json(first, raw)) from error
    return value


def _not_json(error: msgspec.DecodeError, raw: bytes) -> str:
    reason = f"not JSON: {str(error).split(' (byte')[0]}"  # the same reason for any byte
    if re.match(rb"\s*[\[{]\s*'", raw):
        return f"{reason}: Python's quotes, write rows with json.dumps"
    if raw.rstrip().endswith(b"},"):
        return f"{reason}: remove commas at line ends, or put all rows between [ and ] in a .json"
    return reason


def _object(raw: bytes) -> dict[str, object]:
    if len(raw) > MAX_ROW_BYTES:
        raise DataError(f"row above {MAX_ROW_BYTES:,} bytes: split it")
    if b"\0" in raw:
        raise DataError("NUL bytes: save the file as UTF-8")
    value = decode(raw)
    if not isinstance(value, dict):
        raise DataError(f"{type(value).__name__}, not an object: write one object per row")
    return lowered(value)
