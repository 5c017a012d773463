"""Files that unpack to far more than they are: refused by what they say of themselves, before it is read."""

import gzip
import resource
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from deepcuts.components.core.errors import DataError
from deepcuts.components.ingest import readers, sizes


def repeated(path: Path, rows: int, text: str) -> Path:
    """A Parquet file of one text in a dictionary and ``rows`` run-length encoded references to it."""
    indices = pyarrow.array(np.zeros(rows, dtype=np.int8))
    column = pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array([text]))
    table = pyarrow.table({"text": column})
    pyarrow.parquet.write_table(table, path, row_group_size=rows, compression="zstd", store_schema=False)
    return path


def test_parquet_of_few_bytes_and_many_rows_is_refused_before_a_row_is_read(tmp_path):
    path = tmp_path / "train.parquet"
    nothing, one_page = pyarrow.table({"text": pyarrow.nulls(20_000_000, pyarrow.string())}), 1 << 30
    pyarrow.parquet.write_table(
        nothing, path, row_group_size=20_000_000, data_page_size=one_page, write_batch_size=20_000_000
    )
    del nothing
    assert path.stat().st_size < 100_000
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"train.parquet: 20,000,000 rows in .* bytes, above 10 per byte"):
        list(readers.rows(path))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert time.monotonic() - begun < 5 and after - before < 100_000  # KiB


def test_parquet_of_one_row_and_many_values_is_refused_before_it_is_read(tmp_path):
    """A list of 50 million nulls in a row kept ingest busy for minutes: a few bytes, one row."""
    path, ends = tmp_path / "train.parquet", pyarrow.array(np.array([0, 3_000_000], dtype=np.int32))
    lists = pyarrow.ListArray.from_arrays(ends, pyarrow.nulls(3_000_000, pyarrow.string()))
    pyarrow.parquet.write_table(pyarrow.table({"messages": lists}), path, compression="zstd")
    with pytest.raises(
        DataError, match=r"3,000,000 values of column messages.list.element in .* above 10 per byte"
    ):
        list(readers.rows(path))


@pytest.mark.parametrize("count", [3000, sizes.MAX_COLUMNS + 1])
def test_parquet_of_many_columns_takes_seconds_or_is_refused(tmp_path, count):
    """Each column once cost as much as all: 250 s for 20,000."""
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.table({f"c{n}": ["x"] for n in range(count)}), path)
    begun = time.process_time()
    if count > sizes.MAX_COLUMNS:
        with pytest.raises(DataError, match="10,001 columns, above 10,000"):
            list(readers.rows(path))
    else:
        assert len(list(readers.rows(path))) == 1
    assert time.process_time() - begun < 3


def test_parquet_column_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch):
    path = repeated(tmp_path / "train.parquet", 10, "x" * 20_000_000)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(sizes, "PAGE_BYTES", 10_000_000)
    with pytest.raises(DataError, match=r"column text unpacks to 20,\d+,\d+ bytes, above 10,000,000"):
        list(readers.rows(path))
    monkeypatch.undo()
    monkeypatch.setattr(sizes, "SMALL_BYTES", 10_000_000)
    with pytest.raises(DataError, match="unpacks from .* above 1000 times"):
        list(readers.rows(path))


def test_rows_decoded_at_a_time_are_few_where_the_file_is_small_or_a_text_long(tmp_path, monkeypatch):
    """1000 rows a batch of one text of 20 MB once took 20 GB."""

    def at_a_time(path: Path) -> int:
        return sizes.check_parquet(path, pyarrow.parquet.ParquetFile(path).metadata)

    path, noise = tmp_path / "train.parquet", np.random.default_rng(0)
    texts = [noise.bytes(500).hex() for _ in range(5000)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, use_dictionary=False)
    long = repeated(tmp_path / "long.parquet", 40, "x" * 20_000_000)
    assert (at_a_time(path), at_a_time(long)) == (path.stat().st_size >> 20, 1)
    assert sum(1 for _ in readers.rows(path)) == 5000
    monkeypatch.setattr(sizes, "BYTES_PER_BATCH_ROW", 10)
    assert (at_a_time(path), at_a_time(long)) == (53, 13)


