"""Bytes as spreadsheets, pandas and Hugging Face write them: read where they are certain, named where not."""

import json
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from deepcuts.components.ingest import formats, readers
from deepcuts.components.ingest.rows import BadRow, Row

FRENCH = "text;label\n" + "".join(f"Où est la clé du bureau n° {i} ? Déjà volée;sécurité\n" for i in range(5))
GERMAN = "text;label\nMein Gerät läuft nicht, können Sie prüfen?;Größe\n"
CZECH = "text;label\n" + "Můj počítač nefunguje, příliš žluťoučký kůň;zařízení\n" * 3
TURKISH = "text;label\n" + "Bilgisayarım çalışmıyor, lütfen yardım edin, şişe ığdır;donanım\n" * 3
CHINESE = "text;label\n" + "一台电脑坏了，请帮忙;设备\n" * 9
CELLS = "text;label\r" + '"over\ntwo lines";x\r' * 3
RUSSIAN = "text;label\n" + "Мой компьютер сломался, помогите;оборудование\n" * 3


def read(path: Path, content: bytes) -> list[Row | BadRow]:
    path.write_bytes(content)
    return list(readers.rows(path))


def values(rows: list[Row | BadRow]) -> list[dict[str, object]]:
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.values for row in rows]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_delimiter_is_found_and_other_ones_stay_in_the_text(tmp_path, delimiter):
    text = "a, b; c" if delimiter not in ",;" else "a b"
    content = f"text{delimiter}label\n" + f"{text}{delimiter}x\n" * 3
    assert values(read(tmp_path / "a.csv", content.encode())) == [{"text": text, "label": "x"}] * 3


def test_csv_with_commas_in_quotes_and_semicolons_in_text_stays_commas(tmp_path):
    content = b'text,label\n"one; two, three",x\n"four; five",y\n'
    assert values(read(tmp_path / "a.csv", content))[0] == {"text": "one; two, three", "label": "x"}


def test_csv_excel_line_names_the_delimiter_and_lines_count_from_it(tmp_path):
    good, bad = read(tmp_path / "a.csv", b"\xef\xbb\xbfsep=;\r\ntext;label\r\na,b;x\r\nc\r\n")
    assert good.values == {"text": "a,b", "label": "x"} and (bad.line, good.line) == (4, 3)


ENCODED = {
    "UTF-8 with a mark": (GERMAN, "utf-8-sig", ""),
    "UTF-16 with a mark": (GERMAN, "utf-16", "utf-16"),
    "UTF-16 without": (GERMAN, "utf-16-le", "utf-16-le"),
    "Russian UTF-16": (RUSSIAN, "utf-16", "utf-16"),
    "Chinese UTF-16 without": (CHINESE, "utf-16-be", "utf-16-be"),
    "UTF-32": (RUSSIAN, "utf-32", "utf-32"),
    "German cp1252": (GERMAN, "cp1252", "cp1252"),
    "French cp1252": (FRENCH, "cp1252", "cp1252"),
    "CR only": (GERMAN.replace("\n", "\r"), "utf-8", "carriage returns"),
}


@pytest.mark.parametrize(("text", "encoding", "said"), ENCODED.values(), ids=ENCODED)
def test_csv_encoding_that_is_certain_is_read_and_said(tmp_path, text, encoding, said):
    rows = values(read(tmp_path / "a.csv", text.encode(encoding)))
    first = text.replace("\r", "\n").splitlines()[1].split(";")
    assert rows[0] == {"text": first[0], "label": first[1]}
    assert said in readers.dialect(tmp_path / "a.csv") and "semicolons" in readers.dialect(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(CZECH, "cp1250"), (TURKISH, "cp1254"), (RUSSIAN, "cp1251"), (FRENCH, "cp850"), (FRENCH, "mac_roman")],
)
def test_csv_encoding_that_is_not_certain_is_named_and_never_guessed(tmp_path, text, encoding):
    rows = read(tmp_path / "a.csv", text.encode(encoding))
    assert rows and {getattr(row, "reason", "read") for row in rows} == {"not UTF-8: save the file as UTF-8"}


def test_one_damaged_line_of_utf8_does_not_make_the_file_cp1252(tmp_path):
    good, bad = read(tmp_path / "a.csv", "text,label\ncafé,x\n".encode() + b"caf\xe9,x\n")
    assert good.values["text"] == "café" and isinstance(bad, BadRow)


