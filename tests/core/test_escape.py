"""What data, templates, file names and models say is text, in whatever it is shown."""

import io
import json
from html.parser import HTMLParser

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.table import Table

from deepcuts.components.core import carry, chain, cli, escape
from deepcuts.components.core.attempts import Terminal
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.receipts import Meter
from deepcuts.components.core.store import FileStore
from deepcuts.components.curriculum import step as curriculum
from deepcuts.components.ingest import pages, preview
from deepcuts.components.ledger.report import environment
from deepcuts.components.select import report
from deepcuts.pipelines.command.screen import Screen

CLEAR = "\x1b[2J\x1b[Hall fine \x9b31m\x07\u202egnp\r"
LIVE = (
    "<img src=x onerror=alert(1)> <script>x</script> [a](javascript:x) ![b](//c) **d** `e` http://f.g www.h.i"
)
EVIL = f"{CLEAR} | {LIVE}\n\n# head\n\n- item\n\n<b>block</b>"
VIEWER = MarkdownIt("gfm-like", {"html": True, "linkify": False}).enable("table")


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)


def tags(page: str) -> set[str]:
    parser = Tags()
    parser.feed(VIEWER.render(page))
    return set(parser.found)


def is_plain(text: str) -> bool:
    return all(letter.isprintable() or letter in "\n\t\xa0\u3000" or letter.isspace() for letter in text)


@given(st.text())
def test_terminal_text_has_no_control_characters_and_keeps_the_rest(text):
    shown = escape.terminal(text)
    assert not escape.CONTROLS.search(shown)
    assert escape.terminal(shown) == shown
    if not escape.CONTROLS.search(text):
        assert shown == text


@pytest.mark.parametrize("wrap", ["{}", "- {}", "| a | b |\n|---|---|\n| {} | c |", "# {}"])
@pytest.mark.parametrize("way", [escape.markdown, escape.code])
def test_markdown_of_a_hostile_name_is_text(way, wrap):
    for text in (EVIL, LIVE, "1. x", "+ x", "- x", "> x", "    x", "=", "---", "\\`", "a\nb", "&lt;b&gt;"):
        allowed = {"p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "h1", "code"}
        assert tags(wrap.format(way(text))) <= allowed - ({"code"} if way is escape.markdown else set())
    assert tags(escape.markdown(EVIL)) == {"p"}


def test_block_of_code_cannot_be_ended_by_its_text():
    page = f"before\n\n{escape.code_block(EVIL)}\n\nafter"
    assert tags(page) == {"p", "pre", "code"}
    assert all(line.strip(" ") for line in escape.code_block(EVIL).split("\n"))


def test_html_of_a_template_is_escaped_and_without_control_characters(tmp_path):
    (tmp_path / "page.jinja").write_text('<p title="{{ name }}">{{ name }}</p>')
    page = environment(tmp_path).get_template("page.jinja").render(name=EVIL + '"')
    assert "<img" not in page and "<script" not in page and "\x1b" not in page and page.count('"') == 2


def test_ingests_preview_shows_names_roles_and_texts_as_text():
    tally = preview.Tally("auto", "found", [f"notes {EVIL}.md"])
    tally.bad[f"role {EVIL} is unknown"] = 2
    tally.where[f"role {EVIL} is unknown"] = [f"{EVIL}:3"]
    tally.lengths[3] += 1
    page = pages.markdown(pages.Shown(tally, 100, None))  # type: ignore[arg-type]  # no example is shown
    assert not tags(page) & {"img", "script", "a", "b", "strong"} and "\x1b" not in page


def test_selects_report_shows_ids_and_texts_as_text():
    example = Example(EVIL, (Message("user", EVIL), Message("assistant", EVIL)))
    case = report.Dropped(EVIL, "duplicate", 3, report.excerpt(example), EVIL, EVIL, 1.0)
    facts = dict.fromkeys(
        ("examples", "corpus_tokens", "kept", "tokens", "label_conflicts", "labels_lost"), 1
    )
    page = report.markdown({"cut_select": EVIL, **facts}, {}, [case])
    assert not tags(page) & {"img", "script", "a", "b"} and "\x1b" not in page


def test_nothing_of_a_run_reaches_the_terminal_as_control_characters(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Screen()
    screen.file = written = io.StringIO()
    rows = Table("task", EVIL)
    rows.add_row(f"[red]{EVIL}", EVIL)
    screen.print(rows, EVIL, f"[link=file:///x]{CLEAR}")
    text = written.getvalue()
    assert "\x1b[2J" not in text and "\x9b" not in text and "\u202e" not in text and "\r" not in text
    assert "[red]" in text and r"\x1b[2J" in text.replace("\n", "")


def fails(way: str) -> dict[str, int]:
    raise ValueError(way) if way.startswith("config") else RuntimeError(way)


@pytest.mark.parametrize("way", [f"config {EVIL}", f"bug {EVIL}"], ids=["config", "bug"])
def test_a_steps_message_clears_no_screen_and_repeats_no_password(capsys, way):
    cli.run(fails, ["--way", f"{way} s3://me:hunter2@host/b?X-Amz-Signature=abcd1"])
    said = capsys.readouterr()
    assert "\x1b" not in said.err and "\x9b" not in said.err and r"\x1b[2J" in said.err
    assert "hunter2" not in said.err + said.out and "abcd1" not in said.err + said.out


def test_carry_repeats_no_password(capsys, tmp_path):
    assert carry.main(["get", "http://me:hunter2@host/b/c", str(tmp_path)]) == 2
    assert "hunter2" not in capsys.readouterr().err


def test_unknown_key_cannot_write_to_the_terminal(capsys):
    cli.run(fails, ["--way", "config", f"--{CLEAR}", "x"])
    assert "\x1b" not in capsys.readouterr().err


def test_password_with_an_at_sign_or_a_percent_is_not_repeated_either():
    for secret in ("hunter2", "hun@ter2", "hun%40ter2", "h:u@n@ter2"):
        said = escape.redacted(f"cannot reach https://me:{secret}@host:9000/b (tried 3 times)")
        assert said == "cannot reach https://…@host:9000/b (tried 3 times)"
    assert escape.redacted("hf://ORG/NAME@0123abc and me@host") == "hf://ORG/NAME@0123abc and me@host"


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("GET https://h/x?access_token=hunter2&page=1", "GET https://h/x?access_token=…&page=1"),
        ("https://h/x?AWSAccessKeyId=hunter2&Signature=hunter2", "https://h/x?AWSAccessKeyId=…&Signature=…"),
        ("https://h/x#id=1&api_key=hunter2", "https://h/x#id=1&api_key=…"),
        (r'{"url": "https:\/\/me:hunter2@h\/x"}', r'{"url": "https:\/\/…@h\/x"}'),
        ("https:/me:hunter2@h/run: no run.json in it", "https:/…@h/run: no run.json in it"),
        ("invalid bucket name me:hunter2@bucket", "invalid bucket name me:…@bucket"),
        ("train:v1@sha256:0a is built", "train:v1@sha256:0a is built"),
        ("401 for Authorization: Bearer hunter2.x-y", "401 for Authorization: Bearer …"),
        ("token hf_hunter2hunter2hunter2", "token hf_…"),
        ("max_tokens=128 is above 64, keys are a, b", "max_tokens=128 is above 64, keys are a, b"),
        ("cannot open s3://AKIA7:hunter2/x+hunter2@host/b", "cannot open s3://…@host/b"),
        ("http://host:9000/models@v2 is no store", "http://host:9000/models@v2 is no store"),
        ("Authorization: Basic aHVudGVyMg==", "Authorization: Basic …"),
        ("env AWS_SECRET_ACCESS_KEY=hunter2 S3_ENDPOINT=x", "env AWS_SECRET_ACCESS_KEY=… S3_ENDPOINT=x"),
        ("{'secret_key': 'hunter2', 'b': 1}", "{'secret_key': '…', 'b': 1}"),
        ("clone with ghp_hunter2hunter2hunter2", "clone with ghp_…"),
    ],
)
def test_secrets_in_other_places_are_not_repeated_either(said, left):
    assert escape.redacted(said) == left


