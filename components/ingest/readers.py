"""Rows of raw files, streamed; a row that cannot be read comes as a BadRow with its line and the reason."""

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import pyarrow
import pyarrow.parquet

from components.core.errors import DataError
from components.ingest import sizes

MAX_ROW_BYTES = 1_000_000
"""A longer line is not one training record; it is never parsed, nor held in memory whole."""
SHOWN_CHARS = 200
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
NOT_UTF8 = "not UTF-8: save the file as UTF-8"
SPLITS = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


class Row(NamedTuple):
    file: str
    line: int
    """Line the row ends on, from 1; its number in the file for JSON and Parquet."""
    text: str
    """Its beginning, for people."""
    values: dict[str, object]


class BadRow(msgspec.Struct, frozen=True):
    file: str
    line: int
    reason: str
    text: str


class Sources(NamedTuple):
    splits: dict[str, list[Path]]
    """Files of each split that is there; a single file is ``train``."""
    skipped: list[str]
    """Other files beside them, not read."""


def find(raw: Path) -> Sources:
    """A file, or what a folder has: train.*, valid.*, test.* or shards (train-00000-of-00002.*).

    Raises:
        FileNotFoundError: it does not exist.
        DataError: a folder without a train file, or one split in two formats.
    """
    if not raw.exists():
        raise FileNotFoundError(f"{raw} does not exist: check the path, or run the step that makes it")
    if raw.is_file():
        return Sources({"train": [raw]}, [])
    splits: dict[str, list[Path]] = {}
    skipped = []
    for path in sorted(p for p in raw.rglob("*") if p.is_file()):
        name = re.fullmatch(rf"({'|'.join(SPLITS)})([-_.]\d+(-of-\d+)?)?", path.stem.lower())
        if name and path.suffix.lower() in SUFFIXES:
            splits.setdefault(SPLITS[name[1]], []).append(path)
        else:
            skipped.append(str(path.relative_to(raw)))
    if "train" not in splits:
        raise DataError(
            f"{raw}: no train file among {', '.join(skipped[:5]) or 'its files'}: "
            f"name it train with one of {', '.join(SUFFIXES)}, or give the file itself"
        )
    for split, paths in splits.items():
        if len({path.suffix for path in paths}) > 1:
            raise DataError(f"{raw}: {split} is there as {', '.join(p.name for p in paths)}: keep one format")
    return Sources(splits, skipped)


def rows(path: Path) -> Iterator[Row | BadRow]:
    """The rows of ``path``, read as its suffix says, or its first bytes where that says nothing."""
    match path.suffix.lower() if path.suffix.lower() in SUFFIXES else _sniffed(path):
        case ".parquet":
            return _parquet(path)
        case ".csv":
            return _csv(path, ",")
        case ".tsv":
            return _csv(path, "\t")
        case ".json":
            return _json(path)
        case _:
            return _jsonl(path)