def test_jsonl_is_recoded_as_well(tmp_path):
    assert values(read(tmp_path / "a.jsonl", '{"text": "läuft"}\n'.encode("utf-16"))) == [{"text": "läuft"}]


def test_nan_in_an_unrelated_field_is_an_empty_field(tmp_path):
    line = b'{"Question": "a", "answer": "b", "score": NaN, "more": [Infinity, -Infinity]}'
    expected = {"question": "a", "answer": "b", "score": None, "more": [None, None]}
    assert values(read(tmp_path / "a.jsonl", line)) == [expected]
    assert values(read(tmp_path / "a.json", b"[" + line + b"]")) == [expected]


def test_float_labels_with_a_gap_are_whole_numbers_and_one_bad_row(tmp_path):
    labels = pyarrow.array([0.0, 1.0, None, float("nan")])
    pyarrow.parquet.write_table(
        pyarrow.table({"text": list("abcd"), "label": labels}), tmp_path / "a.parquet"
    )
    rows = [row.values for row in readers.rows(tmp_path / "a.parquet")]
    assert [formats.convert(row, "text_label", 0).label for row in rows[:2]] == ["0", "1"]
    for row in rows[2:]:
        with pytest.raises(formats.DataError, match="empty assistant content"):
            formats.convert(row, "text_label", 0)


def test_parquet_columns_that_are_not_used_are_not_read(tmp_path):
    strange = pyarrow.array(
        [253_402_300_800_000_000], pyarrow.timestamp("us", tz="Mars/Olympus")
    )  # year 10000
    table = pyarrow.table({"text": ["a"], "label": ["b"], "at": strange})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (row,) = readers.rows(tmp_path / "a.parquet", wanted=formats.COLUMNS)
    assert row.values == {"text": "a", "label": "b"}
    (whole,) = readers.rows(tmp_path / "a.parquet")  # to show what columns there are
    assert whole.values == {"text": "a", "label": "b", "at": None}
    (bad,) = readers.rows(tmp_path / "a.parquet", wanted={"at"})
    assert isinstance(bad, BadRow) and "column at cannot be read here" in bad.reason