def test_examples_on_the_page_of_curriculum_are_text():
    rows = [Example(str(n), (Message("user", EVIL), Message("assistant", "x"))) for n in range(6)]
    drawn = [(number, 0) for number in range(6)]
    page = curriculum.page(rows, [1.0] * 6, range(6), [3] * 6, drawn, "length", "linear")
    assert is_plain(page) and not tags(page) & {"img", "script", "a", "b"}
    assert r"\x1b[2J" in page


def test_a_chain_that_may_not_begin_clears_no_screen(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPCUTS_ATTEMPTS", tmp_path.as_uri())
    end = Terminal("a", 3, "data", f"{EVIL} s3://me:hunter2@host")
    FileStore(tmp_path).put_bytes("a/terminal.json", msgspec.json.encode(end))
    assert chain.run(["--receipt", str(tmp_path / "receipt"), "--part", "a=components.toy"], Meter()) == 3
    said = capsys.readouterr().err
    assert r"\x1b[2J" in said and "\x1b" not in said and "hunter2" not in said


def named(name: str) -> dict[str, str]:
    return {"file": name}


@pytest.mark.parametrize(("step", "flag", "code"), [(fails, "--way", 2), (named, "--name", 0)])
def test_a_file_name_that_is_no_utf8_or_steers_the_terminal_leaves_its_receipt(
    capsys, tmp_path, step, flag, code
):
    """Linux hands over the byte 0xff as \\udcff, which no encoder takes; 0x9b begins an escape sequence."""
    word, place = "config d\udcff.csv \x9b2J \u202e", tmp_path / "receipt.json"
    assert cli.run(step, [flag, word, "--receipt", str(place)]) == code
    said = capsys.readouterr()
    assert not escape.CONTROLS.search(said.out + said.err)
    for receipt in (json.loads(said.out), json.loads(place.read_text())):
        assert r"d\udcff.csv" in receipt["message"] + receipt["facts"].get("file", "")
        assert "\x9b2J \u202e" in receipt["message"] + receipt["facts"].get("file", "")
