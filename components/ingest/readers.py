"""Rows of raw files, streamed; a row that cannot be read comes as a BadRow with its line and the reason."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from components.core.datafiles import data_suffix
from components.core.errors import DataError
from components.ingest import encodings, layouts, sizes, tables
from components.ingest.encodings import Encoding
from components.ingest.layouts import SPLITS, Source, Sources
from components.ingest.rows import BadRow, Row, decode, lines, parse, row

WRAPPERS = ("data", "rows", "examples", "records", "items", "instances")
"""Keys under which a JSON document keeps its list of rows."""
UTF8 = Encoding("utf-8")


def sources(raw: Path, config: str = "") -> Sources:
    """Return the files of each split; a JSON file ``{"train": [...], "test": [...]}`` holds several.

    Raises: as ``layouts.find``.
    """
    found = layouts.find(raw, config)
    if list(found.splits) != ["train"] or len(found.splits["train"]) != 1:
        return found
    path = found.splits["train"][0].path
    if kind(path) != ".json" or not _begins_with_a_split(path):
        return found
    parts: dict[str, list[Source]] = {}
    for key in _document(path):
        parts.setdefault(SPLITS[key.lower()], []).append(Source(path, key))
    if "train" not in parts:
        raise DataError(f"{path}: no key train among {', '.join(map(repr, parts))}: add it")
    return Sources(parts, found.skipped)


def rows(path: Path, part: str = "", wanted: Collection[str] | None = None) -> Iterator[Row | BadRow]:
    """Read ``path``, or one ``part`` of a JSON document; of Parquet only columns ``wanted`` are decoded."""
    suffix = kind(path)
    if suffix == ".parquet":
        return tables.parquet_rows(path, wanted)
    encoding = encodings.detect(path)
    if suffix in (".csv", ".tsv"):
        return tables.csv_rows(path, encoding, suffix)
    if suffix == ".json":
        return _json(path, encoding, part)
    return _jsonl(path, encoding)


def dialect(path: Path) -> str:
    """Return what is unusual about the file, in words: encoding, line ends, delimiter; empty if nothing."""
    suffix = kind(path)
    if suffix == ".parquet":
        return ""
    encoding = encodings.detect(path)
    found = [encoding.name] if encoding.name != "utf-8" else []
    found += ["carriage returns as line ends"] if encoding.cr_only else []
    if suffix in (".csv", ".tsv") and (unusual := tables.dialect(path, encoding, suffix)):
        found.append(unusual)
    return f"{path.name}: {', '.join(found)}" if found else ""


def kind(path: Path) -> str:
    """Return the format, by the name's suffix, or by the first bytes where that says nothing."""
    suffix = data_suffix(path.name)
    return suffix if suffix not in ("", ".part") else _sniffed(path)


def _sniffed(path: Path) -> str:
    encoding = encodings.detect(path)
    with encodings.opened(path, encoding) as file:
        start = file.read(4096).removeprefix(encodings.BYTE_ORDER_MARK).lstrip()
    if start.startswith(b"PAR1"):
        return ".parquet"
    return ".json" if start[:1] in (b"[", b"{") else ".csv"


def _jsonl(path: Path, encoding: Encoding) -> Iterator[Row | BadRow]:
    with encodings.opened(path, encoding) as file:
        for line, raw in lines(file):
            if raw.strip():
                yield parse(path, line, raw)


def _json(path: Path, encoding: Encoding, part: str) -> Iterator[Row | BadRow]:
    """Read a list of rows, a document that holds one, columns, or misnamed JSON Lines (streamed)."""
    if part:
        yield from _numbered(path, _document(path)[part])
        return
    heads = [found for found, _ in zip(_jsonl(path, encoding), range(2), strict=False)]
    if len(heads) == 2 and isinstance(heads[0], Row) or heads and _is_one_row(heads[0]):
        yield from _jsonl(path, encoding)
        return
    with encodings.opened(path, encoding) as file:
        data = sizes.whole(path, file).removeprefix(encodings.BYTE_ORDER_MARK)
    if data.lstrip().startswith(b"["):
        yield from _list(path, data)
        return
    try:
        document = decode(data)
    except DataError:
        yield from _jsonl(path, encoding)
        return
    yield from _numbered(path, document)


def _list(path: Path, data: bytes) -> Iterator[Row | BadRow]:
    try:
        elements = msgspec.json.decode(data, type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError) as error:
        try:
            yield from _numbered(path, decode(data))  # NaN in it
        except DataError:
            raise DataError(
                f"{path}: not a JSON list ({error}): correct it, or save it as JSON Lines"
            ) from error
        return
    for number, raw in enumerate(elements, start=1):
        yield parse(path, number, bytes(raw))


def _is_one_row(first: Row | BadRow) -> bool:
    """Return whether the only line of a file is a training row, and no document that holds rows."""
    return isinstance(first, Row) and _listed(first.values) is None


def _numbered(path: Path, document: object) -> Iterator[Row | BadRow]:
    listed = document if isinstance(document, list) else _listed(document)
    for number, value in enumerate([document] if listed is None else listed, start=1):
        yield row(path, number, value)


def _listed(document: object) -> list[object] | None:
    """Return the rows in a JSON object: under a key of ``WRAPPERS``, or as columns; None if it is a row."""
    if not isinstance(document, dict) or not document:
        return None
    for key in WRAPPERS:
        if isinstance(inner := document.get(key), list) and inner and isinstance(inner[0], dict):
            return inner
    columns = [_cells(value) for value in document.values()]
    if any(column is None for column in columns) or len({len(column or ()) for column in columns}) != 1:
        return None
    return [
        dict(zip(document, cells, strict=True)) for cells in zip(*(c or [] for c in columns), strict=True)
    ]


def _cells(value: object) -> list[object] | None:
    """Return a column: a list that is no conversation, or pandas' ``{"0": ..., "1": ...}``."""
    if isinstance(value, dict) and value and all(re.fullmatch(r"\d+", str(key)) for key in value):
        return list(value.values())
    if isinstance(value, list) and not any(isinstance(cell, dict) for cell in value):
        return value
    return None


def _begins_with_a_split(path: Path) -> bool:
    start = encodings.head(path).decode("utf-8-sig", errors="ignore")
    first = re.match(r'\s*\{\s*"(\w+)"\s*:\s*[\[{]', start)
    return first is not None and first[1].lower() in SPLITS and _is_split_document(path)


def _is_split_document(path: Path) -> bool:
    try:
        keys = _document(path)
    except DataError:
        return False
    return all(key.lower() in SPLITS for key in keys)


def _document(path: Path) -> dict[str, object]:
    with encodings.opened(path, encodings.detect(path)) as file:
        value = decode(sizes.whole(path, file).removeprefix(encodings.BYTE_ORDER_MARK))
    if not isinstance(value, dict):
        raise DataError(f"{path}: not an object of splits: write a list of rows")
    return value
