"""The shapes that training data comes in, one small function each: a row in, messages and label out."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

import msgspec

from deepcuts.components.core import strict
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.ingest import turns
from deepcuts.components.ingest.columns import needs, shown
from deepcuts.components.ingest.rows import cell

Row = Mapping[str, object]
Turns = list[Mapping[str, Any]]
"""Not yet checked."""

LABELS = ("label_text", "label_name", "label", "category", "intent", "class")
"""Columns of a text table that may hold the class, the likeliest first."""
SOURCES = ("source", "intent", "category", "dataset")
"""Keys that say where a row comes from, the likeliest first."""
META = {
    *("id", "idx", "index", "uuid", "source", "dataset", "url", "timestamp", "date", "meta", "metadata"),
    *("title", "lang", "language", "language_score", "token_count", "file_path", "dump", "score", "license"),
}
"""Columns next to ``text`` that make it no table of classes."""
NOT_TEXT = ("images", "image", "videos", "video", "audios", "audio")
"""Columns of what cannot be trained here."""
ALWAYS = ("id", *SOURCES, "form", *NOT_TEXT)
"""Read in every format."""


def messages(row: Row) -> Turns:
    """OpenAI's ``{"messages": [{"role": "user", "content": "..."}, ...]}``, or ShareGPT's turns there."""
    return _system(row) + _turns(row, "messages")


def sharegpt(row: Row) -> Turns:
    """Read ``{"conversations": [{"from": "human", "value": "..."}, ...]}``, perhaps with ``system``."""
    return _system(row) + _turns(row, "conversations" if "conversations" in row else "conversation")


def alpaca(row: Row) -> Turns:
    """Read ``{"instruction", "input", "output"}``, Dolly's ``context`` and ``response``, system, history.

    An input or context stands below the instruction; ``history`` is a list of [question, answer].
    """
    question = row["instruction"]
    for below in ("input", "context"):
        if row.get(below) and isinstance(question, str):
            question = f"{question}\n\n{turns.text(row[below], below)}"
    return _system(row) + _history(row) + _pair(question, row[_first(row, ALPACA_ANSWERS)])


def prompt_completion(row: Row) -> Turns:
    """Read ``{"prompt": "...", "completion": "..."}`` or ``response``: texts, or TRL's lists of turns."""
    answer = row[_first(row, ("completion", "response"))]
    return _system(row) + _history(row) + _either(row["prompt"], "user") + _either(answer, "assistant")


def question_answer(row: Row) -> Turns:
    """``{"question": "...", "answer": "..."}``, as in GSM8K; a ``context`` stands below the question."""
    question, answer = row[_first(row, QUESTIONS)], row[_first(row, ANSWERS)]
    if row.get("context") and isinstance(question, str):
        question = f"{question}\n\n{turns.text(row['context'], 'context')}"
    return _system(row) + _history(row) + _pair(question, answer)


def text_label(row: Row) -> Turns:
    """Read a table of texts and their class: ``text`` and one of ``LABELS``; the class is the answer."""
    label = cell(row[_first(row, LABELS)])
    label = "" if isinstance(label, str) and label.strip().lower() == "nan" else label  # pandas' empty cell
    return _system(row) + _pair(row["text"], label.strip() if isinstance(label, str) else label)


def plain_text(row: Row) -> Turns:
    """Read ``{"text": "..."}``: every token of it is learned."""
    return [{"role": "assistant", "content": row["text"]}]


def preference(row: Row) -> Turns:
    """Read ``{"chosen": ..., "rejected": ...}``: the chosen answer, behind ``prompt`` if that is a column."""
    asked = _either(row["prompt"], "user") if row.get("prompt") else []
    answer = _either(row["chosen"], "assistant")
    whole = len(answer) > 1 and any(
        turns.ROLES.get(str(t.get("role", t.get("from")))) == "user" for t in answer
    )
    return _system(row) + (answer if whole else asked + answer)


class Format(NamedTuple):
    keys: tuple[tuple[str, ...], ...]
    """What a row must have: one of each group."""
    turns: Callable[[Row], Turns]
    more: tuple[str, ...] = ()
    """What else is used."""


