"""Stream rows of raw files; an unreadable row comes as a BadRow with its line and the reason."""

import json
import re
from collections.abc import Collection, Iterator
from itertools import chain, islice
from pathlib import Path

from deepcuts.components.core.datafiles import data_suffix
from deepcuts.components.core.errors import DataError
from deepcuts.components.ingest import csv_files, documents, encodings, layouts, parquet_files
from deepcuts.components.ingest.documents import Document
from deepcuts.components.ingest.encodings import Encoding
from deepcuts.components.ingest.layouts import SPLITS, SourceFile, SourceFiles
from deepcuts.components.ingest.rows import BadRow, Row, lines, parse, row

WRAPPERS = ("data", "rows", "examples", "records", "items", "instances")
"""Keys under which JSON documents keep their list of rows."""
UTF8 = Encoding("utf-8")
SAMPLED_ROWS = 200
"""Rows by whose size the number of all is estimated."""


def sources(raw: Path, config: str = "") -> SourceFiles:
    """Return the files of each split; a JSON file ``{"train": [...], "test": [...]}`` has several.

    Raises: as ``layouts.find``.
    """
    found = layouts.find(raw, config)
    if list(found.splits) != ["train"] or len(found.splits["train"]) != 1:
        return found
    path = found.splits["train"][0].path
    if kind(path) != ".json" or not _holds_splits(path):
        return found
    parts: dict[str, list[SourceFile]] = {}
    skipped = [*found.skipped]
    for key in _keys(path):
        if key.lower() in SPLITS:
            parts.setdefault(SPLITS[key.lower()], []).append(SourceFile(path, key))
        else:
            skipped.append(f"{path.name}: {key}")
    if "train" not in parts:
        raise DataError(f"{path}: no key train among {', '.join(map(repr, parts))}: add it")
    return SourceFiles(parts, skipped)


def about(path: Path) -> int:
    """Estimate the rows of ``path``: from Parquet's footer, by counting lines, else by the size of the first.

    Line breaks within CSV rows and empty lines count as rows. 0 if it has no row.
    """
    if kind(path) == ".parquet":
        return parquet_files.columns(path)[1]
    if path.suffix not in (".jsonl", ".csv", ".tsv"):
        first = islice((one for one in rows(path) if isinstance(one, Row)), SAMPLED_ROWS)
        sizes = [len(json.dumps(one.values, default=str)) for one in first]
        return round(path.stat().st_size * len(sizes) / sum(sizes)) if sizes else 0
    with path.open("rb") as opened:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: opened.read(1 << 20), b""))


def rows(path: Path, part: str = "", wanted: Collection[str] | None = None) -> Iterator[Row | BadRow]:
    """Yield rows of ``path`` or one ``part`` of a JSON document; of Parquet, only columns ``wanted``."""
    suffix = kind(path)
    if suffix == ".parquet":
        return parquet_files.rows(path, wanted)
    encoding = encodings.detect(path)
    if suffix in (".csv", ".tsv"):
        return csv_files.rows(path, encoding, suffix)
    if suffix == ".json":
        return _json(path, encoding, part)
    return _json(path, encoding, part) if _is_list(path, encoding) else _jsonl(path, encoding)


def dialect(path: Path) -> str:
    """Describe what is unusual about the file: encoding, line ends, delimiter; empty if nothing."""
    suffix = kind(path)
    if suffix == ".parquet":
        return ""
    encoding = encodings.detect(path)
    found = [encoding.name] if encoding.name != "utf-8" else []
    found += ["carriage returns as line ends"] if encoding.cr_only else []
    if suffix in (".csv", ".tsv") and (unusual := csv_files.detect(path, encoding, suffix).words(suffix)):
        found.append(unusual)
    return f"{path.name}: {', '.join(found)}" if found else ""


def kind(path: Path) -> str:
    """Return the format by the name's suffix, or by the first bytes if there is none."""
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


def _is_list(path: Path, encoding: Encoding) -> bool:
    """Tell whether JSON Lines are one JSON list, which ``jq`` and editors write over many lines.

    Raises:
        DataError: objects extend over several lines.
    """
    with encodings.opened(path, encoding) as file:
        full = (raw.strip() for _, raw in lines(file) if raw.strip())
        first, second = next(full, b""), next(full, b"")
    if first == b"{" and isinstance(parse(path, 2, second), BadRow):
        raise DataError(f"{path}:1: an object over several lines: write one per line (jq -c . FILE)")
    return first.startswith(b"[") and (
        not second or isinstance(parse(path, 1, b'{"x":' + first + b"}"), BadRow)
    )


