"""Read multiple choice: a question, its choices and the right one."""

from collections.abc import Mapping
from string import ascii_uppercase

from deepcuts.components.core.errors import DataError
from deepcuts.components.ingest import shapes, turns
from deepcuts.components.ingest.rows import Cells, cell, class_name

CHOICES = ("choices", "options")
QUESTIONS = (*shapes.QUESTIONS, "question_stem")
RIGHT = ("answerkey", "answer_idx", "answer_index", "correct_option", "answer", "label")
"""Columns that give the right choice, most specific first; names are read in lower case."""
ABOVE = ("context", "article", "passage")


def multiple_choice(row: Cells) -> shapes.RawTurns:
    """Read ``{"question": "...", "choices": ["...", ...], "answer": 1}``; the answer is the choice's letter.

    Reads MMLU (a number from 0), ARC (``{"text": [...], "label": [...]}`` and ``answerKey``), RACE (a letter)
    and MedQA (``{"A": "...", ...}``). A row without choices is a question and an answer.

    Raises:
        DataError: there are fewer than two choices or more than letters, or the right one is not clear.
    """
    value = row[shapes.first(row, CHOICES)]
    if not value:
        if not (shapes.first(row, shapes.QUESTIONS) and shapes.first(row, shapes.ANSWERS)):
            raise DataError("no choices, and no answer without them: give choices, or drop the row")
        return shapes.question_answer(row)
    names, texts = _choices(shapes.unpacked(value, "choices") if isinstance(value, str) else value)
    right = _right(row[shapes.first(row, RIGHT)], names, texts)
    lettered = names and all(len(name) == 1 and name in ascii_uppercase for name in names)
    letters = names if lettered else list(ascii_uppercase)
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, texts, strict=False))
    above = [text for key in ABOVE if isinstance(text := row.get(key), str) and text.strip()]
    key = shapes.first(row, QUESTIONS)
    question = "" if row[key] is None else turns.text(cell(row[key]), key)
    if not question.strip():
        raise DataError(f"empty {key}: fill it, or drop the row")
    asked = "\n\n".join([*above, question, listed])
    return [
        *shapes.system(row),
        *shapes.history(row),
        {"role": "user", "content": asked},
        {"role": "assistant", "content": letters[right]},
    ]


def _choices(value: object) -> tuple[list[str], list[str]]:
    """Return the choices' names (empty if they have none) and their texts."""
    names: list[object] = []
    texts: object = value
    if isinstance(value, Mapping):
        named = isinstance(value.get("text"), list)
        texts = value["text"] if named else [*value.values()]
        names = list(value.get("label") or []) if named else [*value]
    elif isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        texts = [item.get("text") for item in value]
        names = [item["label"] for item in value if "label" in item]
    found = [str(cell(text)).strip() for text in texts] if isinstance(texts, list) else []
    if not 2 <= len(found) <= len(ascii_uppercase) or not all(found):
        raise DataError(f"{len(found)} choices: give 2 to {len(ascii_uppercase)}, each with its text")
    if names and len(names) != len(found):
        raise DataError(f"{len(found)} choices with {len(names)} labels: give each its own")
    return [str(cell(name)).strip() for name in names], found


def _right(value: object, names: list[str], texts: list[str]) -> int:
    """Return the position of the right choice: by its name, its text, its letter, or its number from 0."""
    said = str(class_name(value)).strip() if value is not None else ""
    count = len(texts)
    ways = {
        "label": (names, said),
        "text": (texts if isinstance(value, str) else [], said),
        "letter": ([] if names else list(ascii_uppercase[:count]), said.upper()),
        "number from 0": ([] if names else list(map(str, range(count))), said),
    }
    found = {way: known.index(wanted) for way, (known, wanted) in ways.items() if wanted in known}
    if "label" in found:
        return found["label"]
    if len(set(found.values())) > 1:
        raise DataError(
            f"the answer {said[:40]!r} is one choice by {' and another by '.join(found)}: give letters"
        )
    if not found:
        raise DataError(
            f"the answer {said[:40]!r} is none of {count} choices: give its letter, its text, or its number "
            f"from 0 to {count - 1}; to train on the answer as it is, set format: question_answer"
        )
    return next(iter(found.values()))
