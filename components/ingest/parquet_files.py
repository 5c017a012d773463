"""Read Parquet: only the columns used, cell by cell if a column cannot be read."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from deepcuts.components.core.errors import DataError
from deepcuts.components.ingest import sizes
from deepcuts.components.ingest.rows import NOT_UTF8, SHOWN_CHARS, BadRow, Row, bad, names

UNREADABLE = (ValueError, OverflowError, LookupError, pyarrow.ArrowException)
"""Errors for cells without a Python value: the year 10000, an unknown time zone."""


def columns(path: Path) -> tuple[list[str], int]:
    """Return (column names, rows) from the file's footer.

    Raises:
        DataError: it is not Parquet.
    """
    try:
        file = pyarrow.parquet.ParquetFile(path)
        return names(file.schema_arrow.names, path), file.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: Parquet that cannot be read ({error}): write it again") from error


def rows(path: Path, wanted: Collection[str] | None) -> Iterator[Row | BadRow]:
    """Yield the rows, with all columns or those ``wanted``; others are not decoded.

    Class numbers are replaced by their names in the schema (Hugging Face's ``ClassLabel``).
    """
    try:
        file = pyarrow.parquet.ParquetFile(path)
        schema = file.schema_arrow
        listed = schema.names  # rebuilt at each access, which took 250 s for 20,000 columns
        header = names(listed, path)
        places = [place for place, name in enumerate(header) if wanted is None or name in wanted]
        classes = _class_names(schema.metadata or {})
        taken = [listed[place] for place in places]
        batch_rows = sizes.check_parquet(path, file.metadata, set(taken))
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
                ):  # all columns are shown for a choice, and one strange cell must not hide a row
                    values = {n: None if _is_strange(v) else v for n, v in values.items()}
                yield _row(path, number, values, classes)
    except (pyarrow.ArrowException, OSError) as error:  # OSError: a damaged page
        raise DataError(f"{path}: Parquet that cannot be read ({error}): write it again") from error


def _row(path: Path, number: int, values: dict[str, Any], classes: dict[str, list[str]]) -> Row | BadRow:
    for name, value in values.items():
        if isinstance(value, UnicodeDecodeError):
            return bad(path, number, NOT_UTF8, "")
        if isinstance(value, Exception):
            return bad(path, number, f"column {name} cannot be read here ({value}): correct it", "")
    for name in classes.keys() & values.keys():
        value = values[name]
        numbers = value if isinstance(value, list) else [value]
        if all(number in range(len(classes[name])) for number in numbers):  # 1.0 is in the range, too
            named = [classes[name][int(number)] for number in numbers]
            values[name] = named if isinstance(value, list) else named[0]
        elif value is not None:
            reason = f"{name} {value} is not one of the schema's {len(classes[name])} classes: correct it"
            return bad(path, number, reason, str(values)[:SHOWN_CHARS])
    return Row(path.name, number, str(values)[:SHOWN_CHARS], values)


def _is_strange(value: object) -> bool:
    return isinstance(value, Exception) and not isinstance(value, UnicodeDecodeError)


def _column(column: Any) -> list[Any]:
    """Return a column as Python values, with exceptions for cells that have none."""
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
    """Drop null fields, as Arrow gives every struct the fields of all others.

    Binary text becomes text.
    """
    if isinstance(value, list) and value and isinstance(value[0], tuple):  # Arrow's form of a map
        value = dict(value)
    if isinstance(value, dict):
        return {key: _without_gaps(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_gaps(item) for item in value]
    if isinstance(value, bytes):  # text from writers without the UTF-8 annotation
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            return error
    return value


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Return the names of each class column, which the ``datasets`` library writes into the schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, LookupError, TypeError):
        return {}
    found = {}
    for name, feature in features.items() if isinstance(features, dict) else ():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}  # for a list of classes
        if isinstance(inner, dict) and isinstance(inner.get("names"), list):
            found[name.strip().lower()] = inner["names"]
    return found