QUESTIONS, ANSWERS = ("question", "query", "problem"), ("answer", "response", "solution")
ALPACA_ANSWERS = ("output", "response")
SYSTEM = ("system", "system_prompt")
TOOLS = ("tools", "functions")
FORMATS = {
    "preference": Format((("chosen",), ("rejected",)), preference, ("prompt", *SYSTEM, *TOOLS)),
    "messages": Format((("messages",),), messages, (*SYSTEM, *TOOLS, "label")),
    "sharegpt": Format((("conversations", "conversation"),), sharegpt, (*SYSTEM, *TOOLS, "label")),
    "question_answer": Format(
        (QUESTIONS, ANSWERS), question_answer, ("context", *SYSTEM, "history", "label")
    ),
    "alpaca": Format(
        (("instruction",), ALPACA_ANSWERS), alpaca, ("input", "context", *SYSTEM, "history", "label")
    ),
    "prompt_completion": Format(
        (("prompt",), ("completion", "response")), prompt_completion, (*SYSTEM, *TOOLS, "history", "label")
    ),
    "text_label": Format((("text",), LABELS), text_label, SYSTEM),
    "text": Format((("text",),), plain_text),
}
"""In the order of detection: the more telling keys first."""
COLUMNS = {*ALWAYS, *(key for form in FORMATS.values() for group in (*form.keys, form.more) for key in group)}
"""All columns that some format reads."""


def choose(flag: str, rows: Iterable[Row]) -> str:
    """Return the format named by ``flag``, or the one of ``rows`` where it is ``auto``.

    Raises:
        ValueError: no such format.
        DataError: ``auto``, and the rows do not say what to train on.
    """
    if flag == "auto":
        return detect(rows)
    if flag not in FORMATS:
        raise ValueError(
            strict.unknown_key("", flag, ["auto", *FORMATS]).replace("unknown key", "unknown format")
        )
    return flag


def detect(rows: Iterable[Row]) -> str:
    """Return the format that most ``rows`` have; where there is no row, any will do.

    Raises:
        DataError: none has a known one, or what to learn is the user's choice: columns and values are shown.
    """
    rows = list(rows)
    if rows and all(
        isinstance(row.get("label"), bool) and has_keys(row, "prompt_completion") for row in rows
    ):
        raise DataError(
            "prompt, completion and a label of true or false: completions that were judged, which this "
            "pipeline does not train as such: keep those labelled true, or set format: prompt_completion to "
            "train on all of them"
        )
    votes = {name: sum(has_keys(row, name) for row in rows) for name in FORMATS}
    best = max(votes, key=lambda name: votes[name])
    if best == "preference" and votes[best]:
        raise DataError(
            "chosen and rejected: preference pairs, which this pipeline does not train as pairs: set format: "
            "preference to train on the chosen answers alone"
        )
    if votes[best] and not (best == "text" and (others := _other_columns(rows))):
        return best
    if not rows:
        return "messages"
    if votes[best]:
        raise DataError(
            f"there is more than text ({', '.join(others)}): set format: text to train on the text alone, or "
            f"say which column is the class:\n  columns: {{text: text, label: {others[0]}}}\n{shown(rows)}"
        )
    known = "; ".join(f"{name}: {needs(form.keys)}" for name, form in FORMATS.items())
    keys = ", ".join(sorted({str(key)[:40] for row in rows for key in row})[:20]) or "none"
    raise DataError(
        f"no known format, the keys are {keys}: rename them to those of one format ({known}), or say which "
        f"is what:\n  columns: {{prompt: COLUMN, completion: COLUMN}}\n{shown(rows)}"
    )


def has_keys(row: Row, name: str) -> bool:
    """Return whether a row has what format ``name`` needs."""
    return all(any(key in row for key in group) for group in FORMATS[name].keys)


def needed(rows: Iterable[Row], name: str) -> list[str]:
    """Return the columns that make ``rows`` of format ``name``, as the first such row calls them."""
    row: Row = next((row for row in rows if has_keys(row, name)), {})
    return [_first(row, group) or group[0] for group in FORMATS[name].keys]


