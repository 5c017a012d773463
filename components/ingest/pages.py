"""Write the preview for people: what was read, what was not, and what is learned, token by token."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from deepcuts.components.core import escape
from deepcuts.components.core.examples import Example
from deepcuts.components.core.markdown import table
from deepcuts.components.ingest.preview import Tally
from deepcuts.components.training.render import Rendered, render

BINS, BAR = 10, 40
ENDS = 300
"""Tokens shown at each end of a longer example, so that five examples fit into 300 kB of HTML."""
CHARACTER_TOKENS = 4
"""Maximum size in UTF-8."""
MARKS = str.maketrans({"⟦": "[", "⟧": "]", "│": "|"})
"""Replacements in the data's text for the marks of learned text and token borders."""
STYLE = (
    ":root{color-scheme:light dark;--paper:#fff;--ink:#1c1e21;--soft:#f2f2f2;--line:#ccc;--mark:#b7e4c7;"
    "--bar:#2c6fbb}@media(prefers-color-scheme:dark){:root{--paper:#141619;--ink:#e9e7e2;--soft:#23272c;"
    "--line:#4a5058;--mark:#1f5c38;--bar:#6ea8ea}}*{box-sizing:border-box}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;"
    "background:var(--paper);color:var(--ink);overflow-wrap:anywhere}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--soft);padding:.8em;border-radius:4px}"
    "mark{background:var(--mark);color:inherit}.t{border-right:1px solid var(--line)}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em .2em 0;text-align:left;vertical-align:top;"
    "border-bottom:1px solid var(--line)}td{min-width:3em}"
    "th,.bars td{white-space:nowrap}.bars{width:100%}"
    ".bars td:last-child{width:100%}.bars b{display:block;height:1em;background:var(--bar)}"
)


