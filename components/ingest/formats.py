"""Detect the format of training data by its columns, and convert rows to Examples."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from deepcuts.components.core import strict
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.ingest import choices, shapes, turns
from deepcuts.components.ingest.columns import mapping_for, needs, shown
from deepcuts.components.ingest.rows import Cells
from deepcuts.components.ingest.shapes import LABELS, RawTurns, first

SOURCES = ("source", "intent", "category", "dataset")
"""Keys for the origin of a row, likeliest first."""
META = {
    *("id", "idx", "index", "uuid", "source", "dataset", "url", "timestamp", "date", "meta", "metadata"),
    *("title", "lang", "language", "language_score", "token_count", "file_path", "dump", "score", "license"),
}
"""Columns next to ``text`` that show it is not a table of classes."""
NOT_TEXT = ("images", "image", "videos", "video", "audios", "audio")
"""Columns with content that cannot be trained here."""
ALWAYS = ("id", *SOURCES, "form", *NOT_TEXT)
"""Columns read in every format."""


EMPTY: tuple[object, ...] = (None, "", [], {})
"""Empty cells, which may be left out unnoticed; 0 and false are not empty."""


class Format(NamedTuple):
    keys: tuple[tuple[str, ...], ...]
    """Columns a row must have: one of each group."""
    turns: Callable[[Cells], RawTurns]
    more: tuple[tuple[str, ...], ...] = ()
    """Other columns used: the first of each group that is not empty."""


SYSTEM, TOOLS = shapes.SYSTEM, ("tools", "functions")
MORE = (SYSTEM, TOOLS, ("label",))
ASKED = (*MORE, ("history",))
FORMATS = {
    "preference": Format(
        (("chosen",), ("rejected",)), shapes.preference, (SYSTEM, TOOLS, shapes.ASKED, ("input",))
    ),
    "messages": Format((("messages",),), shapes.messages, MORE),
    "sharegpt": Format((("conversations", "conversation"),), shapes.sharegpt, MORE),
    "multiple_choice": Format(
        (choices.QUESTIONS, choices.CHOICES, choices.RIGHT),
        choices.multiple_choice,
        (*ASKED, *((key,) for key in choices.ABOVE)),
    ),
    "question_answer": Format(
        (shapes.QUESTIONS, shapes.ANSWERS), shapes.question_answer, (*ASKED, ("context",))
    ),
    "alpaca": Format(
        (("instruction",), shapes.ALPACA_ANSWERS), shapes.alpaca, (*ASKED, ("input",), ("context",))
    ),
    "prompt_completion": Format((shapes.PROMPTS, shapes.COMPLETIONS), shapes.prompt_completion, ASKED),
    "text_label": Format((("text",), LABELS), shapes.text_label, (SYSTEM, TOOLS)),
    "text": Format((("text",),), shapes.plain_text),
}
"""In the order of detection: more specific columns first."""
COLUMNS = {
    *ALWAYS,
    *(key for form in FORMATS.values() for group in (*form.keys, *form.more) for key in group),
}
"""All columns that any format reads."""


def choose(flag: str, rows: Iterable[Cells]) -> str:
    """Return the format named by ``flag``, or detect it from ``rows`` if that is ``auto``.

    Raises:
        ValueError: there is no such format.
        DataError: ``flag`` is ``auto``, and the rows do not show what to train on.
    """
    if flag == "auto":
        return detect(rows)
    if flag not in FORMATS:
        raise ValueError(
            strict.unknown_key("", flag, ["auto", *FORMATS]).replace("unknown key", "unknown format")
        )
    return flag


def check_mapping(flag: str, columns: Mapping[str, str]) -> None:
    """Raise ValueError if ``columns`` map to nothing that the format named by ``flag`` reads."""
    if not columns or flag not in FORMATS:
        return
    given = {*columns, *({"text"} if {"prompt", "label"} <= columns.keys() else ())}
    if not all(given & set(group) for group in FORMATS[flag].keys if "rejected" not in group):
        raise ValueError(
            f"format {flag} with columns {', '.join(columns)}: it needs {needs(FORMATS[flag].keys)}; "
            "leave format at auto, or columns out"
        )


def detect(rows: Iterable[Cells]) -> str:
    """Return the format of most ``rows``; any format if there are no rows.

    Raises:
        DataError: no format is known, or the user must choose what to learn; shows columns and values.
    """
    rows = list(rows)
    if rows and all(
        isinstance(row.get("label"), bool) and has_keys(row, "prompt_completion") for row in rows
    ):
        raise DataError(
            "prompt, completion and a label of true or false are judged completions, which this "
            "pipeline does not train as such: keep those labelled true, or set format: prompt_completion to "
            "train on all of them"
        )
    votes = {name: sum(has_keys(row, name) for row in rows) for name in FORMATS}
    best = max(votes, key=lambda name: votes[name])
    if best == "preference" and votes[best]:
        raise DataError(
            "chosen and rejected are preference pairs, which are not trained as pairs here: set format: "
            "preference to train only on the chosen answers"
        )
    if votes[best] and not (best == "text" and (others := _other_columns(rows))):
        return best
    if not rows:
        return "messages"
    if votes[best]:
        raise DataError(
            f"there is more than text ({', '.join(others)}): set format: text to train only on the text, or "
            f"say which column is the class:\n  columns: {{text: text, label: {others[0]}}}\n{shown(rows)}"
        )
    known = "; ".join(f"{name}: {needs(form.keys)}" for name, form in FORMATS.items())
    keys = ", ".join(sorted({str(key)[:40] for row in rows for key in row})[:20]) or "none"
    raise DataError(
        f"unknown format, the keys are {keys}: rename them to those of one format ({known}), or map "
        f"them:\n  columns: {mapping_for(rows)}\n{shown(rows)}"
    )


def has_keys(row: Cells, name: str) -> bool:
    """Tell whether a row has the columns that format ``name`` needs."""
    return all(any(key in row for key in group) for group in FORMATS[name].keys)


def needed(rows: Iterable[Cells], name: str) -> list[str]:
    """Return the columns by which ``rows`` are of format ``name``, as named in the first such row."""
    row: Cells = next((row for row in rows if has_keys(row, name)), {})
    return [first(row, group) or group[0] for group in FORMATS[name].keys]


def convert(row: Cells, name: str, position: int, changes: Counter[str] | None = None) -> Example:
    """Convert ``row`` of format ``name`` to an Example; the id is the row's, or of content and ``position``.

    ``changes`` counts repairs and unused parts of rows.

    Raises:
        DataError: the row cannot be converted; the message is the reason.
    """
    changes = Counter() if changes is None else changes
    if not has_keys(row, name):
        raise DataError(f"not a row of format {name}: it needs {needs(FORMATS[name].keys)}")
    if held := next((key for key in NOT_TEXT if row.get(key)), ""):
        raise DataError(f"the row has {held}: only text is trained, drop the row, or map its text by columns")
    form = "text" if name == "text" else None
    if name == "messages" and row.get("form") in ("text", "passage"):  # our own Examples
        form = str(row["form"])
    taken = FORMATS[name].turns(row)
    checked = _plain(taken) if form else turns.conversation(taken, changes)
    answer = checked[-1].content
    skipped = first(row, LABELS) if name == "text_label" else ""
    sources = [key for key in SOURCES if key != skipped and isinstance(row.get(key), str)]
    labelled = name == "text_label" or _chosen(row, name) or bool(answer) and row.get("label") == answer
    if name == "text_label" and isinstance(row[skipped], str) and answer != str(row[skipped]).strip():
        changes["classes such as 1.0 or True, taken as 1 or true"] += 1
    several = name == "question_answer" and first(row, shapes.ANSWERS) == "answers"
    if several and (more := len(shapes.alternatives(row["answers"])[1:])):
        changes["answers other than the first, not used"] += more
    used = {"id", "form", *sources[:1], *(first(row, group) for group in FORMATS[name].keys)}
    used |= {next((k for k in group if row.get(k) not in EMPTY), "") for group in FORMATS[name].more}
    used -= {"rejected", "" if labelled else "label"}
    for key in sorted(row.keys() - used):  # sorted, as a set's order differs between processes
        if row[key] not in EMPTY:
            changes[f"column {key[:40]!r}, not used"] += 1
    return Example(
        id=_id(row, checked, position),
        messages=checked,
        form=form,  # type: ignore[arg-type]
        tools=turns.tools(row.get("tools") or row.get("functions")) if not form else (),
        label=answer if labelled else None,
        source=str(row[sources[0]]) if sources else None,
    )


def _chosen(row: Cells, name: str) -> bool:
    """Tell whether the answer is one of the row's choices."""
    return name == "multiple_choice" and row[first(row, choices.CHOICES)] not in EMPTY


def _other_columns(rows: list[Cells]) -> list[str]:
    """Return the columns next to ``text`` that could be its class."""
    return sorted({key for row in rows for key in row if key != "text" and key not in META})


def _plain(taken: RawTurns) -> tuple[Message, ...]:
    content = turns.text(taken[-1].get("content"), "text")
    if not content.strip():
        raise DataError("empty text: fill it, or drop the row")
    return (Message("assistant", content),)


def _id(row: Cells, checked: tuple[Message, ...], position: int) -> str:
    given = row.get("id")
    if isinstance(given, str | int) and not isinstance(given, bool) and str(given).strip():
        return str(given)
    return f"{hashlib.sha256(msgspec.json.encode(checked)).hexdigest()[:12]}-{position}"
