"""The shapes that training data comes in, one small function each: a row in, messages and label out."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple, cast, get_args

import msgspec

from components.core import strict
from components.core.errors import DataError
from components.core.examples import Example, Message

Row = Mapping[str, object]
Turns = list[tuple[object, object]]
"""(role, content), not yet checked."""

Role = Literal["system", "user", "assistant"]

LABELS = ("label", "category", "intent", "class")
"""Columns of a text table that may hold the class, the likeliest first."""
SOURCES = ("source", "intent", "category", "dataset")
"""Keys that say where a row comes from, the likeliest first."""


def messages(row: Row) -> Turns:
    """OpenAI style: ``{"messages": [{"role": "user", "content": "..."}, ...]}``."""
    turns: Turns = []
    for turn in _turns(row, "messages"):
        if turn.get("tool_calls") or turn.get("function_call") or turn.get("weight") not in (None, 1):
            raise DataError("a message has tool calls or a weight, which ingest cannot keep: drop such rows")
        turns.append((turn.get("role"), turn.get("content")))
    return turns


def sharegpt(row: Row) -> Turns:
    """``{"conversations": [{"from": "human", "value": "..."}, ...]}``, perhaps with ``system`` beside it."""
    turns: Turns = [("system", row["system"])] if row.get("system") else []
    for turn in _turns(row, "conversations"):
        speaker = turn.get("from")
        role = "user" if speaker == "human" else "assistant" if speaker == "gpt" else speaker
        turns.append((role, turn.get("value")))
    return turns


def alpaca(row: Row) -> Turns:
    """``{"instruction": "...", "input": "...", "output": "..."}``; an input stands below the instruction."""
    question = row["instruction"]
    if row.get("input") and isinstance(question, str):
        question = f"{question}\n\n{_text(row['input'], 'input')}"
    return [("user", question), ("assistant", row["output"])]


def prompt_completion(row: Row) -> Turns:
    """``{"prompt": "...", "completion": "..."}``."""
    return [("user", row["prompt"]), ("assistant", row["completion"])]


def question_answer(row: Row) -> Turns:
    """``{"question": "...", "answer": "..."}``, as in GSM8K."""
    return [("user", row["question"]), ("assistant", row["answer"])]


def text_label(row: Row) -> Turns:
    """A table of texts and their class: ``text`` and one of ``LABELS``; the class is the answer."""
    label = row[_label_column(row)]
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)  # class numbers, as Parquet files have them
    return [("user", row["text"]), ("assistant", label.strip() if isinstance(label, str) else label)]


class Format(NamedTuple):
    keys: tuple[str, ...]
    """What a row must have; ``LABELS`` too where the class is the answer."""
    turns: Callable[[Row], Turns]


FORMATS = {
    "messages": Format(("messages",), messages),
    "sharegpt": Format(("conversations",), sharegpt),
    "question_answer": Format(("question", "answer"), question_answer),
    "alpaca": Format(("instruction", "output"), alpaca),
    "prompt_completion": Format(("prompt", "completion"), prompt_completion),
    "text_label": Format(("text",), text_label),
}
"""In the order of detection: the more telling keys first."""


def choose(flag: str, rows: Iterable[Row]) -> str:
    """The format named by ``flag``, or the one of ``rows`` where it is ``auto``.

    Raises:
        ValueError: no such format.
    """
    if flag != "auto" and flag not in FORMATS:
        raise ValueError(
            strict.unknown_key("", flag, ["auto", *FORMATS]).replace("unknown key", "unknown format")
        )
    return detect(rows) if flag == "auto" else flag


def detect(rows: Iterable[Row]) -> str:
    """The format that most ``rows`` have; where there is no row, any will do.

    Raises:
        DataError: none has a known one.
    """
    rows = list(rows)
    votes = {name: sum(has_keys(row, name) for row in rows) for name in FORMATS}
    best = max(votes, key=lambda name: votes[name])
    if votes[best] or not rows:
        return best
    seen = ", ".join(sorted({str(key)[:40] for row in rows for key in row})[:20]) or "none"
    known = "; ".join(f"{name}: {_needs(name)}" for name in FORMATS)
    raise DataError(f"no known format, the keys are {seen}: rename them to those of one format ({known})")


def has_keys(row: Row, name: str) -> bool:
    return all(key in row for key in FORMATS[name].keys) and (
        name != "text_label" or bool(_label_column(row))
    )


def convert(row: Row, name: str, position: int) -> Example:
    """``row`` of format ``name`` as an Example; its id is the row's, else made of content and ``position``.

    Raises:
        DataError: the row is not such an Example; the message is the reason.
    """
    if not has_keys(row, name):
        raise DataError(f"not a row of format {name}: it needs {_needs(name)}")
    checked = conversation(FORMATS[name].turns(row))
    answer = checked[-1].content
    skipped = _label_column(row) if name == "text_label" else ""
    sources = [value for key in SOURCES if key != skipped and isinstance(value := row.get(key), str)]
    return Example(
        id=_id(row, checked, position),
        messages=checked,
        label=answer if name == "text_label" or row.get("label") == answer else None,
        source=sources[0] if sources else None,
    )


def conversation(turns: Turns) -> tuple[Message, ...]:
    """``turns`` as Messages: at most one system turn, then user and assistant in turn, the assistant last.

    Raises:
        DataError: they are not; the message is the reason.
    """
    roles = get_args(Role)
    checked = []
    for role, content in turns:
        if role not in roles:
            shown = repr(role[:40]) if isinstance(role, str) else f"of type {type(role).__name__}"
            raise DataError(f"role {shown} is none of {', '.join(roles)}: rename it")
        text = _text(content, f"{role} content")
        if not text.strip():
            raise DataError(f"empty {role} content: fill it, or drop the row")
        checked.append(Message(cast(Role, role), text))
    order = "".join(message.role[0] for message in checked)
    if "a" not in order:
        raise DataError("no assistant turn, so nothing to learn: add the answer")
    if order[-1] != "a":
        raise DataError("the last turn is not the assistant's: drop it, or add the answer")
    if not re.fullmatch("s?(ua)+", order):
        raise DataError(
            "turns do not alternate (a system turn first or none, then user, assistant, ...): mend them"
        )
    return tuple(checked)


def _turns(row: Row, key: str) -> list[Mapping[str, object]]:
    turns = row[key]
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise DataError(f"{key} is not a list of objects: make it one")
    return turns


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{what} is {type(value).__name__}, not text: make it a string")
    if "\0" in value:
        raise DataError("NUL in the text: remove it")
    return value


def _label_column(row: Row) -> str:
    return next((key for key in LABELS if key in row), "")


def _needs(name: str) -> str:
    return " and ".join(FORMATS[name].keys) + (
        f" and one of {'/'.join(LABELS)}" if name == "text_label" else ""
    )


def _id(row: Row, checked: tuple[Message, ...], position: int) -> str:
    given = row.get("id")
    if isinstance(given, str | int) and not isinstance(given, bool) and str(given).strip():
        return str(given)
    return f"{hashlib.sha256(msgspec.json.encode(checked)).hexdigest()[:12]}-{position}"
