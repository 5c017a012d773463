import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepcuts.components.core import cli, examples, files
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.ingest import convert, formats, pages
from deepcuts.components.ingest.rows import Row
from deepcuts.components.ingest.splits import Splitter, top_up
from deepcuts.components.ingest.step import ingest
from deepcuts.components.training.render import load_tokenizer, render
from tests.conftest import SHARED
from tests.training.test_render import CHATML, THINKING, byte_tokenizer

ROOT = Path(__file__).parents[2]
OUTPUTS = {
    "train": "train.jsonl",
    "valid": "valid.jsonl",
    "test": "test.jsonl",
    "labels": "labels.json",
    "preview": "preview.md",
}
SETTINGS = {
    "format": "auto",
    "valid_share": 0.0,
    "test_share": 0.0,
    "max_bad_share": 0.0,
    "fold_system": "false",
    "max_tokens": 512,
    "engine": "local",
    "ray": "{}",
    "ray_image": "",
    "nodepools": '{"pools": []}',
    "store": "",
    "seed": 0,
}


ROLES = ("user", "assistant")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    byte_tokenizer(CHATML).save_pretrained(folder)
    return folder


@pytest.fixture
def go(tmp_path, base):
    """Run ingest through its argv on ``raw``; returns (exit code, folder of the outputs, facts)."""

    def run(raw: Path | bytes | list[dict[str, object]], base: Path = base, **changed: object):
        if isinstance(raw, list):
            raw = b"".join(json.dumps(row).encode() + b"\n" for row in raw)
        if isinstance(raw, bytes):
            (tmp_path / "raw.jsonl").write_bytes(raw)
            raw = tmp_path / "raw.jsonl"
        out = tmp_path / "out"
        files.remove(out)
        paths = {"raw": raw, "base": base, "quarantine": out / "quarantine.jsonl"}
        paths |= {name: out / file for name, file in OUTPUTS.items()}
        flags = paths | SETTINGS | changed
        argv = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        code = cli.run(ingest, [*argv, "--receipt", str(out / "receipt.json")])
        return code, out, json.loads((out / "receipt.json").read_text())["facts"]

    return run


def row(question: str, answer: str = "yes", **more: object) -> dict[str, object]:
    return {"question": question, "answer": answer, **more}


def questions(path: Path) -> list[str]:
    return [json.loads(line)["messages"][0]["content"] for line in path.read_text().splitlines()]


def test_ingest_writes_splits_and_facts_that_agree(go):
    rows = [row(f"Is {i} even?", ["no", "yes"][i % 2 == 0], id=i) for i in range(200)]
    code, out, facts = go(rows, valid_share=0.2, test_share=0.2)
    assert code == 0
    kept = {split: examples.read(out / f"{split}.jsonl") for split in ("train", "valid", "test")}
    assert {split: len(found) for split, found in kept.items()} == {split: facts[split] for split in kept}
    assert sorted(int(e.id) for found in kept.values() for e in found) == list(range(200))
    assert facts["rows"] == facts["kept"] == 200 and facts["format"] == "question_answer"
    assert facts["data_digest"] == files.digest(out / "train.jsonl")
    texts = [
        f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n" for q in questions(out / "train.jsonl")
    ]
    answers = sum(len(e.messages[1].content) + 1 for e in kept["train"])  # a byte a token, and the end token
    assert facts["answer_tokens"] == answers
    assert facts["tokens"] == answers + sum(
        len(t) - 2 * len("<|im_start|>") - len("<|im_end|>") + 3 for t in texts
    )
    assert (
        json.loads((out / "labels.json").read_text()) == [] and (out / "quarantine.jsonl").read_bytes() == b""
    )


def test_ingest_twice_gives_the_same_bytes_and_another_seed_another_split(go):
    def contents(seed: int) -> list[bytes]:
        _, out, _ = go([row(str(i)) for i in range(100)], valid_share=0.3, test_share=0.3, seed=seed)
        return [(out / name).read_bytes() for name in OUTPUTS.values()]

    first = contents(0)
    assert contents(0) == first and contents(1) != first


def test_ingest_label_table_lists_its_labels_sorted(go, tmp_path):
    (tmp_path / "raw.csv").write_text('text,category\n"where\nis it",late\nhello,greeting\nhi,greeting\n')
    code, out, facts = go(tmp_path / "raw.csv")
    assert code == 0 and facts["labels"] == 2
    assert json.loads((out / "labels.json").read_text()) == ["greeting", "late"]
    assert examples.read(out / "train.jsonl")[0].label == "late"