def _sniffed(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(BYTE_ORDER_MARK).lstrip()
    if head.startswith(b"PAR1"):
        return ".parquet"
    return ".json" if head[:1] in (b"[", b"{") else ".csv"


def _jsonl(path: Path) -> Iterator[Row | BadRow]:
    with path.open("rb") as file:
        for line, raw in _lines(file):
            if raw.strip():
                yield _row(path, line, raw)


class _Table(msgspec.Struct):
    data: list[msgspec.Raw]


def _json(path: Path) -> Iterator[Row | BadRow]:
    """A list, ``{"data": [...]}``, or JSON Lines under the wrong name, which are streamed."""
    first = next(_jsonl(path), None)
    if isinstance(first, Row) and not isinstance(first.values.get("data"), list):
        yield from _jsonl(path)
        return
    data = path.read_bytes().removeprefix(BYTE_ORDER_MARK)
    try:
        table = msgspec.json.decode(data, type=list[msgspec.Raw] | _Table)
    except (msgspec.DecodeError, RecursionError) as error:
        if not data.lstrip().startswith(b"["):
            yield from _jsonl(path)
            return
        raise DataError(f"{path}: not a JSON list ({error}): mend it, or save it as JSON Lines") from error
    for number, raw in enumerate(table if isinstance(table, list) else table.data, start=1):
        yield _row(path, number, bytes(raw))


def _csv(path: Path, delimiter: str) -> Iterator[Row | BadRow]:
    """A header, then rows; a quoted field may hold line breaks."""
    recent: deque[str] = deque(maxlen=1)
    with path.open("rb") as file:
        reader = csv.reader(_texts(file, recent), delimiter=delimiter, strict=True)
        header = _csv_header(reader, path)
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield _bad(path, reader.line_num, f"not CSV: {error}", recent[0])
                continue
            text = delimiter.join(fields)
            if not fields:
                continue
            elif len(fields) != len(header):
                reason = (
                    f"{len(fields)} fields where the header has {len(header)}: quote what holds a delimiter"
                )
                yield _bad(path, reader.line_num, reason, text)
            elif not _is_utf8(text):
                yield _bad(path, reader.line_num, NOT_UTF8, text)
            else:
                yield Row(
                    path.name, reader.line_num, text[:SHOWN_CHARS], dict(zip(header, fields, strict=True))
                )


def _csv_header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise DataError(
            f"{path}:1: not a CSV header ({error}): name the columns in the first line"
        ) from error
    if not _is_utf8("".join(header)):
        raise DataError(f"{path}:1: {NOT_UTF8}")
    return _names(header, path)


def _parquet(path: Path) -> Iterator[Row | BadRow]:
    try:
        table = pyarrow.parquet.ParquetFile(path)
        header = _names(table.schema_arrow.names, path)
        number = 0
        for batch in table.iter_batches(batch_size=sizes.check_parquet(path, table.metadata)):
            for i in range(batch.num_rows):
                number += 1
                try:
                    values = {
                        name: column[i].as_py() for name, column in zip(header, batch.columns, strict=True)
                    }
                except UnicodeDecodeError:
                    yield _bad(path, number, NOT_UTF8, "")
                else:
                    yield Row(path.name, number, str(values)[:SHOWN_CHARS], values)
    except (pyarrow.ArrowException, OSError) as error:  # OSError: a damaged page
        raise DataError(f"{path}: Parquet that cannot be read ({error}): write it anew") from error


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line); one above ``MAX_ROW_BYTES`` is cut one byte behind that."""
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_ROW_BYTES)


def _texts(file: BinaryIO, recent: deque[str]) -> Iterator[str]:
    """The lines of ``file``; the last one given stands in ``recent``, for the report of a bad row."""
    for _, line in _lines(file):
        recent.append(line.decode(errors="surrogateescape"))
        yield recent[0]


def _row(path: Path, line: int, raw: bytes) -> Row | BadRow:
    text = raw[: SHOWN_CHARS * 4].decode(errors="replace").strip()
    try:
        return Row(path.name, line, text[:SHOWN_CHARS], _object(raw))
    except DataError as error:
        return _bad(path, line, str(error), text)


def _object(raw: bytes) -> dict[str, object]:
    if len(raw) > MAX_ROW_BYTES:
        raise DataError(f"row above {MAX_ROW_BYTES:,} bytes: split it")
    if b"\0" in raw:
        raise DataError("NUL bytes: save the file as UTF-8")
    try:
        value = msgspec.json.decode(raw)
    except UnicodeDecodeError as error:
        raise DataError(NOT_UTF8) from error
    except RecursionError as error:
        raise DataError("nested too deeply to be a training record: flatten it") from error
    except msgspec.DecodeError as error:
        raise DataError(
            f"not JSON: {str(error).split(' (byte')[0]}"
        ) from error  # one reason, whatever the byte
    if not isinstance(value, dict):
        raise DataError(f"{type(value).__name__}, not an object: write one object a row")
    return value


def _names(header: Sequence[str], path: Path) -> list[str]:
    """Column names as the formats know them: lower case, without spaces around."""
    names = [name.strip().lower() for name in header]
    if len(set(names)) < len(names):
        raise DataError(f"{path}: two columns have one name in {', '.join(names)[:200]}: rename one")
    return names


def _is_utf8(text: str) -> bool:
    try:
        text.encode()  # fails on what surrogateescape makes of bad bytes
    except UnicodeEncodeError:
        return False
    return True


def _bad(path: Path, line: int, reason: str, text: str) -> BadRow:
    shown = text[:SHOWN_CHARS].encode(errors="replace").decode()
    return BadRow(file=path.name, line=line, reason=reason, text=shown)