def test_parquet_class_names_of_the_schema_are_the_labels(tmp_path):
    features = {"text": {"dtype": "string"}, "label": {"names": ["late", "lost"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pyarrow.table({"text": ["a", "b", "c"], "label": [1, 0, 7]}).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    first, second, bad = readers.rows(tmp_path / "a.parquet")
    assert [row.values["label"] for row in (first, second)] == ["lost", "late"]
    assert "label 7 is not one of the schema's 2 classes" in bad.reason


def test_parquet_large_dictionary_and_nested_columns_are_plain_values(tmp_path):
    turns = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}]]
    table = pyarrow.table(
        {
            "text": pyarrow.array(["a"], pyarrow.large_string()),
            "label": pyarrow.array(["b"]).dictionary_encode(),
            "messages": pyarrow.array(turns),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (row,) = readers.rows(tmp_path / "a.parquet")
    assert row.values == {"text": "a", "label": "b", "messages": turns[0]}  # without the fields Arrow adds


def test_parquet_binary_text_and_decimal_classes_are_text(tmp_path):
    path = tmp_path / "a.parquet"
    labels = pyarrow.array([1, 2], pyarrow.decimal128(5, 2))
    pyarrow.parquet.write_table(pyarrow.table({"text": [b"a", b"\xff"], "label": labels}), path)
    good, bad = readers.rows(path)
    example = formats.convert(good.values, "text_label", 0)
    assert (example.messages[0].content, example.label) == ("a", "1")
    assert bad.reason.startswith("not UTF-8")


@pytest.mark.parametrize(
    ("written", "name"), [("1.0", "1"), ("-3.00", "-3"), ("True", "true"), ("1.5", "1.5"), ("1.10", "1.10")]
)
def test_a_class_has_the_same_name_from_every_kind_of_file(tmp_path, written, name):
    (tmp_path / "a.csv").write_text(f"text,label\na,{written}\nb,\n")
    value = {"True": True, "1.10": "1.10"}.get(written) or float(written)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a", "label": value}))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "label": [value]}), tmp_path / "a.parquet")
    for file in ("a.csv", "a.jsonl", "a.parquet"):
        changes: Counter[str] = Counter()
        row = next(iter(readers.rows(tmp_path / file))).values
        assert formats.convert(row, "text_label", 0, changes).label == name
        changed = {"classes such as 1.0 or True, taken as 1 or true": 1}
        assert changes == (changed if file == "a.csv" and name != written else {})


def test_several_classes_in_a_row_are_refused_and_one_in_a_list_is_it():
    assert formats.convert({"text": "a", "label": ["b"]}, "text_label", 0).label == "b"
    with pytest.raises(formats.DataError, match="2 classes in one row"):
        formats.convert({"text": "a", "label": ["b", "c"]}, "text_label", 0)


QUOTED = {
    "spaces before quotes": '"hello, you", "a"',
    "backslashes before quotes": '"say \\"hello, you\\" now","C:\\\\"',
    "": '"hello, you",a,',
}


@pytest.mark.parametrize("words", QUOTED)
def test_csv_as_people_and_databases_quote_it(tmp_path, words):
    (tmp_path / "a.csv").write_text("text,label\n" + f"{QUOTED[words]}\n" * 3)
    (row, *_) = values(list(readers.rows(tmp_path / "a.csv")))
    said = {"backslashes before quotes": 'say "hello, you" now'}.get(words, "hello, you")
    assert row == {"text": said, "label": "C:\\\\" if "back" in words else "a"}
    assert readers.dialect(tmp_path / "a.csv") == (f"a.csv: {words}" if words else "")


def test_csv_columns_without_a_name_are_numbered_and_lines_above_the_header_refused(tmp_path):
    (tmp_path / "a.csv").write_text("\n,text,label,\n0,a,b,\n")
    assert values(list(readers.rows(tmp_path / "a.csv"))) == [
        {"column 1": "0", "text": "a", "label": "b", "column 4": ""}
    ]
    (tmp_path / "b.csv").write_text("Tickets of May\n\ntext,label\na,b\n")
    with pytest.raises(formats.DataError, match="b.csv:1: the first line has one column, those below have 2"):
        list(readers.rows(tmp_path / "b.csv"))


def test_every_line_that_an_open_quote_takes_in_is_a_bad_row(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,b\n" + '"open,c\n' + "d,e\n" * 5)
    good, *bad = readers.rows(tmp_path / "a.csv")
    assert good.values == {"text": "a", "label": "b"} and [row.line for row in bad] == [3, 4, 5, 6, 7, 8]
    assert "the quote opened at line 3" in bad[0].reason


def test_parquet_class_names_are_found_for_floats_and_lists(tmp_path):
    label = {"names": ["late", "lost"], "_type": "ClassLabel"}
    for kind, column in ((label, [1.0, None]), ({"feature": label, "_type": "Sequence"}, [[1], [0]])):
        metadata = {"huggingface": json.dumps({"info": {"features": {"label": kind}}})}
        table = pyarrow.table({"text": ["a", "b"], "label": column}).replace_schema_metadata(metadata)
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        first, _ = values(list(readers.rows(tmp_path / "a.parquet")))
        assert formats.convert(first, "text_label", 0).label == "lost"


def test_line_feeds_in_cells_end_no_line_where_carriage_returns_do(tmp_path):
    rows = values(read(tmp_path / "a.csv", CELLS.encode()))
    assert rows == [{"text": "over\ntwo lines", "label": "x"}] * 3
    assert readers.dialect(tmp_path / "a.csv").startswith("a.csv: carriage returns")


def test_csv_excel_line_may_be_quoted(tmp_path):
    assert values(read(tmp_path / "a.csv", b'"sep=;"\ntext;label\na,b;x\n')) == [
        {"text": "a,b", "label": "x"}
    ]


def test_parquet_maps_are_objects(tmp_path):
    said = [[("role", "user"), ("content", "a")], [("role", "assistant"), ("content", "b")]]
    kind = pyarrow.list_(pyarrow.map_(pyarrow.string(), pyarrow.string()))
    pyarrow.parquet.write_table(
        pyarrow.table({"messages": pyarrow.array([said], kind)}), tmp_path / "a.parquet"
    )
    (row,) = readers.rows(tmp_path / "a.parquet")
    assert row.values == {"messages": [dict(turn) for turn in said]}


def test_csv_field_may_be_as_long_as_a_row_of_json_lines(tmp_path):
    content = f"text,label\n{'long ' * 100_000},a\n"
    assert len(values(read(tmp_path / "a.csv", content.encode()))[0]["text"]) == 500_000
