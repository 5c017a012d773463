"""Multiple choice as people publish it: the letter of the right choice is the answer, or the row is bad."""

from collections import Counter

import pytest

from deepcuts.components.core.errors import DataError
from deepcuts.components.ingest import formats

LISTED = "Capital of France?\n\nA. Rome\nB. Paris\nC. Bern"
ASKED = {"question": "Capital of France?"}
TEXTS = ["Rome", "Paris", "Bern"]
LETTERS = {"A": "Rome", "B": "Paris", "C": "Bern"}


@pytest.mark.parametrize(
    "row",
    [
        ASKED | {"choices": TEXTS, "answer": 1},  # MMLU
        ASKED | {"options": TEXTS, "answer": "B", "answer_index": 1},  # MMLU-Pro
        ASKED | {"options": TEXTS, "answer": "b"},
        ASKED | {"options": TEXTS, "answer": "Paris"},
        ASKED | {"choices": {"text": TEXTS, "label": ["A", "B", "C"]}, "answerkey": "B"},  # ARC
        ASKED | {"choices": {"text": TEXTS, "label": ["1", "2", "3"]}, "answerkey": "2"},  # ARC, other papers
        {
            "question_stem": "Capital of France?",
            "choices": {"text": TEXTS, "label": [*"ABC"]},
            "answerkey": "B",
        },
        ASKED | {"choices": [{"label": n, "text": t} for n, t in LETTERS.items()], "answerkey": "B"},
        ASKED | {"options": LETTERS, "answer_idx": "B", "answer": "Paris"},  # MedQA
        ASKED | {"options": LETTERS, "answer": "Paris"},
        ASKED | {"choices": str(TEXTS), "answer": "1"},  # as pandas writes a list into CSV
        ASKED | {"choices": '["Rome", "Paris", "Bern"]', "answer": "1.0"},
    ],
)
def test_the_right_choice_is_found_and_its_letter_learned(row):
    assert formats.choose("auto", [row]) == "multiple_choice"
    example = formats.convert(row, "multiple_choice", 0)
    assert [message.content for message in example.messages] == [LISTED, "B"]
    assert example.label == "B"


def test_a_passage_and_a_system_turn_stand_above_the_question():
    row = ASKED | {"article": "France is a country.", "system": "Be brief.", "options": TEXTS, "answer": "B"}
    changes: Counter[str] = Counter()
    said = formats.convert(row, "multiple_choice", 0, changes).messages
    assert [message.content for message in said] == ["Be brief.", f"France is a country.\n\n{LISTED}", "B"]
    assert not changes


def test_a_row_without_choices_is_a_question_with_its_answer():
    example = formats.convert(ASKED | {"choices": None, "answer": "Paris"}, "multiple_choice", 0)
    assert [message.content for message in example.messages] == ["Capital of France?", "Paris"]
    assert example.label is None


@pytest.mark.parametrize(
    ("choices", "answer", "problem"),
    [
        (TEXTS, 3, r"'3' is none of 3 choices.*its number from 0 to 2"),  # counted from 1
        (TEXTS, "Madrid", r"'Madrid' is none of 3 choices.*format: question_answer"),
        (TEXTS, None, "'' is none of 3 choices"),
        (["1", "2", "3"], "1", "one choice by text and another by number from 0"),
        (["Rome"], 0, "1 choices: give 2 to 26"),
        (["Rome", ""], 0, "2 choices: give 2 to 26, each with its text"),
        (7, 0, "0 choices"),
        ({"text": TEXTS, "label": ["A"]}, "A", "3 choices with 1 labels"),
    ],
)
def test_a_choice_that_cannot_be_told_is_a_bad_row(choices, answer, problem):
    with pytest.raises(DataError, match=problem):
        formats.convert(ASKED | {"choices": choices, "answer": answer}, "multiple_choice", 0)


def test_a_number_that_is_no_text_counts_from_0_even_among_numbers():
    row = ASKED | {"choices": ["2", "1", "0"], "answer": 0}
    assert formats.convert(row, "multiple_choice", 0).messages[-1].content == "A"


@pytest.mark.parametrize(
    "row",
    [
        ASKED | {"choices": None, "answerkey": "B"},
        {"question_stem": ASKED["question"], "choices": [], "answer": "Paris"},
    ],
)
def test_a_row_without_choices_and_without_an_answer_of_its_own_is_a_bad_row(row):
    with pytest.raises(DataError, match="no choices, and no answer without them"):
        formats.convert(row, "multiple_choice", 0)


@pytest.mark.parametrize("question", [None, " "])
def test_choices_without_a_question_are_a_bad_row(question):
    with pytest.raises(DataError, match="empty question"):
        formats.convert({"question": question, "choices": TEXTS, "answer": 0}, "multiple_choice", 0)
