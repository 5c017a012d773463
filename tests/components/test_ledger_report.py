"""The page and the Markdown that people see: whole, small, and harmless whatever the names in it."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.ledger import charts, formatting
from deepcuts.components.ledger.charges import Total, charges
from deepcuts.components.ledger.charts import CurvePoint
from deepcuts.components.ledger.ledger import balance
from deepcuts.components.ledger.report import markdown, page
from tests.components.test_ledger import POOLS, LedgerRun, receipt

SCRIPT = "<script>alert(1)</script>"
HOSTILE = [
    SCRIPT,
    "</td></table><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "[click](javascript:alert(1)) `a` *b* | c",
    "{{ 7 * 7 }} {% raw %} ${x}$",
    "#000011 fill: #000011",
    "שלום \u202e עולם",
    "W" * 5000,
    "two\nlines | and a pipe",
]


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails when elements are not closed in order."""

    VOID = {"meta", "br", "wbr"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attributes]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attributes]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def full(tmp_path: Path) -> LedgerRun:
    """A run with everything: two pools, a failed attempt, quality, a curve, verdicts on cuts."""
    run = LedgerRun(tmp_path)
    run.task("fetch", receipt("fetch", "cpu", 100.0, started_at="2026-11-20T08:00:00+00:00"))
    facts = {
        "trained_share": 0.0216,
        "optimizer_bytes": 73_400_320,
        "compile_seconds": 41.2,
        "training_id": "f" * 64,
        "cut_lora": "kept: 0.01 nats better than full fine-tuning",
    }
    known = {"attempt": 2, "tokens": 600_000, "peak_device_bytes": 2**33, "facts": facts}
    run.task(
        "finetune",
        receipt("finetune", "l4-spot", 600.0, end_reason="preempted"),
        receipt("finetune", "l4-spot", 1200.0, **known),
    )
    run.scorecard("before", 2.3)
    run.scorecard("after", 1.6)
    curve = tmp_path / "curve"
    curve.write_text(
        "".join(json.dumps({"tokens": i, "loss": 2 + 1 / i, "grad_norm": 1}) + "\n" for i in range(1, 900))
    )
    run.curves["finetune"] = str(curve)
    assert run.close() == 0
    return run


def test_report_of_a_whole_run_is_small_and_refers_to_nothing_outside(full):
    assert len(full.report.encode()) < 100_000
    parsed = Page(full.report)
    assert not parsed.tags & {"script", "link", "iframe", "object", "embed", "img", "image", "a", "form"}
    assert not re.search(r"(?:https?:)?//|@import|javascript:", full.report.replace("<!doctype html>", ""))
    assert not [name for name, _ in parsed.attributes if name.startswith("on") or name in ("src", "href")]


def test_report_says_quality_dollars_price_and_action_before_anything_else(full):
    first = Page(full.report).text.split("Cuts")[0]
    for said in ("2.500 → 1.800", "better", "$0.9100", "price sheet", "2026-11-20", "publish the model"):
        assert said in first


def test_report_shows_verdict_and_evidence_of_a_cut_in_their_units(full):
    text = Page(re.sub("(?s)<style>.*?</style>", "", full.report)).text
    for said in ("kept: 0.01 nats better", "2.16\u00a0%", "70 MiB", "41.2 s", "8 GiB", "500", "#2", "(spot)"):
        assert said in text
    assert "f" * 32 not in text


def test_report_has_four_charts_whose_parts_are_found_once_in_the_page(full):
    assert full.report.count("<svg ") == 4
    made = re.findall(r'\bid="([^"]+)"', full.report)
    assert len(made) == len(set(made))
    assert set(re.findall(r"url\(#([^)]+)\)", full.report)) <= set(made)


def test_report_charts_take_their_colours_from_a_page_that_knows_light_and_dark(full):
    drawn = "".join(re.findall(r"<svg .*?</svg>", full.report, re.DOTALL))
    assert not re.findall(r"(?:fill|stroke): (?!none|currentColor|var\(--)[^;\"]+", drawn)
    used = set(re.findall(r"var\((--[\w-]+)\)", full.report))
    light, dark = re.findall(r":root \{(.*?)\}", full.report, re.DOTALL)
    assert "prefers-color-scheme: dark" in full.report
    for theme in (light, dark):
        assert used <= set(re.findall(r"(--[\w-]+):", theme))


