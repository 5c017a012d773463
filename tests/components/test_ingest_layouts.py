"""Folders and files as people and tools lay them out: the split of each, and what is refused by name."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from deepcuts.components.core.errors import DataError
from deepcuts.components.fetch import safety
from deepcuts.components.ingest import documents, layouts, readers
from deepcuts.components.ingest.rows import Row

HASH = "b42a775f407cee45"


def found(folder: Path, names: list[str], config: str = "") -> dict[str, list[str]]:
    """Names of each split's files in a folder of empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    sources = layouts.find(folder, config).splits
    return {split: [s.path.relative_to(folder).as_posix() for s in files] for split, files in sources.items()}


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        ([f"train-00000-of-00001-{HASH}.parquet"], {"train": 1}),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], {"train": 2}),
        (["default/train/0000.parquet", "default/validation/0000.parquet"], {"train": 1, "valid": 1}),
        (["split=train/part-0.parquet", "split=test/part-0.parquet"], {"train": 1, "test": 1}),
        (["train/part-0001.json", "train/part-0002.json", "test/part-0001.json"], {"train": 2, "test": 1}),
        (["train/train.csv", "eval/eval.csv"], {"train": 1, "valid": 1}),
        (
            ["_SUCCESS", ".part-1.crc", "part-00000-6f3e.snappy.parquet", "part-00001-9a.snappy.parquet"],
            {"train": 2},
        ),
        (["part-00000", "part-00001", "_SUCCESS"], {"train": 2}),
        (["train.jsonl.gz", "test.jsonl.zst"], {"train": 1, "test": 1}),
        (["train_sft-00000-of-00001.parquet", "test_sft-00000-of-00001.parquet"], {"train": 1, "test": 1}),
        (["tickets.csv", "README.md"], {"train": 1}),
        (["shard_1.jsonl", "shard_2.jsonl"], {"train": 2}),
        (["TRAIN.CSV", "Dev.csv"], {"train": 1, "valid": 1}),
    ],
)
def test_layout_gives_its_splits(tmp_path, names, splits):
    assert {split: len(files) for split, files in found(tmp_path, names).items()} == splits


CONFIGURED = {
    "two folders": (["main/train.parquet", "socratic/train.parquet"], ["main", "socratic"]),
    "beside the top": (["train.csv", "extra/train.csv"], [".", "extra"]),
    "by suffix": (["train_sft.parquet", "test_sft.parquet", "train_gen.parquet"], ["gen", "sft"]),
    "by what follows a dot": (["train.de.jsonl", "train.en.jsonl.gz"], ["de", "en"]),
    "nested": (["a/train/0000.parquet", "b/train/0000.parquet"], ["a", "b"]),
}


@pytest.mark.parametrize(("names", "configs"), CONFIGURED.values(), ids=CONFIGURED)
def test_several_configurations_are_refused_by_name_and_one_can_be_taken(tmp_path, names, configs):
    with pytest.raises(DataError, match=f"several configurations.*{configs[0]}, {configs[1]}: name one"):
        found(tmp_path, names)
    for config in configs:
        assert len(found(tmp_path, names, config)["train"]) == 1
    with pytest.raises(DataError, match=f"config 'other': .* has {configs[0]}, {configs[1]}"):
        found(tmp_path, names, "other")


def test_what_has_no_train_split_is_no_configuration_and_is_named(tmp_path):
    found(tmp_path, ["train.jsonl", "test_notes.json", "old/test.jsonl"])
    assert layouts.find(tmp_path).skipped == ["old/test.jsonl", "test_notes.json"]


ROWS = [{"question": f"{i}?", "answer": str(i)} for i in range(4)]
DOCUMENTS = {
    "splits": {"train": ROWS, "test": ROWS[:2], "validation": ROWS[:1]},
    "columns": {"question": [r["question"] for r in ROWS], "answer": [r["answer"] for r in ROWS]},
    "pandas": {key: {str(i): r[key] for i, r in enumerate(ROWS)} for key in ("question", "answer")},
    "rows": {"version": 1, "rows": ROWS},
    "pandas index": {str(i): row for i, row in enumerate(ROWS)},
    "pandas split": {"columns": ["question", "answer"], "index": [0], "data": [[*r.values()] for r in ROWS]},
}


def read(folder: Path) -> dict[str, list[dict[str, object]]]:
    rows = {}
    for split, sources in readers.sources(folder).splits.items():
        rows[split] = [row for source in sources for row in readers.rows(source.path, source.part)]
    assert all(isinstance(row, Row) for found in rows.values() for row in found)
    return {split: [row.values for row in found] for split, found in rows.items()}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_json_document_of_splits_columns_or_rows_is_read(tmp_path, name, indent):
    (tmp_path / "data.json").write_text(json.dumps(DOCUMENTS[name], indent=indent))
    expected = {"train": ROWS, "test": ROWS[:2], "valid": ROWS[:1]} if name == "splits" else {"train": ROWS}
    assert read(tmp_path / "data.json") == read(tmp_path) == expected