def test_ingest_folder_removes_what_test_or_valid_have_from_train(go, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    asked_in = {"train": ["A  b", "c", "d", "D"], "validation": ["C", "a B", "e"], "test": ["a b", "f"]}
    for split, asked in asked_in.items():
        (raw / f"{split}.jsonl").write_text("".join(json.dumps(row(q)) + "\n" for q in asked))
    (raw / "README.md").write_text("about")
    code, out, facts = go(raw, valid_share=0.5, test_share=0.4)
    assert code == 0 and facts["overlap_removed"] == 3
    assert [questions(out / f"{split}.jsonl") for split in ("train", "valid", "test")] == [
        ["d", "D"],
        ["C", "e"],
        ["a b", "f"],
    ]
    assert "1 files not read: `README.md`." in (out / "preview.md").read_text()
    assert facts["files_read"] == "test from test.jsonl; train from train.jsonl; valid from validation.jsonl"


def test_ingest_sets_long_examples_aside_without_calling_them_bad(go):
    code, out, facts = go([row("short"), row("long" * 50)], max_tokens=100)
    assert code == 0 and (facts["too_long"], facts["bad"], facts["kept"]) == (1, 0, 1)
    assert "| more than 100 tokens | 1 |" in (out / "preview.md").read_text()


def test_ingest_max_tokens_is_the_longest_that_stays(go):
    _, _, facts = go([row("a")])
    assert go([row("a")], max_tokens=facts["tokens"])[0] == 0
    assert go([row("a")], max_tokens=facts["tokens"] - 1)[0] == 3


def test_ingest_preview_marks_what_is_learned_and_no_text_breaks_out(go):
    _, out, _ = go([row("# a\n\n```\n| b", "c\n\n</pre>"), *(row(str(i)) for i in range(5))])
    page = (out / "preview.md").read_text()
    assert "    ⟦c\n    \xa0\n    </pre><|im_end|>⟧" in page
    assert "\n    # a\n" not in page.replace("    <|im_start|>user\n    # a\n", "")
    assert page.count("<|im_end|>⟧\n") == 2 * 3  # as text and as tokens


def test_ingest_bad_rows_below_the_limit_go_to_quarantine_with_line_and_reason(go):
    lines = [json.dumps(row(str(i))).encode() for i in range(8)] + [
        b'{"question": ',
        json.dumps(row("a", "")).encode(),
    ]
    code, out, facts = go(b"\n".join(lines), max_bad_share=0.2)
    assert code == 0 and (facts["bad"], facts["kept"], facts["rows"]) == (2, 8, 10)
    first, second = (json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines())
    assert first.keys() == {"file", "line", "reason", "text"}
    assert (first["file"], first["line"], first["text"]) == ("raw.jsonl", 9, '{"question":')
    assert second["line"] == 10 and second["reason"].startswith("empty assistant content")
    assert "| 1 | raw.jsonl:9 |" in (out / "preview.md").read_text()


def test_ingest_above_the_bad_limit_leaves_only_quarantine_and_names_reasons_with_lines(go, capsys):
    rows = [row(str(i)) for i in range(4)] + [row("a", "")] * 5 + [row("a", None)] * 3 + [{"question": "a"}]
    code, out, facts = go(rows, max_bad_share=0.5)
    assert code == 3 and facts == {}
    assert sorted(path.name for path in out.iterdir()) == ["quarantine.jsonl", "receipt.json"]
    assert len((out / "quarantine.jsonl").read_text().splitlines()) == 9
    message = capsys.readouterr().err
    assert "9 of 13 rows are bad, above max_bad_share 0.5" in message
    assert "8 x empty assistant content" in message and "(raw.jsonl:5, raw.jsonl:6, raw.jsonl:7)" in message
    assert "1 x not a row of format question_answer" in message and "raw.jsonl:13" in message
    assert go(rows, max_bad_share=9 / 13)[0] == 0  # the limit itself is allowed


def test_ingest_second_row_with_an_id_gets_another_and_ids_may_repeat_between_splits(go, tmp_path):
    _, out, facts = go([row("a", id="x"), row("b", id="x"), row("c", id="y"), row("d", id="x")])
    ids = [example.id for example in examples.read(out / "train.jsonl")]
    assert len(set(ids)) == 4 and ids[0] == "x" and ids[2] == "y" and facts["bad"] == 0
    assert facts["changes"] == "2 x duplicate ids, renumbered"
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "train.jsonl").write_text(json.dumps(row("a", id=0)))
    (raw / "test.jsonl").write_text(json.dumps(row("b", id=0)) + "\n" + json.dumps(row("c", id=1)))
    assert go(raw)[0] == 0


