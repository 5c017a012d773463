import json
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepcuts.components.core.datafiles import FORMATS
from deepcuts.components.core.errors import DataError
from deepcuts.components.ingest import documents, layouts, readers, rows
from deepcuts.components.ingest.layouts import SourceFile
from deepcuts.components.ingest.rows import BadRow, Row
from tests.conftest import SHARED

ROOT = Path(__file__).parents[2]
GOOD = b'{"question": "2+2?", "answer": "4"}'


def read(path: Path, content: bytes) -> list[Row | BadRow]:
    path.write_bytes(content)
    return list(readers.rows(path))


def values(rows: list[Row | BadRow]) -> list[dict[str, object]]:
    assert all(isinstance(row, Row) for row in rows)
    return [row.values for row in rows]


BAD_LINES = {
    "truncated JSON": (GOOD[:20], "not JSON"),
    "two objects": (GOOD + GOOD, "not JSON"),
    "a comma behind it": (GOOD + b",", "remove commas at line ends"),
    "Python's quotes": (b"{'question': 'a'}", "write rows with json.dumps"),
    "NaN in broken JSON": (b'{"question": NaN', "not JSON"),
    "lone surrogate": (b'{"question": "\\ud800", "answer": "4"}', "not JSON"),
    "invalid UTF-8": (b'{"question": "\xff", "answer": "4"}', "not UTF-8"),
    "NUL bytes": (b'{"question": "\0"}', "NUL bytes"),
    "no object": (b"[1, 2]", "list, not an object"),
    "deep lists": (b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested too deeply"),
    "deep objects": (b'{"a": ' * 10_000 + b"1" + b"}" * 10_000, "nested too deeply"),
    "10 MB": (b'{"question": "' + b"x" * 10_000_000 + b'", "answer": "4"}', "above 1,000,000 bytes"),
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.values(), ids=BAD_LINES)
def test_jsonl_bad_line_is_named_and_its_neighbours_are_read(tmp_path, line, reason):
    before, bad, after = read(tmp_path / "a.jsonl", GOOD + b"\n" + line + b"\n" + GOOD)
    assert isinstance(bad, BadRow) and (bad.file, bad.line) == ("a.jsonl", 2) and reason in bad.reason
    assert bad.text and len(bad.text) <= 200
    assert values([before, after]) == [json.loads(GOOD)] * 2 and after.line == 3


def test_jsonl_overlong_line_is_never_held_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * 10_000_000 + b"\n" + GOOD)
    with path.open("rb") as file:
        assert [len(line) for _, line in rows.lines(file)] == [rows.MAX_ROW_BYTES + 1, len(GOOD)]


def test_jsonl_byte_order_mark_blank_lines_and_windows_line_ends_are_no_rows(tmp_path):
    content = b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n  \n" + GOOD + b"\r\n"
    assert [row.line for row in read(tmp_path / "a.jsonl", content)] == [1, 4]


@pytest.mark.parametrize("name", ["a.json", "a"])
@pytest.mark.parametrize("shape", [b"[%s, %s]", b'{"data": [%s, %s]}', b"%s\n%s\n", b" \n[%s,\n%s]"])
def test_json_list_table_or_lines_under_the_wrong_name_are_read(tmp_path, name, shape):
    assert values(read(tmp_path / name, shape % (GOOD, GOOD))) == [json.loads(GOOD)] * 2


def test_json_list_keeps_the_elements_that_can_be_read(tmp_path):
    first, bad, last = read(tmp_path / "a.json", b"[%s, 7, %s]" % (GOOD, GOOD))
    assert (bad.line, bad.reason) == (2, "int, not an object: write one object per row")
    assert isinstance(first, Row) and last.line == 3


@pytest.mark.parametrize("content", [b"[" + GOOD, b"[" * 10_000, b"[" + GOOD + b"]]"])
def test_json_list_that_is_broken_is_refused_whole(tmp_path, content):
    with pytest.raises(DataError, match="not a JSON list"):
        read(tmp_path / "a.json", content)


def test_csv_quoted_line_breaks_stay_in_the_field_and_names_lose_case(tmp_path):
    rows = read(tmp_path / "a.csv", b'\xef\xbb\xbfText, Label \n"one\ntwo, three",x\n\nfour,y\n')
    assert values(rows) == [{"text": "one\ntwo, three", "label": "x"}, {"text": "four", "label": "y"}]
    assert [row.line for row in rows] == [3, 5]


def test_csv_bad_rows_are_named_and_their_neighbours_are_read(tmp_path):
    rows = read(
        tmp_path / "a.csv", b'text,label\na,b\na,b,c\n"a"x,b\n\xff,b\n%s,b\na,b\n"a' % (b"x" * 1_200_000)
    )
    assert [(row.line, row.reason[:12]) for row in rows if isinstance(row, BadRow)] == [
        (3, "3 fields, bu"),
        (4, "not CSV: ','"),
        (5, "not UTF-8: s"),
        (6, "not CSV: fie"),
        (8, "not CSV: une"),
    ]
    assert [row.line for row in rows if isinstance(row, Row)] == [2, 7]


def test_csv_rows_of_nothing_as_spreadsheets_leave_them_are_no_rows(tmp_path):
    assert values(read(tmp_path / "a.csv", b"text,label\n,\na,b\n   \n , \n,,,\n")) == [
        {"text": "a", "label": "b"}
    ]


def test_tsv_splits_at_tabs(tmp_path):
    assert values(read(tmp_path / "a.tsv", b"text\tlabel\na, b\tc\n")) == [{"text": "a, b", "label": "c"}]


