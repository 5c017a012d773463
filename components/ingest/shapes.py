"""Read the turns of a row, one small function per format; turns are not checked yet."""

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from deepcuts.components.core.errors import DataError
from deepcuts.components.ingest import turns
from deepcuts.components.ingest.rows import Cells, cell, class_name

RawTurns = list[Mapping[str, Any]]
"""Turns that are not checked yet."""

LABELS = ("label_text", "label_name", "label", "category", "intent", "class")
"""Columns of a text table that may be the class, likeliest first."""
QUESTIONS, ANSWERS = ("question", "query", "problem"), ("answer", "response", "solution", "answers")
ALPACA_ANSWERS = ("output", "response", "answer")
PROMPTS = ("prompt", "input", "inputs")
COMPLETIONS = ("completion", "response", "answer", "output", "target", "targets")
ASKED = ("prompt", "instruction", *QUESTIONS, "input")
"""Columns with the question of a preference pair."""
SYSTEM = ("system", "system_prompt")
SPEAKER = re.compile(r"\n\n(Human|Assistant):")
"""Marks before each turn of a dialogue in one text, as in Anthropic's hh-rlhf."""


def messages(row: Cells) -> RawTurns:
    """Read OpenAI's ``{"messages": [{"role": "user", "content": "..."}, ...]}``, or ShareGPT turns there."""
    return system(row) + _mappings(row["messages"], "messages")


def sharegpt(row: Cells) -> RawTurns:
    """Read ``{"conversations": [{"from": "human", "value": "..."}, ...]}``, optionally with ``system``."""
    key = first(row, ("conversations", "conversation"))
    return system(row) + _mappings(row[key], key)


def alpaca(row: Cells) -> RawTurns:
    """Read ``{"instruction", "input", "output"}``, Dolly's ``context`` and ``response``, system, history.

    An input or context goes below the instruction; ``history`` is a list of [question, answer].
    """
    question = _with_below(row, "instruction", ("input", "context"))
    return system(row) + history(row) + _pair(question, row[first(row, ALPACA_ANSWERS)])


def prompt_completion(row: Cells) -> RawTurns:
    """Read ``{"prompt": "...", "completion": "..."}`` or ``response``: texts, or TRL's lists of turns."""
    asked, answer = row[first(row, PROMPTS)], row[first(row, COMPLETIONS)]
    return system(row) + history(row) + _either(asked, "user") + _either(answer, "assistant")


def question_answer(row: Cells) -> RawTurns:
    """Read ``{"question": "...", "answer": "..."}``, as in GSM8K; a ``context`` goes below the question."""
    question = _with_below(row, first(row, QUESTIONS), ("context",))
    key = first(row, ANSWERS)
    answer = alternatives(row["answers"])[:1] if key == "answers" else row[key]
    return system(row) + history(row) + _pair(question, answer)


def alternatives(value: object) -> list[object]:
    """Return alternative right answers: a list, or SQuAD's ``{"text": [...], ...}``."""
    value = value.get("text") if isinstance(value, Mapping) else value
    found: list[object] = []
    for item in value if isinstance(value, list) else [value]:
        answer = cell(item.get("text") if isinstance(item, Mapping) else item)
        if answer not in found:
            found.append(answer)
    return found


def text_label(row: Cells) -> RawTurns:
    """Read texts with classes: ``text`` and one of ``LABELS``; the class is the answer."""
    return system(row) + _pair(row["text"], class_name(row[first(row, LABELS)]))


def plain_text(row: Cells) -> RawTurns:
    """Read ``{"text": "..."}``: every token of it is learned."""
    return [{"role": "assistant", "content": row["text"]}]


def preference(row: Cells) -> RawTurns:
    """Read ``{"chosen": ..., "rejected": ...}``: the chosen answer, after the question in ``ASKED``."""
    key = first(row, ASKED)
    asked = _either(_with_below(row, key, ("input",)), "user") if key and row[key] else []
    answer = _either(row["chosen"], "assistant")
    whole = len(answer) > 1 and any(
        turns.ROLES.get(str(t.get("role", t.get("from")))) == "user" for t in answer
    )
    return system(row) + (answer if whole else asked + answer)


def first(row: Cells, keys: Iterable[str]) -> str:
    """Return the first of ``keys`` that the row has; empty if none."""
    return next((key for key in keys if key in row), "")


def _with_below(row: Cells, key: str, below: Sequence[str]) -> object:
    """Return the question under ``key``, with the texts under ``below`` appended if both are texts."""
    question = row[key]
    if not isinstance(question, str):
        return question
    cells = {name: cell(row.get(name)) for name in below if name != key}
    texts = [question, *(turns.text(value, name) for name, value in cells.items() if value not in (None, ""))]
    return "\n\n".join(text for text in texts if text.strip())


def _pair(question: object, answer: object) -> RawTurns:
    return [_said("user", question), _said("assistant", answer)]


def _said(role: str, value: object) -> Mapping[str, Any]:
    value = cell(value)
    return {"role": role, "content": "" if value is None else value}


def _either(value: object, role: str) -> RawTurns:
    """Return a text as a turn of ``role``; a turn, a list or a dialogue of turns as they are."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return [_said(role, value)]  # a list of one text is a text; of several, it is refused later
    if isinstance(value, list | Mapping):
        return _mappings(value, "a list of turns")
    if isinstance(value, str) and value.startswith("\n\nHuman:"):
        _, *spoken = SPEAKER.split(value)
        return [
            {"role": speaker.lower(), "content": said.strip()}
            for speaker, said in zip(spoken[::2], spoken[1::2], strict=True)
        ]
    return [_said(role, value)]


def system(row: Cells) -> RawTurns:
    """Return the system turn in a column of the row, if any."""
    return [_said("system", row[key]) for key in SYSTEM if row.get(key)][:1]


def history(row: Cells) -> RawTurns:
    """Read Alpaca's earlier turns: ``[[question, answer], ...]``, or turns with roles."""
    earlier = row.get("history") or []
    earlier = unpacked(earlier, "history") if isinstance(earlier, str) else earlier
    if not isinstance(earlier, list):
        raise DataError("history is not a list of [question, answer]: make it one")
    if all(isinstance(turn, Mapping) for turn in earlier):
        return cast(RawTurns, earlier)
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in earlier):
        raise DataError("history is not a list of [question, answer]: make it one")
    return [turn for question, answer in earlier for turn in _pair(question, answer)]


def _mappings(value: object, key: str) -> RawTurns:
    """Return turns given as a list, as text, by columns (``{"role": [...], ...}``), or as one turn."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):  # flat tables have turns as text
        value = unpacked(value, key)
    if isinstance(value, Mapping):
        columns = [column for column in value.values() if isinstance(column, list)]
        if len(columns) == len(value) and len(set(map(len, columns))) == 1:
            value = [dict(zip(value, turn, strict=True)) for turn in zip(*columns, strict=True)]
        else:
            value = [value]
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise DataError(f"{key} is not a list of objects: make it one")
    return cast(RawTurns, value)


def unpacked(text: str, key: str) -> object:
    """Parse text as JSON, or as Python, the form in which pandas writes lists to CSV.

    Raises:
        DataError: the text is neither.
    """
    try:
        return turns.parsed(text, key)
    except DataError:
        try:
            return json.loads(json.dumps(ast.literal_eval(text.strip())))  # refuses sets and bytes
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            pass
        raise