def test_parquet_whose_footer_lies_about_its_size_is_refused_once_it_has_unpacked(tmp_path):
    """Of 873 bytes with a footer that said 4, all memory was asked for: 200 rows of 20 MB in one batch."""
    path = repeated(tmp_path / "train.parquet", 200, "x" * 20_000_000)
    size = pyarrow.parquet.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size
    written = varint(size)
    path.write_bytes(path.read_bytes().replace(written, b"\x88" + b"\x80" * (len(written) - 2) + b"\0"))
    assert pyarrow.parquet.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size == 4
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"it unpacks from 873 to 280,000,\d+ bytes, above 1000 times"):
        for _ in readers.rows(path):
            pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB


def varint(number: int) -> bytes:
    """A positive number as Thrift's compact protocol writes it."""
    number, out = 2 * number, b""
    while number > 127:
        number, out = number >> 7, out + bytes([number & 127 | 128])
    return out + bytes([number])


def test_stream_that_unpacks_too_far_ends(tmp_path, monkeypatch):
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(b"0" * 30_000_000))
    monkeypatch.setattr(sizes, "SMALL_BYTES", 1_000_000)
    monkeypatch.setattr(sizes, "LARGEST_RATIO", 100)
    with gzip.open(path) as file:
        read = sizes.bounded(path, file.read)
        with pytest.raises(DataError, match=r"train.jsonl.gz: it unpacks from 29,\d+ to \d,\d+,\d+ bytes"):
            while read(65_536):
                pass
    with gzip.open(path) as file:
        monkeypatch.setattr(sizes, "LARGEST_RATIO", 2000)
        read = sizes.bounded(path, file.read)
        assert sum(iter(lambda: len(read(1 << 20)), 0)) == 30_000_000


def test_compressed_data_that_unpacks_too_far_ends_in_every_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "SMALL_BYTES", 1_000_000)
    monkeypatch.setattr(sizes, "LARGEST_RATIO", 100)
    text = b'{"text": "' + b"0" * 10_000_000 + b'"}\n'
    for suffix in ("jsonl", "json", "csv"):
        path = tmp_path / f"train.{suffix}.gz"
        path.write_bytes(gzip.compress(text))
        with pytest.raises(DataError, match=rf"{path.name}: it unpacks from .* above 100 times"):
            list(readers.rows(path))
    path = tmp_path / "train.jsonl.zst"
    path.write_bytes(pyarrow.compress(text, "zstd", asbytes=True))
    with pytest.raises(DataError, match="train.jsonl.zst: it unpacks from .* above 100 times"):
        list(readers.rows(path))


@pytest.mark.parametrize("text", [b"[%s]", b'{"train": [%s]}', b'{"data": [%s]}'])
def test_packed_json_document_is_not_taken_into_memory_whatever_its_size(tmp_path, monkeypatch, text):
    """64 GB of a list at 900 times its size were within the limits of a stream, and all of it was read."""
    monkeypatch.setattr(sizes, "LARGEST_RATIO", 10_000)
    row, count = b'{"text": "0123456789 abc0123456789 abc0123456789 abc0123456789 abc"}', 300_000
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(text % b",".join([row] * count)))
    part = "train" if b"train" in text else ""
    tracemalloc.start()
    found = sum(1 for _ in readers.rows(packed, part=part))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == count and peak_bytes < 8_000_000  # of 20 MB


def test_parquet_columns_that_nobody_reads_do_not_count(tmp_path, monkeypatch):
    path, text = tmp_path / "train.parquet", "x" * 20_000_000
    table = pyarrow.table({"text": ["a"] * 3, "pixels.raw": [{"bytes": text}] * 3})
    pyarrow.parquet.write_table(table, path)
    monkeypatch.setattr(sizes, "PAGE_BYTES", 10_000_000)
    assert len(list(readers.rows(path, wanted={"text"}))) == 3
    for wanted in (None, {"pixels.raw"}):
        with pytest.raises(DataError, match="column pixels.raw.bytes unpacks to"):
            list(readers.rows(path, wanted=wanted))