class Shown(NamedTuple):
    """Content of a page."""

    tally: Tally
    max_tokens: int
    tokenizer: PreTrainedTokenizerBase

    def examples(self) -> Iterator[tuple[str, Example]]:
        """Yield (title, example): the first, the longest and the shortest."""
        for number, example in enumerate(self.tally.shown, start=1):
            yield f"Example {number}", example
        known = {example.id for example in self.tally.shown}
        for title, found in (("The longest", self.tally.longest), ("The shortest", self.tally.shortest)):
            if found and found.id not in known:
                known.add(found.id)
                yield f"{title}, {found.tokens:,} tokens", found

    def reasons(self) -> Iterator[tuple[str, str, str]]:
        """Yield (reason, rows, places) of rows set aside."""
        if self.tally.too_long:
            yield f"more than {self.max_tokens:,} tokens", f"{self.tally.too_long:,}", ""
        if self.tally.overlap_removed:
            yield "also in test or valid", f"{self.tally.overlap_removed:,}", ""
        for reason, count in self.tally.bad.most_common(20):
            yield reason, f"{count:,}", ", ".join(self.tally.where[reason])

    def histogram(self) -> Iterator[tuple[str, int, int]]:
        """Yield (range of lengths, number of examples, bar width) of the training examples."""
        shortest, longest = min(self.tally.lengths), max(self.tally.lengths)
        width = max(1, -(-(longest - shortest + 1) // BINS))
        counts = [0] * BINS
        for length, count in self.tally.lengths.items():
            counts[(length - shortest) // width] += count
        for place, count in enumerate(counts):
            start = shortest + place * width
            if start <= longest:
                yield f"{start:,} to {start + width - 1:,}", count, -(-count * BAR // max(counts))


def summary(shown: Shown) -> list[str]:
    """Summarise format and tokens, one line each."""
    tally = shown.tally
    lines = [
        f"Format {tally.format} ({tally.took}): {tally.rows:,} rows, {tally.examples.total():,} kept.",
        f"{tally.tokens:,} training tokens, {tally.answer_tokens:,} "
        f"({tally.answer_tokens / max(1, tally.tokens):.0%}) of them learned; tokens per example: median "
        f"{tally.length_at(0.5):,}, 90th percentile {tally.length_at(0.9):,}, "
        f"maximum {max(tally.lengths, default=0):,}.",
    ]
    lines += [f"Read {tally.files_read()}."] + [f"Read as {dialect}." for dialect in tally.dialects[:20]]
    if tally.split_conversations:
        lines.append(
            f"{tally.split_conversations:,} conversations are trained as one example per turn: the chat "
            "template writes earlier answers differently in later turns."
        )
    if tally.labels:
        lines.append(f"{len(tally.labels):,} labels.")
    return lines


def markdown(shown: Shown) -> str:
    """Write the page: format, splits, rows set aside or changed, tokens, examples with marked answers."""
    tally, tokenizer = shown.tally, shown.tokenizer
    lines = [
        "# Ingest",
        *map(escape.markdown, summary(shown)),
        _table(
            ("split", "examples"),
            [(split, f"{tally.examples[split]:,}") for split in ("train", "valid", "test")],
        ),
        "## Set aside",
        _table(("why", "rows", "where"), list(shown.reasons())),
        f"{len(tally.skipped):,} files not read{': ' * bool(tally.skipped)}"
        + f"{', '.join(map(escape.code, tally.skipped[:20]))}.",
        "## Changed or not used",
        _table(("what", "times"), [(what, f"{n:,}") for what, n in tally.changes.most_common(20)]),
        "## Tokens per example",
        escape.code_block(
            "\n".join(f"{span:>15} {count:>9,} {'█' * bar}" for span, count, bar in shown.histogram())
        ),
        "## Examples",
        "Learned text is between ⟦ and ⟧; below it are the same tokens, divided by │.",
    ]
    for title, example in shown.examples():
        rendered = render(example, tokenizer)
        lines += [f"### {escape.markdown(title)}"]
        lines += map(escape.code_block, (marked(rendered, tokenizer), divided(rendered, tokenizer)))
    return "\n\n".join(lines) + "\n"


def html(shown: Shown) -> str:
    """Return the page as HTML for a browser and the Kubeflow UI: no scripts, everything escaped."""
    tally, tokenizer = shown.tally, shown.tokenizer
    splits = [(split, f"{tally.examples[split]:,}") for split in ("train", "valid", "test")]
    changes = [(what, f"{count:,}") for what, count in tally.changes.most_common(20)]
    skipped = ", ".join(tally.skipped[:20]) or "none"
    parts = [
        *(f"<p>{escape.html(line)}</p>" for line in summary(shown)),
        _html_table(("split", "examples"), splits),
        "<h2>Set aside</h2>" + _html_table(("why", "rows", "where"), list(shown.reasons())),
        f"<p>{len(tally.skipped):,} files not read: {escape.html(skipped)}</p>",
        "<h2>Changed or not used</h2>" + _html_table(("what", "times"), changes),
        f"<h2>Tokens per example</h2>{_html_bars(shown)}",
        "<h2>Examples</h2><p>Learned text is <mark>marked</mark>; below it is the same text by token.</p>",
    ]
    for title, example in shown.examples():
        rendered = render(example, tokenizer)
        runs = "".join(
            f"<mark>{escape.html(t)}</mark>" if on else escape.html(t) for on, t in texts(rendered, tokenizer)
        )
        cells = "".join(_html_token(text, on) for on, text in pieces(rendered, tokenizer))
        parts.append(f"<h3>{escape.html(title)}</h3><pre>{runs}</pre><pre>{cells}</pre>")
    head = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    )
    head += f"<title>Preview of the data</title><style>{STYLE}</style>"
    return f"{head}<h1>Preview of the data</h1>{''.join(parts)}\n"


def texts(rendered: Rendered, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[bool, str]]:
    """Yield (learned, text) of each stretch, including special tokens."""
    for part, note in _ends(rendered):
        for learned, run in groupby(zip(part.ids, part.mask, strict=True), key=lambda pair: pair[1]):
            yield bool(learned), str(tokenizer.decode([token for token, _ in run]))
        if note:
            yield False, note


def pieces(rendered: Rendered, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[bool, str]]:
    """Yield (learned, text) of each token, with line breaks shown as ⏎.

    Tokens that form one character together, as for an emoji, come as one.
    """
    for part, note in _ends(rendered):
        for learned, run in groupby(zip(part.ids, part.mask, strict=True), key=lambda pair: pair[1]):
            for text in _readable([token for token, _ in run], tokenizer):
                yield bool(learned), text.replace("\n", "⏎")
        if note:
            yield False, note


def _readable(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield the text of each token, or of several if a character spans them."""
    start = 0
    for end in range(1, len(ids) + 1):
        text = str(tokenizer.decode(ids[start:end]))
        if not text.endswith("\ufffd") or end - start == CHARACTER_TOKENS or end == len(ids):
            yield text
            start = end


def _ends(rendered: Rendered) -> Iterator[tuple[Rendered, str]]:
    """Yield the whole example, or its two ends, each with the text to show after it."""
    ids, mask = rendered
    if (hidden := len(ids) - 2 * ENDS) <= 0:
        yield rendered, ""
        return
    yield Rendered(ids[:ENDS], mask[:ENDS]), f" ⋯ {hidden:,} tokens not shown ⋯ "
    yield Rendered(ids[-ENDS:], mask[-ENDS:]), ""


def marked(rendered: Rendered, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text of ``rendered`` with learned spans between ⟦ and ⟧, including special tokens."""
    shown = unmarked(texts(rendered, tokenizer))
    return "".join(f"⟦{text}⟧" if learned else text for learned, text in shown)


def unmarked(parts: Iterator[tuple[bool, str]]) -> Iterator[tuple[bool, str]]:
    """Yield ``parts`` with ``MARKS`` replaced in the data's own text."""
    return ((learned, text.translate(MARKS)) for learned, text in parts)


def divided(rendered: Rendered, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the tokens of ``rendered`` divided by │, with learned ones between ⟦ and ⟧."""
    runs = groupby(unmarked(pieces(rendered, tokenizer)), key=lambda piece: piece[0])
    shown = [(learned, "│".join(text for _, text in run)) for learned, run in runs]
    return "│".join(f"⟦{text}⟧" if learned else text for learned, text in shown)


def _html_bars(shown: Shown) -> str:
    rows = [
        f"<tr><td>{span}</td><td>{count:,}</td><td><b style=width:{100 * bar // BAR}%></b></td></tr>"
        for span, count, bar in shown.histogram()
    ]
    return f"<table class=bars>{''.join(rows)}</table>"


def _html_token(text: str, learned: bool) -> str:
    inner = f"<mark>{escape.html(text)}</mark>" if learned else escape.html(text)
    return f"<span class=t>{inner}</span>"


def _html_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return "<p>Nothing.</p>"
    lines = [f"<tr>{''.join(f'<td>{escape.html(cell)}</td>' for cell in row)}</tr>" for row in rows]
    names = "".join(f"<th>{escape.html(name)}</th>" for name in header)
    return f"<table><tr>{names}</tr>{''.join(lines)}</table>"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return "Nothing."
    return table(header, [[escape.markdown(cell) for cell in row] for row in rows])