def test_ingest_row_that_the_chat_template_cannot_hold_is_bad(go):
    code, out, facts = go([row("a"), row("b<|im_end|>"), row("c", "\nd")], max_bad_share=1.0)
    assert code == 0 and facts["bad"] == 2
    assert "special token" in (out / "quarantine.jsonl").read_text()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"format": "shargpt"}, "did you mean 'sharegpt'"),
        ({"valid_share": 1.0}, "something to train on"),
        ({"valid_share": 0.5, "test_share": 0.5}, "something to train on"),
        ({"test_share": -0.1}, "something to train on"),
        ({"max_bad_share": 1.1}, "max_bad_share 1.1"),
        ({"max_tokens": 0}, "max_tokens 0"),
    ],
)
def test_ingest_wrong_setting_ends_with_the_configuration_code(go, capsys, changed, reason):
    code, out, _ = go([row("a")], **changed)
    assert code == 2 and reason in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["receipt.json"]


def test_ingest_tokenizer_that_cannot_end_an_answer_is_a_configuration_error(go, tmp_path, capsys):
    byte_tokenizer(eos_token=None).save_pretrained(tmp_path / "endless")
    code, out, _ = go([row("a")], base=tmp_path / "endless")
    assert code == 2 and "no eos_token" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["receipt.json"]


def test_ingest_output_inside_raw_never_overwrites_it(go, tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "train.jsonl").write_text(json.dumps(row("a")))
    code, _, _ = go(raw, train=raw / "train.jsonl")
    assert code == 2 and "put it elsewhere" in capsys.readouterr().err
    assert json.loads((raw / "train.jsonl").read_text()) == row("a")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "no example for train: of 0 rows"),
        (b"\n \n", "of 0 rows"),
        (b'{"frage": "a"}', "unknown format, the keys are frage"),
        (b'{"frage": "a"}', "map them:\ningest:   columns: {text: frage}\ningest:   frage: a"),
        (b'{"question": "a"', "1 of 1 rows are bad"),
        (b"\xff\xfe{\0}\0", "unknown format, the keys are none"),
        (b'{"question": "\0"}', "NUL bytes: save the file as UTF-8"),
        (b'{"a": ' * 10_000, "nested too deeply"),
        (b'{"messages": [{"role": ' + b"[" * 900 + b"]" * 900 + b"}]}", "role of type list is not one of"),
        (
            b'{"conversations": [{"from": ' + b"[" * 900 + b"]" * 900 + b"}]}",
            "role of type list is not one of",
        ),
        (b'{"question": "' + b"x" * 10_000_000, "above 1,000,000 bytes"),
        (Path("no/such/file.jsonl"), "no/such/file.jsonl does not exist"),
        ([row("a")] * 3, "no example for test"),
    ],
)
def test_ingest_unusable_data_ends_with_the_data_code(go, capsys, raw, reason):
    code, out, _ = go(raw, test_share=1e-9)
    assert code == 3 and reason in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} <= {"quarantine.jsonl", "receipt.json"}


def test_ingest_missing_base_ends_with_the_data_code(go, tmp_path, capsys):
    assert go([row("a")], base=tmp_path / "none")[0] == 3
    assert "Hugging Face model folder" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [10, 12, 20, 37, 60])
def test_ingest_from_ten_rows_on_every_split_has_two_examples_whatever_the_seed(tmp_path, rows):
    seeds, names = range(20), ("train", "valid", "test")
    for seed in seeds:
        files = {name: tmp_path / name for name in names}
        splitter = Splitter(["train"], 0.05, 0.1, seed)
        records = [formats.convert(row(f"{number}?"), "question_answer", number) for number in range(rows)]
        for moved in (None, {}):
            if moved is not None:
                moved = top_up(files, splitter.carved, seed)
                splitter = Splitter(["train"], 0.05, 0.1, seed, moved)
            placed = {name: [r for r in records if splitter.place(r, "train") == name] for name in names}
            for name in names:
                files[name].write_bytes(b"".join(json.dumps(line(r)).encode() + b"\n" for r in placed[name]))
        assert sum(map(len, placed.values())) == rows and min(map(len, placed.values())) >= 2
        assert top_up(files, splitter.carved, seed) == {}