def test_every_cell_names_its_column_where_the_header_is_hidden(full):
    """On a phone three answers below each other would say nothing without."""
    assert "td:not(:first-child)::before { content: attr(data-label)" in full.report
    cells = re.findall(r"<td(.*?)>", full.report)
    assert cells and all('data-label="' in cell or "colspan" in cell for cell in cells)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (16_571.3, "16,571"),
        (1234.5, "1,234"),
        (29.44, "29.44"),
        (1.3e-5, "1.3e-05"),
        (3, "3"),
        (2e300, "2e+300"),
    ],
)
def test_numbers_are_written_one_way(value, said):
    assert formatting.number(value) == said


def test_timeline_draws_training_and_its_watcher_side_by_side():
    """Bars as (first, last) x in the chart: what ran at the same time overlaps, what followed does not."""
    start = "2026-11-24T10:00:00+00:00"
    rows = charges(
        {
            "finetune": [receipt("finetune", "l4-spot", 600.0, started_at=start)],
            "watch": [receipt("watch", "cpu", 590.0, started_at="2026-11-24T10:00:20+00:00")],
            "accept": [receipt("accept", "cpu", 60.0, started_at="2026-11-24T10:10:20+00:00")],
        },
        POOLS,
    )
    bars = []
    for path in re.findall(
        r'<path d="([^"]+)" clip-path[^>]*style="fill: var\(--series-\d\)', charts.timeline(rows)
    ):
        xs = [float(x) for x, _ in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]
        bars.append((min(xs), max(xs)))
    watch, accept, finetune = bars  # by pool, then by time
    assert finetune[0] < watch[0] < finetune[1] < watch[1] <= accept[0] + 0.5
    assert (watch[1] - watch[0]) / (finetune[1] - finetune[0]) == pytest.approx(590 / 600, abs=0.01)


def test_report_with_hostile_names_shows_them_as_text(tmp_path):
    run = LedgerRun(tmp_path)
    clean = LedgerRun(tmp_path / "clean")
    clean.folder.mkdir()
    for i, text in enumerate(HOSTILE):
        facts = {text: text, f"cut_{text}": text}
        run.task(
            text, receipt(text, text, 60.0, end_reason=text, facts=facts, started_at="2026-11-24T10:00:00Z")
        )
        clean.task(
            f"task{i}", receipt("x", f"pool{i}", 60.0, end_reason="data", facts={"a": "b", "cut_c": "d"})
        )
        run.curves[text] = str(tmp_path / "curve")
        clean.curves[f"task{i}"] = str(tmp_path / "curve")
    (tmp_path / "curve").write_text('{"tokens": 1, "loss": 2.0}\n{"tokens": 2, "loss": null}\n')
    assert run.close() == 0 and clean.close() == 0
    hostile, harmless = Page(run.report), Page(clean.report)
    assert hostile.tags - {"wbr"} == harmless.tags - {"wbr"}, "a place to break a path is ours"
    assert {name for name, _ in hostile.attributes} == {name for name, _ in harmless.attributes}
    assert SCRIPT in hostile.text and "{{ 7 * 7 }}" in hostile.text
    assert len(run.report.encode()) < 400_000


def test_summary_with_hostile_names_has_no_markup_of_theirs(tmp_path):
    run = LedgerRun(tmp_path)
    for text in HOSTILE:
        run.task(text, receipt("finetune", text, 60.0, end_reason=text, facts={text: text}))
    assert run.close() == 0
    assert "<" not in run.summary
    assert not re.search(r"(?<!\\)[\[\]`]", run.summary)
    tasks = [line for line in run.summary.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tasks} == {8, 5}  # columns of the two tables


def test_report_of_a_thousand_hostile_attempts_stays_below_400_kb():
    facts = {f"<{i}{'&' * 200}>": "<&>" * 200 for i in range(50)}
    facts |= {f"cut_<{i}>" * 9: "<&>" * 200 for i in range(50)}
    made = [receipt("finetune", f"<pool {i}>" * 50, 60.0 + i, facts=facts) for i in range(1000)]
    rows = charges({f"<{i}>" * 100: [each] for i, each in enumerate(made)}, POOLS)
    curves = {f"<{i}>": [CurvePoint(float(t), math.sin(t)) for t in range(5000)] for i in range(20)}
    book = balance(rows, {}, {})
    html = page(book, rows, curves, {})
    assert len(html.encode()) < 400_000
    assert html == page(book, rows, curves, {})  # equal inputs, equal bytes: what comes after it stays cached
    assert "940 more attempts are in ledger.jsonl" in html
    assert "940 more attempts are in ledger.jsonl" in markdown(book, rows)


def test_report_without_anything_measured_says_so():
    rows = charges({"finetune": []}, POOLS)
    text = Page(page(balance(rows, {}, {}), rows, {}, {})).text
    assert "Nothing was measured that could be drawn" in text and "No charged pool has a price" in text