def test_json_document_of_splits_names_its_other_keys(tmp_path, monkeypatch):
    (tmp_path / "data.json").write_text(json.dumps({"version": "1", "train": ROWS, "test": ROWS[:2]}))
    assert read(tmp_path) == {"train": ROWS, "test": ROWS[:2]}
    assert readers.sources(tmp_path).skipped == ["data.json: version"]
    monkeypatch.setattr(documents, "WHOLE_BYTES", 10)  # an empty split is found without holding the others
    (tmp_path / "data.json").write_text(json.dumps({"train": ROWS, "test": []}))
    assert read(tmp_path) == {"train": ROWS, "test": []}


def test_json_file_of_one_conversation_is_a_row_and_no_table(tmp_path):
    row = {
        "prompt": [{"role": "user", "content": "a"}],
        "completion": [{"role": "assistant", "content": "b"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(row))
    assert read(tmp_path) == {"train": [row]}
    (tmp_path / "train.json").write_text(json.dumps({"messages": row["prompt"]}, indent=2))
    assert read(tmp_path) == {"train": [{"messages": row["prompt"]}]}


def test_compressed_files_are_read_whole_and_a_broken_one_is_refused(tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    packed = gzip.compress(lines[:40]) + gzip.compress(lines[40:])  # members, as log rotation writes them
    (tmp_path / "train.jsonl.gz").write_bytes(packed)
    assert read(tmp_path) == {"train": ROWS}
    (tmp_path / "raw").write_bytes(packed)  # KFP gives artifacts no suffix
    assert [row.values for row in readers.rows(tmp_path / "raw")] == ROWS
    (tmp_path / "raw").write_bytes(packed[:-9])
    with pytest.raises(DataError, match="raw: a broken archive"):
        list(readers.rows(tmp_path / "raw"))
    with pyarrow.CompressedOutputStream(str(tmp_path / "b.csv.zst"), "zstd") as file:
        file.write(b"question,answer\na,b\n")
    assert [row.values for row in readers.rows(tmp_path / "b.csv.zst")] == [{"question": "a", "answer": "b"}]


def test_workbook_is_named_with_what_to_do(tmp_path):
    (tmp_path / "a").write_bytes(b"PK\x03\x04" + bytes(40))
    with pytest.raises(DataError, match="Excel workbook: unpack it, or save the sheet as CSV"):
        list(readers.rows(tmp_path / "a"))


def test_spark_parquet_parts_make_one_table(tmp_path):
    for number, row in enumerate(ROWS):
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist([row]), tmp_path / f"part-0000{number}-x.snappy.parquet"
        )
    (tmp_path / "_SUCCESS").touch()
    assert read(tmp_path) == {"train": ROWS}


def test_fetch_takes_what_ingest_reads_and_leaves_the_rest():
    names = [
        "train.jsonl.gz",
        "part-00000",
        "a/x.parquet",
        "b.csv.zst",
        "_SUCCESS",
        ".x.json",
        "m.bin",
        "n.txt",
    ]
    assert safety.choose(names, "dataset") == names[:4]
    with pytest.raises(DataError, match="no data among a.xlsx"):
        safety.choose(["a.xlsx"], "dataset")


def test_names_before_the_split_are_configurations(tmp_path):
    names = ["main_train.jsonl", "main_test.jsonl", "socratic-train.jsonl"]
    assert found(tmp_path / "a", names[:2]) == {"train": names[:1], "test": names[1:2]}
    with pytest.raises(DataError, match="several configurations.*main, socratic"):
        found(tmp_path / "b", names)
    assert found(tmp_path / "b", names, "socratic") == {"train": names[2:]}
    assert found(tmp_path / "c", ["tickets_test.csv"]) == {"train": ["tickets_test.csv"]}  # alone, it is all


def test_shards_that_are_missing_are_not_done_without(tmp_path):
    names = [f"train-0000{i}-of-00003-{HASH}.parquet" for i in range(3)]
    assert len(found(tmp_path / "a", names)["train"]) == 3
    with pytest.raises(DataError, match=r"train-\* has 2 of 3 shards: fetch the others"):
        found(tmp_path / "b", names[1:])


@pytest.mark.parametrize(
    ("names", "fix"),
    [
        (["dataset_dict.json", "train/data-00000-of-00001.arrow", "train/state.json"], "to_parquet"),
        (["tickets.xlsx"], "save the sheet as CSV"),
        (["train.tar"], "unpack it$"),
        (["train.jsonl.xz"], "gzip or zstd"),
        (["train.txt"], "write its texts as JSON Lines"),
        (["lang=de/part-0.parquet", "lang=en/part-0.parquet"], r"partitions \(lang=de, lang=en\)"),
    ],
)
def test_data_in_files_that_are_not_read_is_named_with_its_fix(tmp_path, names, fix):
    with pytest.raises(DataError, match=fix):
        found(tmp_path, names)


def test_json_lines_that_are_one_list_are_read_and_objects_over_lines_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS, indent=2))
    assert read(tmp_path / "a.jsonl") == {"train": ROWS}
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS))
    assert read(tmp_path / "a.jsonl") == {"train": ROWS}
    for name in ("b.jsonl", "b.json"):
        (tmp_path / name).write_text("\n".join(json.dumps(row, indent=2) for row in ROWS))
        with pytest.raises(DataError, match=f"{name}:1: an object over several lines: .*jq -c"):
            list(readers.rows(tmp_path / name))
    (tmp_path / "c.jsonl").write_text('["a"]\n["b"]\n')
    assert ["list, not an object" in row.reason for row in readers.rows(tmp_path / "c.jsonl")] == [True, True]