@pytest.mark.parametrize(
    ("header", "reason"),
    [(b"text,Text", "one name"), (b"text,\xff", "UTF-8"), (b'"a"b,c', "not a CSV header")],
)
def test_csv_header_that_names_nothing_is_refused(tmp_path, header, reason):
    with pytest.raises(DataError, match=reason):
        read(tmp_path / "a.csv", header + b"\n1,2\n")


def test_parquet_rows_come_with_nested_messages(tmp_path):
    rows = [{"Messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 1500
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").rename(tmp_path / "a")  # KFP gives artifacts no suffix
    found = list(readers.rows(tmp_path / "a"))
    assert values(found) == [{"messages": rows[0]["Messages"]}] * 1500 and found[-1].line == 1500


def test_parquet_text_that_is_not_utf8_is_a_bad_row(tmp_path):
    offsets, text = pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pyarrow.py_buffer(b"ok\xff\xfe")
    column = pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, offsets, text])
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    good, bad = readers.rows(tmp_path / "a.parquet")
    assert good.values == {"text": "ok"} and (bad.line, bad.reason) == (2, rows.NOT_UTF8)


def test_parquet_that_is_damaged_is_refused(tmp_path):
    with pytest.raises(DataError, match="Parquet that cannot be read"):
        read(tmp_path / "a.parquet", b"PAR1" + bytes(100))
    good = tmp_path / "b.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"row {i}" for i in range(9999)]}), good)
    content = good.read_bytes()
    with pytest.raises(DataError, match="Parquet that cannot be read"):
        read(good, content[:100] + b"\xff" * 2000 + content[2100:])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.lists(
        st.sampled_from(
            [GOOD, b"{", b"[", b"]", b"}", b",", b'"', b"\n", b"\r", b"\t", b"\\", b"\xef\xbb\xbf", b"text"]
        )
        | st.binary(max_size=4)
    ).map(b"".join),
    suffix=st.sampled_from([*FORMATS, ""]),
)
def test_any_bytes_are_rows_bad_rows_or_refused(tmp_path, content, suffix):
    try:
        rows = read(tmp_path / f"a{suffix}", content)
    except DataError:
        return
    for row in rows:
        assert row.line >= 1 and len(row.text) <= 200
        assert json.dumps(row.values if isinstance(row, Row) else row.reason).encode()


def test_folder_splits_are_found_by_name_and_sidecars_named(tmp_path):
    names = ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "dev.csv", "Test.parquet"]
    sidecars = ["README.md", "categories.json", "test_notes.json", "train.txt"]
    for name in names + sidecars:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = layouts.find(tmp_path)
    assert found.splits == {
        "train": [SourceFile(tmp_path / name) for name in names[:2]],
        "valid": [SourceFile(tmp_path / "dev.csv")],
        "test": [SourceFile(tmp_path / "Test.parquet")],
    }
    assert found.skipped == sidecars


def test_folder_without_a_train_file_is_refused_with_the_fix(tmp_path):
    (tmp_path / "data.jsonl").touch()
    (tmp_path / "more.csv").touch()
    with pytest.raises(DataError, match="no train file among data.jsonl"):
        layouts.find(tmp_path)


def test_folder_with_one_split_in_two_formats_is_refused(tmp_path):
    (tmp_path / "train.csv").touch()
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(DataError, match="train.csv, train.jsonl: keep one"):
        layouts.find(tmp_path)


@pytest.mark.skipif(not SHARED.exists(), reason="needs public data: make data")
def test_banking77_line_breaks_inside_quotes_give_the_published_row_counts():
    for split, count in (("train", 10_003), ("test", 3_080)):
        rows = values(list(readers.rows(SHARED / f"banking77/{split}.csv")))
        assert len(rows) == count and all(row.keys() == {"text", "category"} for row in rows)
        assert any("\n" in row["text"] for row in rows)


@pytest.mark.parametrize(
    "shape", ["[%s]", '{"version": 1, "data": [%s], "note": "x"}', '{"train": [%s], "test": []}']
)
def test_json_document_takes_the_memory_of_one_row(tmp_path, shape):
    row = json.dumps({"question": 'a "quoted" [bracket]' * 50, "answer": "\\"})
    path = tmp_path / "a.json"
    path.write_text(shape % ",\n".join([row] * 6_000))
    [source] = readers.sources(path).splits["train"]
    tracemalloc.start()
    count = sum(isinstance(found, Row) for found in readers.rows(source.path, source.part))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 6_000 and peak < path.stat().st_size / 3


def test_json_list_sets_a_bad_element_aside_and_refuses_a_file_cut_short(tmp_path):
    found = read(
        tmp_path / "a.json", b'[%s, {"question": }, %s, {"q": "%s"}]' % (GOOD, GOOD, b"x" * 2_000_000)
    )
    assert [(type(one), one.line) for one in found] == [(Row, 1), (BadRow, 2), (Row, 3), (BadRow, 4)]
    assert found[3].reason.startswith("row above 1,000,000 bytes")
    for cut in (b"[%s, %s" % (GOOD, GOOD), b'{"data": [%s, %s]' % (GOOD, GOOD), b"[%s,]" % GOOD):
        with pytest.raises(DataError, match="not a JSON (list|object)"):
            read(tmp_path / "a.json", cut)


def test_json_document_with_rows_in_two_places_is_refused(tmp_path):
    with pytest.raises(DataError, match="rows both under 'data' and 'rows'"):
        read(tmp_path / "a.json", b'{"data": [%s], "rows": [%s]}' % (GOOD, GOOD))


def test_json_table_by_columns_is_read_whole_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "WHOLE_BYTES", 1_000)
    with pytest.raises(DataError, match="held in memory.*save it as JSON Lines"):
        read(tmp_path / "a.json", json.dumps({"question": ["a"] * 500, "answer": ["b"] * 500}).encode())