def convert(row: Row, name: str, position: int, changes: Counter[str] | None = None) -> Example:
    """Return ``row`` of format ``name`` as an Example; its id is the row's, else of content and ``position``.

    ``changes`` counts repairs and what of the row is not used.

    Raises:
        DataError: the row is not such an Example; the message is the reason.
    """
    changes = Counter() if changes is None else changes
    if not has_keys(row, name):
        raise DataError(f"not a row of format {name}: it needs {needs(FORMATS[name].keys)}")
    if held := next((key for key in NOT_TEXT if row.get(key)), ""):
        raise DataError(f"the row has {held}: only text is trained, drop the row, or map its text by columns")
    form = "text" if name == "text" else None
    if name == "messages" and row.get("form") in ("text", "passage"):  # Examples of our own
        form = str(row["form"])
    taken = FORMATS[name].turns(row)
    checked = _plain(taken) if form else turns.conversation(taken, changes)
    answer = checked[-1].content
    skipped = _first(row, LABELS) if name == "text_label" else ""
    sources = [key for key in SOURCES if key != skipped and isinstance(row.get(key), str)]
    labelled = name == "text_label" or bool(answer) and row.get("label") == answer
    used = {"id", "form", *sources[:1], *FORMATS[name].more}
    used |= {_first(row, group) for group in FORMATS[name].keys}
    used -= {"rejected", "" if labelled else "label"}
    for key in row.keys() - used:
        if row[key] not in (None, "", [], {}):
            changes[f"column {key[:40]!r}, not used"] += 1
    return Example(
        id=_id(row, checked, position),
        messages=checked,
        form=form,  # type: ignore[arg-type]
        tools=turns.tools(row.get("tools") or row.get("functions")) if not form else (),
        label=answer if labelled else None,
        source=str(row[sources[0]]) if sources else None,
    )


def _other_columns(rows: list[Row]) -> list[str]:
    """Columns next to ``text`` that may be meant as its class."""
    return sorted({key for row in rows for key in row if key != "text" and key not in META})


def _plain(taken: Turns) -> tuple[Message, ...]:
    content = turns.text(taken[-1].get("content"), "text")
    if not content.strip():
        raise DataError("empty text: fill it, or drop the row")
    return (Message("assistant", content),)


def _pair(question: object, answer: object) -> Turns:
    return [_said("user", question), _said("assistant", answer)]


def _said(role: str, value: object) -> Mapping[str, Any]:
    value = cell(value)
    return {"role": role, "content": "" if value is None else value}


def _either(value: object, role: str) -> Turns:
    """Return a text of ``role``, or a list of turns as it is."""
    if isinstance(value, list):
        return _mappings(value, "a list of turns")
    return [_said(role, value)]


def _system(row: Row) -> Turns:
    return [_said("system", row[key]) for key in SYSTEM if row.get(key)][:1]


def _history(row: Row) -> Turns:
    """Alpaca's earlier turns: ``[[question, answer], ...]``."""
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(p, list) and len(p) == 2 for p in history):
        raise DataError("history is not a list of [question, answer]: make it one")
    return [turn for question, answer in history for turn in _pair(question, answer)]


def _turns(row: Row, key: str) -> Turns:
    return _mappings(row[key], key)


def _mappings(value: object, key: str) -> Turns:
    if isinstance(value, str) and value.lstrip().startswith("["):  # a CSV or a flat table keeps turns as JSON
        value = turns.parsed(value, key)
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise DataError(f"{key} is not a list of objects: make it one")
    return cast(Turns, value)


def _first(row: Row, keys: Iterable[str]) -> str:
    """Return the first of ``keys`` that the row has; empty if none."""
    return next((key for key in keys if key in row), "")


def _id(row: Row, checked: tuple[Message, ...], position: int) -> str:
    given = row.get("id")
    if isinstance(given, str | int) and not isinstance(given, bool) and str(given).strip():
        return str(given)
    return f"{hashlib.sha256(msgspec.json.encode(checked)).hexdigest()[:12]}-{position}"
