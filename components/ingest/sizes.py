"""Limit what a file may unpack to: compression hides gigabytes in kilobytes."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from deepcuts.components.core.errors import DataError

UNPACKED_BYTES = 64 << 30
"""Limit for a whole file, above any corpus that fits one pod's disk and time."""
LARGEST_RATIO = 1000
"""Unpacked / packed bytes: text has 3 to 10, repetitive JSON 100, gzip at most 1032."""
SMALL_BYTES = 256 << 20
"""A file that unpacks to no more than this is accepted at any ratio."""
PAGE_BYTES = 1 << 30
"""Limit for packed content that is decoded whole: a column of one Parquet row group (writers make 1 to 512
MB), or a JSON document."""
ROWS_PER_BYTE = 10
"""A Parquet row that repeats the previous one takes about a bit, so 2 kB can claim 10^9 rows."""
SMALL_ROWS = 100_000
"""This many rows, and values of a column (lists have more), are accepted at any file size."""
MAX_COLUMNS = 10_000
"""More than any table of texts has; every column is checked, wanted or not."""
BATCH_BYTES = 256 << 20
BATCH_ROWS = 64
"""Maximum rows decoded at a time, as more are no faster. A row may be as long as its column's dictionary."""
BYTES_PER_BATCH_ROW = 1 << 20
"""Multiple of the file's size: sizes in a footer may be false, and 873 bytes decoded to 20 MB per row."""
FIX = "check its content, or write it again as JSON Lines, in several files"


def check_parquet(path: Path, metadata: Any, wanted: Collection[str] | None = None) -> int:
    """Refuse a Parquet file by its footer (``pyarrow.parquet.FileMetaData``), before a page is read.

    Only columns ``wanted`` count if these are given, as others are not decoded. Returns how many rows to
    decode at a time, so that a batch stays near ``BATCH_BYTES``.

    Raises:
        DataError: its unpacked size or number of rows is above the limits.
    """
    packed, unpacked, largest = path.stat().st_size, 0, 1
    if metadata.num_rows > max(SMALL_ROWS, ROWS_PER_BYTE * packed):
        raise DataError(
            f"{path}: {metadata.num_rows:,} rows in {packed:,} bytes, above {ROWS_PER_BYTE} per byte: {FIX}"
        )
    if metadata.num_columns > MAX_COLUMNS:
        raise DataError(f"{path}: {metadata.num_columns:,} columns, above {MAX_COLUMNS:,}: {FIX}")
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            if wanted is not None and not _is_of(column.path_in_schema, wanted):
                continue
            if column.num_values > max(SMALL_ROWS, ROWS_PER_BYTE * packed):
                raise DataError(
                    f"{path}: {column.num_values:,} values of column {column.path_in_schema} in {packed:,} "
                    f"bytes, above {ROWS_PER_BYTE} per byte: {FIX}"
                )
            size = column.total_uncompressed_size
            _check(path, packed, size, PAGE_BYTES, f"column {column.path_in_schema}")
            unpacked, largest = unpacked + size, max(largest, size)
    _check(path, packed, unpacked, UNPACKED_BYTES, "it")
    return max(1, min(BATCH_ROWS, BATCH_BYTES // largest, packed // BYTES_PER_BATCH_ROW))


def check_unpacked(path: Path, unpacked: int) -> None:
    """Refuse a file once too many of its bytes have been decoded; raises as ``check_parquet``."""
    _check(path, path.stat().st_size, unpacked, UNPACKED_BYTES, "it")


def _is_of(path: str, wanted: Collection[str]) -> bool:
    """Return whether a leaf (``messages.list.element.content``) belongs to one of the columns ``wanted``."""
    parts = path.split(".")  # a column's own name may hold dots
    return any(".".join(parts[:count]) in wanted for count in range(1, len(parts) + 1))


def bounded(path: Path, read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Bound ``read`` of a stream that unpacks ``path`` (gzip, zstd, a member of a ZIP), with the same limits.

    The returned function raises DataError once more has come than they allow.
    """
    packed, unpacked = path.stat().st_size, 0

    def counted(size: int) -> bytes:
        nonlocal unpacked
        data = read(size)
        unpacked += len(data)
        _check(path, packed, unpacked, UNPACKED_BYTES, "it")
        return data

    return counted


def _check(path: Path, packed: int, unpacked: int, most: int, what: str) -> None:
    if unpacked > most:
        raise DataError(f"{path}: {what} unpacks to {unpacked:,} bytes, above {most:,}: {FIX}")
    if unpacked > SMALL_BYTES and unpacked > LARGEST_RATIO * packed:
        raise DataError(
            f"{path}: {what} unpacks from {packed:,} to {unpacked:,} bytes, above {LARGEST_RATIO} times: "
            + FIX
        )