span = st.tuples(st.floats(0, 1e6), st.floats(0.1, 1e4)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(span, min_size=1, max_size=12))
def test_fold_keeps_order_and_overlap_and_cuts_only_what_was_idle(spans):
    lefts, folds = charts.fold(spans)
    assert min(lefts) == 0.0
    for i, (start, end) in enumerate(spans):
        for j, (other, _) in enumerate(spans):
            if start <= other <= end:  # at the same time: never moved against each other
                assert lefts[j] - lefts[i] == pytest.approx(other - start, abs=1e-3)
            elif other > end:
                assert end - start - 1e-3 <= lefts[j] - lefts[i] <= other - start + 1e-3
    busy = sum(end - start for start, end in spans)
    assert all(gap > busy for _, gap in folds)
    drawn = max(left + end - start for left, (start, end) in zip(lefts, spans, strict=True))
    assert drawn <= busy + max(busy, 1.0) * len(spans) + 1e-3


def test_thin_keeps_the_mean_and_leaves_a_gap_where_the_loss_was_not_finite():
    points = [CurvePoint(float(i), 3.0 if i < 500 else 1.0) for i in range(1000)]
    tokens, loss = charts.thin(points)
    assert len(tokens) == 200 and loss[:100] == [3.0] * 100 and loss[100:] == [1.0] * 100
    assert math.isnan(charts.thin([CurvePoint(1.0, None)])[1][0])


@pytest.mark.parametrize(
    ("total", "said"),
    [
        (Total(12.345, 0, 1.0, 0), "$12.35"),
        (Total(0.0123, 2, 1.0, 0), "at least $0.0123, 2 unknown"),
        (Total(None, 3, 1.0, 0), "unknown"),
        (Total(0.00001, 0, 1.0, 0), "<$0.0001"),
        (Total(0.0, 0, 1.0, 0), "$0.00"),
        (Total(1234567.0, 0, 1.0, 0), "$1,234,567.00"),
    ],
)
def test_cost_is_never_a_bare_sum_when_something_is_unknown(total, said):
    assert formatting.cost(total) == said


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("trained_share", 0.00286, ("trained share", "0.29\u00a0%")),
        ("checkpoint_bytes", 36_700_160, ("checkpoint", "35 MiB")),
        ("save_seconds", 3700.0, ("save", "1 h 1 min")),
        ("saved_usd", 1.5, ("saved", "$1.50")),
        ("seconds", 12.0, ("seconds", "12 s")),
        ("kept", 1_234_567, ("kept", "1,234,567")),
        ("valid_loss", None, ("valid loss", "unknown")),
        ("checkpointing", False, ("checkpointing", "no")),
        ("valid_loss", 1.56789, ("valid loss", "1.568")),
    ],
)
def test_fact_is_read_in_the_unit_of_its_name(name, value, said):
    assert formatting.fact((name, value)) == said


def test_report_of_a_failed_run_looks_failed_and_gives_the_whole_reason(tmp_path):
    run = LedgerRun(tmp_path)
    why = "no known format, the keys are promt: rename them, and so on " * 6
    run.task("ingest", receipt("ingest", "cpu", 9.0, end_reason="data", message=why.strip()))
    run.close()
    shown = Page(run.report)
    assert ("class", "worse") in shown.attributes and "failed" in shown.text
    assert "ingest could not use its input: correct its input, then rerun" in shown.text
    for said in (shown.text, run.summary):
        assert why.strip() in " ".join(said.split())
    assert run.summary.startswith("**Failed**")


def test_figures_of_a_page_have_one_style(full):
    full.scorecard("before", 2.3)
    full.scorecard("after", 1.6)
    full.close()
    text = Page(re.sub("(?s)<style>.*?</style>", "", full.report)).text
    assert not re.findall(r"\d ?%", text), "a no-break space stands before per cent"
    assert "95\u00a0% interval" in text and re.search(r"perplexity,\s+95", text)
    tasks = [line for line in full.summary.splitlines() if re.search(r"\\?\| \S+ s \|", line)]
    assert not tasks, "a time in a table keeps its unit on its line"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("-0.0004 nats (-0.0017 to +0.0008)", "−0.0004 nats (−0.0017 to +0.0008)"),
        (
            "17.65% of 2026-11-30, 1 % of gguf-q8_0 at 1e-5",
            "17.65\u00a0% of 2026-11-30, 1\u00a0% of gguf-q8_0 at 1e-5",
        ),
    ],
)
def test_figures_in_a_reason_are_written_as_everywhere(said, shown):
    assert formatting.prose(said) == shown