def _json(path: Path, encoding: Encoding, part: str) -> Iterator[Row | BadRow]:
    """Yield the rows of a list, a document with a list, columns, or misnamed JSON Lines."""
    if not part:
        heads = [found for found, _ in zip(_jsonl(path, encoding), range(2), strict=False)]
        if len(heads) == 2 and isinstance(heads[0], Row) or heads and _is_one_row(heads[0]):
            yield from _jsonl(path, encoding)
            return
    with encodings.opened(path, encoding) as file:
        document = Document(path, file)
        listed = document.peek() == b"[" and not part
        raws = document.elements() if listed else _elements_within(document, part)
        try:
            first = next(raws, None)
        except DataError:
            if listed:
                raise
            first = None
        if first is not None:
            for number, raw in enumerate(filter(None, chain([first], raws)), start=1):
                yield parse(path, number, raw)
            document.end()
            return
    yield from _whole(path, encoding, part)


def _elements_within(document: Document, part: str) -> Iterator[bytes]:
    """Yield the rows of an object with a list of them under ``part`` or a key of ``WRAPPERS``."""
    taken = ""
    for key in document.members():
        if not (key == part if part else key.lower() in WRAPPERS) or not document.begins_rows():
            continue
        if taken:
            raise document.broken(f"rows both under {taken!r} and {key!r}: keep one list")
        taken = key
        if part:
            yield b""  # so that an empty split is found, too
        yield from document.elements()


def _whole(path: Path, encoding: Encoding, part: str) -> Iterator[Row | BadRow]:
    """Yield the rows of a document that must be in memory whole: columns or a single row; else JSON Lines."""
    with encodings.opened(path, encoding) as file:
        try:
            document = documents.whole(path, file)
        except documents.TooLarge:
            raise
        except DataError:
            if part:
                raise
            document = None
    if document is None:
        _is_list(path, encoding)  # reports objects over several lines
        yield from _jsonl(path, encoding)
    else:
        yield from _numbered(path, document[part] if part and isinstance(document, dict) else document)


def _is_one_row(first: Row | BadRow) -> bool:
    """Tell whether the only line of a file is a training row, not a document with rows."""
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
    if all(re.fullmatch(r"\d+", key) and isinstance(value, dict) for key, value in document.items()):
        return list(document.values())  # pandas' orient="index"
    names, cells = document.get("columns"), document.get("data")
    if isinstance(names, list) and isinstance(cells, list):  # pandas' orient="split"
        return [dict(zip(map(str, names), row, strict=False)) for row in cells if isinstance(row, list)]
    columns = [_cells(value) for value in document.values()]
    if any(column is None for column in columns) or len({len(column or ()) for column in columns}) != 1:
        return None
    return [
        dict(zip(document, cells, strict=True)) for cells in zip(*(c or [] for c in columns), strict=True)
    ]


def _cells(value: object) -> list[object] | None:
    """Return a column: a list that is not a conversation, or pandas' ``{"0": ..., "1": ...}``."""
    if isinstance(value, dict) and value and all(re.fullmatch(r"\d+", str(key)) for key in value):
        return list(value.values())
    if isinstance(value, list) and not any(isinstance(cell, dict) for cell in value):
        return value
    return None


def _holds_splits(path: Path) -> bool:
    """Tell whether a file is an object with a list or a table under ``train`` or another split's name."""
    with encodings.opened(path, encodings.detect(path)) as file:
        document = Document(path, file)
        try:
            if document.peek() != b"{":
                return False
            holds = [document.peek() in (b"[", b"{") for key in document.members() if key.lower() in SPLITS]
            document.end()
        except DataError:  # JSON Lines, or broken: reported when rows are read
            return False
    return bool(holds) and all(holds)


def _keys(path: Path) -> list[str]:
    """Return the keys of a JSON object, reading it to its end."""
    with encodings.opened(path, encodings.detect(path)) as file:
        document = Document(path, file)
        keys = list(document.members())
        document.end()
    return keys