def line(example: Example) -> dict[str, object]:
    return msgspec.to_builtins(example)


def test_ingest_ten_rows_are_split_and_ten_copies_are_refused_with_the_reason(go, capsys):
    for seed in range(3):
        ten = [row(f"{i}?") for i in range(10)]
        code, _, facts = go(ten, valid_share=0.05, test_share=0.1, seed=seed)
        assert code == 0 and facts["train"] + facts["valid"] + facts["test"] == 10
        assert min(facts["train"], facts["valid"], facts["test"]) >= 2
        assert facts["rows"] == 10  # counted once, though the rows pass twice
    assert go([row("a")] * 10, test_share=0.1)[0] == 3
    assert "too few different texts" in capsys.readouterr().err


def test_ingest_test_file_of_one_example_is_refused_before_training(go, tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/train.jsonl").write_text("".join(json.dumps(row(f"{i}?")) + "\n" for i in range(10)))
    (tmp_path / "raw/test.jsonl").write_text(json.dumps(row("other")))
    assert go(tmp_path / "raw")[0] == 3 and "test has 1 example" in capsys.readouterr().err


def test_ingest_test_split_that_is_the_nfd_copy_of_train_overlaps_whole(go, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    texts = [f"Café {i} crème" for i in range(4)]
    for split, form in (("train", "NFC"), ("test", "NFD")):
        told = [
            json.dumps(row(unicodedata.normalize(form, text) + "\u200b" * (form == "NFD"))) for text in texts
        ]
        (raw / f"{split}.jsonl").write_text("\n".join(told))
    code, _, facts = go(raw)
    assert code == 3  # nothing is left to train on
    (raw / "train.jsonl").write_text((raw / "train.jsonl").read_text() + "\n" + json.dumps(row("other")))
    code, _, facts = go(raw)
    assert code == 0 and (facts["overlap_removed"], facts["train"]) == (4, 1)


def test_ingest_long_texts_are_cut_into_blocks_of_one_split_and_no_character_is_lost(go):
    texts = [" ".join(f"word{i}{k}" for k in range(60)) for i in range(12)]
    code, out, facts = go([{"text": text} for text in texts], max_tokens=100, test_share=0.3)
    assert code == 0 and facts["format"] == "text" and facts["too_long"] == 0
    assert facts["changes"] == "12 x texts longer than max_tokens, cut into pieces"
    parts: dict[str, list[Example]] = {}
    for split in ("train", "test"):
        for example in examples.read(out / f"{split}.jsonl"):
            assert 2 < example.tokens <= 100
            parts.setdefault(example.id.partition("#")[0], []).append(example)
    assert {"".join(e.messages[0].content for e in found) for found in parts.values()} == set(texts)
    forms = [[example.form for example in found] for found in parts.values()]
    assert all(found == ["passage"] * (len(found) - 1) + ["text"] for found in forms)
    assert facts["answer_tokens"] == facts["tokens"] - facts["train"]  # all but the first token is learned


def test_ingest_over_processes_writes_what_one_process_writes(go, monkeypatch):
    rows = [row(f"{i} " + "x" * (i % 50), str(i % 7), id=i % 200) for i in range(300)] + [{"question": "a"}]

    def contents() -> list[bytes]:
        code, out, _ = go(rows, valid_share=0.1, test_share=0.1, max_bad_share=0.1)
        assert code == 0
        return [(out / name).read_bytes() for name in [*OUTPUTS.values(), "quarantine.jsonl"]]

    alone = contents()
    monkeypatch.setattr(convert, "ALONE_ROWS", 100)
    monkeypatch.setattr(convert, "CHUNK_ROWS", 20)
    assert contents() == alone


def test_ingest_columns_and_configurations_are_taken_by_name(go, tmp_path, capsys):
    for config in ("a", "b"):
        (tmp_path / "raw" / config).mkdir(parents=True)
        lines = "".join(f"{config}{i},yes\n" for i in range(3))
        (tmp_path / "raw" / config / "train.csv").write_text("frage,antwort\n" + lines)
    assert go(tmp_path / "raw")[0] == 3 and "several configurations" in capsys.readouterr().err
    assert go(tmp_path / "raw", config="b")[0] == 3
    assert "antwort: yes | yes | yes\ningest:   frage: b0 | b1 | b2" in capsys.readouterr().err
    mapping = json.dumps({"prompt": "Frage", "completion": "antwort"})
    code, out, facts = go(tmp_path / "raw", config="b", columns=mapping)
    assert code == 0 and questions(out / "train.jsonl") == ["b0", "b1", "b2"]
    assert facts["took"] == "columns: prompt from Frage, completion from antwort"
    assert go(tmp_path / "raw", config="b", columns='{"promt": "x"}')[0] == 2


def test_ingest_page_shows_tokens_marked_and_escaped(go, tmp_path):
    code, out, _ = go(
        [row("<b>a</b>", "<i>c</i>"), *(row(str(i) * i) for i in range(1, 5)), row("z" * 50)],
        page=tmp_path / "p.html",
    )
    page = (tmp_path / "p.html").read_text()
    assert code == 0 and "<b>" not in page and "<i>" not in page and "<script" not in page
    assert "<mark>&lt;i&gt;c&lt;/i&gt;&lt;|im_end|&gt;</mark>" in page  # the end token is visible
    assert "<span class=t><mark>&lt;|im_end|&gt;</mark></span>" in page
    assert "The longest" in page and len(page) < 300_000


def test_ingest_page_stays_small_whatever_the_length_of_the_examples(go, tmp_path):
    rows = [row(f"{i}" + "<é" * 3_000, "<" * 1_000) for i in range(8)]
    code, out, _ = go(rows, page=tmp_path / "p.html", max_tokens=50_000)
    page = (tmp_path / "p.html").read_bytes()
    assert code == 0 and len(page) < 300_000 and b"tokens not shown" in page
    assert page.count(b"<mark>&lt;|im_end|&gt;</mark>") == 3  # of each example as tokens, the end is there
    assert len((out / "preview.md").read_bytes()) < 100_000


mutations = st.lists(
    st.tuples(
        st.integers(0, 400), st.sampled_from(["cut", "insert", "replace", "repeat"]), st.binary(max_size=6)
    ),
    min_size=1,
    max_size=6,
)


def mutated(content: bytes, changes: list[tuple[int, str, bytes]]) -> bytes:
    for place, kind, piece in changes:
        head, tail = content[:place], content[place:]
        match kind:
            case "cut":
                content = head + tail[len(piece) :]
            case "insert":
                content = head + piece + tail
            case "replace":
                content = head + piece + tail[len(piece) :]
            case "repeat":
                content = head + tail[:40] + tail
    return content


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=mutations, form=st.sampled_from(["auto", "messages"]))
def test_ingest_mutated_lines_are_examples_or_quarantined_never_a_traceback(go, changes, form):
    lines = [
        {"id": i, "messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "yes"}]}
        for i in range(6)
    ]
    raw = mutated(b"".join(json.dumps(line).encode() + b"\n" for line in lines), changes)
    code, out, facts = go(raw, max_bad_share=1.0, format=form)
    assert code in (0, 3)
    if code == 0:
        kept = examples.read(out / "train.jsonl")
        bad = (out / "quarantine.jsonl").read_text().splitlines()
        assert len(kept) + len(bad) == facts["rows"] == sum(bool(line.strip()) for line in raw.split(b"\n"))
        assert all([m.role for m in e.messages][-2:] == ["user", "assistant"] for e in kept)


@pytest.mark.skipif(not SHARED.exists(), reason="needs public data: make data")
def test_ingest_banking77_keeps_every_row_but_those_that_test_has(go):
    code, out, facts = go(SHARED / "banking77", base=SHARED / "models/stories260K", valid_share=0.1)
    assert code == 0 and facts["format"] == "text_label" and facts["labels"] == 77
    assert (facts["rows"], facts["test"], facts["bad"]) == (13_083, 3_080, 0)
    assert facts["train"] + facts["valid"] + facts["overlap_removed"] == 10_003
    published = json.loads((SHARED / "banking77/categories.json").read_text())
    assert json.loads((out / "labels.json").read_text()) == sorted(published)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs public data: make data")
def test_ingest_gsm8k_from_a_shell_gives_the_known_counts(tmp_path):
    flags = SETTINGS | {"raw": SHARED / "gsm8k", "base": SHARED / "models/stories260K", "max_tokens": 257}
    flags |= {name: tmp_path / file for name, file in (OUTPUTS | {"quarantine": "quarantine.jsonl"}).items()}
    argv = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "deepcuts.components.ingest.step", *argv],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    facts = json.loads(done.stdout)["facts"]
    assert (facts["train"], facts["test"], facts["too_long"]) == (1981, 321, 7473 + 1319 - 1981 - 321)


def test_conversations_whose_history_is_rewritten_become_an_example_a_turn_in_one_split(go, tmp_path):
    tokenizer = byte_tokenizer(THINKING)
    tokenizer.save_pretrained(tmp_path / "rewriting")
    rows = [
        {
            "messages": [
                {"role": ROLES[i % 2], "content": f"{number} {i}"} for i in range(2 * (1 + number % 3))
            ]
        }
        for number in range(30)
    ]
    code, out, facts = go(rows, base=tmp_path / "rewriting", test_share=0.3)
    assert code == 0 and facts["split_conversations"] == 20 and facts["kept"] == 10 * (1 + 2 + 3)
    places = {}
    for split in ("train", "test"):
        for example in examples.read(out / f"{split}.jsonl"):
            places.setdefault(example.messages[0].content, set()).add(split)
    assert len(places) == 30 and all(len(found) == 1 for found in places.values())
    assert "20 conversations are trained as one example per turn" in (out / "preview.md").read_text()


def test_system_turns_are_folded_where_asked_and_else_set_aside_with_that_advice(go, tmp_path):
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    silent = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    said = [{"role": role, "content": "la"} for role in ROLES]
    rows = [{"messages": said}, {"messages": [{"role": "system", "content": "Sing."}, *said]}]
    for number, template in enumerate([strict + CHATML, silent]):
        byte_tokenizer(template).save_pretrained(tmp_path / str(number))
        code, out, facts = go(rows, base=tmp_path / str(number), max_bad_share=0.5)
        assert code == 0 and (facts["kept"], facts["bad"]) == (1, 1)
        assert "set fold_system" in (out / "quarantine.jsonl").read_text()
        code, out, facts = go(rows, base=tmp_path / str(number), fold_system="true")
        assert code == 0 and (facts["kept"], facts["bad"]) == (2, 0)
        assert examples.read(out / "train.jsonl")[1].messages[0].content.startswith("Sing.\n\n")


@pytest.mark.parametrize("max_tokens", [3, 8, 20, 60])
@pytest.mark.parametrize(
    "text",
    [
        "word and other words. " * 60,
        "été à Zürich, longish words; " * 20,
        "日本語😀 テキスト" * 20,
        "nospace" * 60,
    ],
)
def test_no_word_is_lost_between_blocks_with_tokens_of_words(text, max_tokens):
    tokenizer = load_tokenizer(ROOT / "pipelines/examples/base")
    converter = convert.Converter(tokenizer, "text", {}, False, max_tokens)
    (converted,) = converter.chunk([(0, Row("a", 1, "", {"text": text}))])
    said = "".join(part.example.messages[0].content for part in converted.parts)
    assert "".join(said.split()) == "".join(text.split()) and len(converted.parts) > 1


def test_preview_shows_characters_of_several_tokens_whole_and_its_marks_are_its_own():
    tokenizer = byte_tokenizer(CHATML)
    rendered = render(Example("x", (Message("user", "a⟦b⟧│"), Message("assistant", "😀"))), tokenizer)
    assert [text for on, text in pages.pieces(rendered, tokenizer) if on] == ["😀", "<|im_end|>"]
    assert "a[b]|" in pages.marked(rendered, tokenizer) and pages.divided(rendered, tokenizer).count("⟦") == 1


def test_csv_without_names_above_its_rows_is_told_to_have_them(go, tmp_path, capsys):
    (tmp_path / "a.csv").write_text("my laptop broke,hardware\n" * 3)
    assert go(tmp_path / "a.csv")[0] == 3
    assert "names are taken from the first line" in capsys.readouterr().err
