import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.ingest import formats
from deepcuts.components.ingest import turns as turning

ASKED = (Message("user", "2+2?"), Message("assistant", "4"))

ROWS = {
    "messages": {
        "messages": [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "4", "weight": 1, "tool_calls": []},
        ]
    },
    "sharegpt": {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
    "multiple_choice": {"question": "2+2?", "choices": ["3", "4"], "answer": "B"},
    "question_answer": {"question": "2+2?", "answer": "4"},
    "alpaca": {"instruction": "2+2?", "input": "", "output": "4"},
    "prompt_completion": {"prompt": "2+2?", "completion": "4"},
    "text_label": {"text": "2+2?", "category": " 4 "},
    "preference": {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
    "text": {"text": "2+2?"},
}
AUTO = ROWS.keys() - {"preference"}


@pytest.mark.parametrize("name", sorted(ROWS))
def test_format_is_detected_and_converted(name):
    if name in AUTO:
        assert formats.choose("auto", [ROWS[name]]) == name
    said = {
        "text": (Message("assistant", "2+2?"),),
        "multiple_choice": (Message("user", "2+2?\n\nA. 3\nB. 4"), Message("assistant", "B")),
    }
    assert formats.convert(ROWS[name], name, 0).messages == said.get(name, ASKED)


def test_every_format_has_a_row_here():
    assert set(ROWS) == set(formats.FORMATS)


def test_alpaca_input_stands_below_the_instruction():
    row = {"instruction": "Add.", "input": "2+2", "output": "4"}
    assert formats.convert(row, "alpaca", 0).messages[0].content == "Add.\n\n2+2"


def test_sharegpt_system_prompt_beside_the_conversation_comes_first():
    row = {"system": "Add.", **ROWS["sharegpt"]}
    assert formats.convert(row, "sharegpt", 0).messages == (Message("system", "Add."), *ASKED)


@pytest.mark.parametrize("column", ["label", "category", "intent", "class"])
def test_text_table_class_is_label_and_answer(column):
    example = formats.convert({"text": "Where is it?", column: "arrival"}, "text_label", 0)
    assert (example.label, example.messages[-1].content, example.source) == ("arrival", "arrival", None)


def test_text_table_class_number_becomes_text():
    assert formats.convert({"text": "Where is it?", "label": 7}, "text_label", 0).label == "7"


def test_own_examples_keep_their_label_and_source():
    example = Example(id="a", messages=ASKED, label="4", source="sums")
    assert formats.convert(msgspec.json.decode(msgspec.json.encode(example)), "messages", 0) == example


def test_label_that_is_not_the_answer_is_no_class():
    assert formats.convert(ROWS["question_answer"] | {"label": "easy"}, "question_answer", 0).label is None


def test_intent_beside_a_question_is_its_source():
    assert (
        formats.convert(ROWS["question_answer"] | {"intent": "sums"}, "question_answer", 0).source == "sums"
    )


def test_id_is_the_rows_own_or_made_of_content_and_position():
    row = ROWS["question_answer"]
    assert formats.convert(row | {"id": 17}, "question_answer", 0).id == "17"
    made = [formats.convert(row, "question_answer", position).id for position in (0, 1)]
    assert made[0] != made[1] and made[0][:12] == made[1][:12]
    assert formats.convert(row | {"answer": "5"}, "question_answer", 0).id[:12] != made[0][:12]


def test_format_unknown_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown format: did you mean 'sharegpt'") as caught:
        formats.choose("shargpt", [])
    assert not isinstance(caught.value, DataError)


def test_format_flag_beats_detection():
    both = ROWS["question_answer"] | ROWS["prompt_completion"]
    assert formats.choose("prompt_completion", [both]) == "prompt_completion"


def test_detection_is_not_fooled_by_a_stray_first_row():
    assert formats.detect([{"messages": []}, *[ROWS["alpaca"]] * 2]) == "alpaca"


def test_detection_without_a_known_format_names_the_keys_and_the_formats():
    with pytest.raises(DataError, match=r"frage.*rename.*question_answer: one of question/query/problem and"):
        formats.detect([{"frage": "2+2?", "antwort": "4"}])


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def call(name, arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


USER, ANSWER = ("user", "a"), ("assistant", "b")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (turns(USER, ("robot", "b")), "role 'robot' is not one of system, developer, user"),
        (turns(USER, (None, "b")), "role of type NoneType is not one of"),
        (turns(USER, ("assistant", " \n")), "empty assistant content"),
        (turns(("user", ""), ANSWER), "empty user content"),
        (turns(USER), "no assistant turn"),
        ([], "no assistant turn"),
        (turns(USER, ("assistant", [{"type": "image_url"}])), "a part of type 'image_url': only text"),
        (
            turns(USER, ("assistant", [{"type": "text", "text": 1}])),
            "a text part of assistant content is int",
        ),
        (turns(USER, ("assistant", None)), "empty assistant content"),
        (turns(USER, ("assistant", 4)), "assistant content is int, not text"),
        (turns(ANSWER, USER), "no answer to a question"),
        (turns(USER, ANSWER, ANSWER), "turns do not alternate"),
        (turns(USER, ("system", "s"), ANSWER), "turns do not alternate"),
        (turns(USER, ("tool", "t"), ANSWER), "turns do not alternate"),
        (turns(USER, ("assistant", "b\0")), "NUL"),
        ([*turns(USER), ANSWER[1]], "not a list of objects"),
        ("a b", "not a list of objects"),
        (
            [*turns(USER), {"role": "assistant", "content": "b", "weight": 0}],
            "every assistant turn is masked",
        ),
        ([*turns(USER), {"role": "assistant", "content": "b", "weight": 0.5}], "weight 0.5: a turn is"),
        (
            [*turns(USER), {"role": "assistant", "content": "b", "tool_calls": [{}]}],
            "a tool call has no name",
        ),
        (
            [*turns(USER), {"role": "assistant", "tool_calls": [call("f", "{")]}],
            "arguments of a tool call: not",
        ),
        ([*turns(USER), {"role": "assistant", "tool_calls": [call("f", "[]")]}], "are not a JSON object"),
    ],
)
def test_conversation_that_cannot_be_learned_says_why(said, reason):
    with pytest.raises(DataError, match=re.escape(reason)):
        formats.convert({"messages": said}, "messages", 0)


def test_row_of_another_format_says_what_it_needs():
    with pytest.raises(
        DataError, match="needs text and one of label_text/label_name/label/category/intent/class"
    ):
        formats.convert({"text": "a"}, "text_label", 0)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["id", "source", "system", "input", *sorted(formats.COLUMNS)])
said = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "system", "tool"]) | anything,
            "weight": st.sampled_from([0, 1]) | anything,
            "tool_calls": st.just([{"name": "f", "arguments": "{}"}]) | anything,
            "content": st.text(max_size=5) | anything,
            "from": st.sampled_from(["human", "gpt"]) | anything,
            "value": st.text(max_size=5) | anything,
        },
    ),
    max_size=4,
)


@given(row=st.dictionaries(keys, st.text(max_size=5) | said | anything), name=st.sampled_from(list(ROWS)))
def test_convert_gives_an_example_or_a_reason(row, name):
    try:
        example = formats.convert(row, name, 0)
    except DataError as error:
        assert str(error)
        return
    assert msgspec.json.decode(msgspec.json.encode(example), type=Example) == example
    assert example.messages[-1].learned
    if not example.form:
        assert turning.ORDER.fullmatch("".join(message.role[0] for message in example.messages))
    assert all(m.content.strip() or m.tool_calls for m in example.messages if m.role in ("user", "assistant"))
