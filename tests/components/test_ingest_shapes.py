"""Shapes of rows: what is said in them, turn by turn, and what was repaired or left out, with counts."""

import json
from collections import Counter

import pytest

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example, Message, ToolCall
from deepcuts.components.ingest import columns, formats, splits
from deepcuts.components.ingest.masks import LEARNED, MASKED

ASKED = (Message("user", "2+2?"), Message("assistant", "4"))
USER, ANSWER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
SYSTEM = Message("system", "Add.")


def converted(row: dict[str, object], form: str = "auto") -> tuple[Example, Counter[str]]:
    changes: Counter[str] = Counter()
    return formats.convert(row, formats.choose(form, [row]), 0, changes), changes


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [USER, ANSWER]},
        {"messages": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        {"conversation": [{"role": "human", "content": "2+2?"}, {"role": "model", "content": "4"}]},
        {"messages": [{"role": "User", "content": "2+2?"}, {"role": "chatgpt", "content": "4"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]},
                ANSWER,
            ]
        },
        {"prompt": [USER], "completion": [ANSWER]},
        {"prompt": "2+2?", "completion": [ANSWER]},
        {"prompt": "2+2?", "response": "4"},
        {"query": "2+2?", "response": "4"},
        {"problem": "2+2?", "solution": 4},
        {"instruction": "2+2?", "context": "", "response": "4", "category": "sums"},
        {"instruction": "2+2?", "input": "", "output": "4", "history": [], "system": ""},
    ],
)
def test_shape_is_the_same_conversation(row):
    example, _ = converted(row)
    assert example.messages == ASKED


@pytest.mark.parametrize("role", ["system", "developer"])
def test_system_turns_of_all_kinds_come_first(role):
    turns = [{"role": role, "content": "Add."}, USER, ANSWER]
    rows = [{"messages": turns}, {"system": "Add.", "prompt": "2+2?", "completion": "4"}]
    rows += [{"system_prompt": "Add.", "question": "2+2?", "response": "4"}]
    rows += [{"instruction": "2+2?", "input": "", "output": "4", "system": "Add."}]
    assert [converted(row)[0].messages for row in rows] == [(SYSTEM, *ASKED)] * 4


def test_alpaca_history_and_dollys_context_are_said():
    row = {"instruction": "And", "context": "3+3?", "response": "6", "history": [["2+2?", "4"]]}
    said = (*ASKED, Message("user", "And\n\n3+3?"), Message("assistant", "6"))
    assert converted(row)[0].messages == said


REPAIRS = {
    "user turns in a row, joined": ([USER, USER, ANSWER], "ua"),
    "empty system turns, dropped": ([{"role": "system", "content": " "}, USER, ANSWER], "ua"),
    "turns after the last learned answer, cut off": ([USER, ANSWER, USER], "ua"),
    "assistant turns before the first question, kept as context": ([ANSWER, USER, ANSWER], "aua"),
    "turn key 'mood', not used": ([USER | {"mood": "good"}, ANSWER], "ua"),
}


@pytest.mark.parametrize("what", REPAIRS)
def test_turns_are_repaired_and_counted(what):
    turns, order = REPAIRS[what]
    example, changes = converted({"messages": turns})
    assert "".join(m.role[0] for m in example.messages) == order and changes == {what: 1}
    assert [m.weight for m in example.messages if m.role == "assistant"] == (
        [0, 1] if order == "aua" else [1]
    )


def test_user_turns_are_joined_with_a_blank_line():
    assert converted({"messages": [USER, USER, ANSWER]})[0].messages[0].content == "2+2?\n\n2+2?"


def test_columns_that_are_not_used_are_counted_and_empty_ones_are_not():
    row = {"question": "a", "answer": "b", "url": "http://x", "note": "", "id": 1, "source": "s"}
    assert converted(row)[1] == {"column 'url', not used": 1}


CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}
CALL_JSON = '{"name": "add", "arguments": {"a": 2, "b": 2}}'
SCHEMA = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def test_tools_calls_results_and_reasoning_are_kept():
    answer = ANSWER | {"reasoning_content": "Easy."}
    result = {"role": "tool", "tool_call_id": "1", "name": "add", "content": "4"}
    turns = [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, result, answer]
    example, changes = converted({"messages": turns, "tools": [SCHEMA]})
    call = ToolCall("add", {"a": 2, "b": 2}, "1")
    assert example.messages == (
        ASKED[0],
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "4", tool_call_id="1", name="add"),
        Message("assistant", "4", reasoning_content="Easy."),
    )
    assert example.tools == (SCHEMA,) and not changes


@pytest.mark.parametrize(
    "turns",
    [
        [USER, {"role": "assistant", "content": "", "function_call": CALL["function"]}],
        [USER, {"role": "assistant", "tool_calls": [{"name": "add", "arguments": {"a": 2, "b": 2}}]}],
        [
            {"from": "human", "value": "2+2?"},
            {"from": "function_call", "value": CALL_JSON},
        ],
    ],
)
def test_calls_in_older_forms_are_the_same_call(turns):
    example, _ = converted({"messages": turns, "tools": "[]"})
    (call,) = example.messages[-1].tool_calls
    assert (call.name, call.arguments) == ("add", {"a": 2, "b": 2})


def test_tools_in_the_older_form_are_wrapped():
    example, _ = converted({"messages": [USER, ANSWER], "functions": [SCHEMA["function"]]})
    assert example.tools == (SCHEMA,)


MASKS = [
    *({key: 0} for key in LEARNED),
    *({key: False} for key in LEARNED),
    *({key: 1} for key in MASKED),
    *({"loss": value} for value in ("false", "False", "0", 0.0, "no")),
    {"masked": "true", "weight": 0},
]


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_a_turn_that_says_it_is_not_learned_is_masked_and_counted(mask):
    example, changes = converted({"messages": [USER, ANSWER | mask, USER, ANSWER | {"loss": True}]})
    assert [message.learned for message in example.messages] == [False, False, False, True]
    assert changes == {
        f"assistant turns masked by {next(k for k in (*LEARNED, *MASKED) if k in mask)}, context only": 1
    }


@pytest.mark.parametrize(
    "mark", [{"weight": 1}, {"train": True}, {"masked": False}, {"loss": None}, {"loss": ""}]
)
def test_a_turn_that_says_it_is_learned_or_nothing_is_learned(mark):
    example, changes = converted({"messages": [USER, ANSWER | mark]})
    assert example.messages[-1].learned and not changes


def test_a_masked_call_is_masked_and_a_question_is_never_learned():
    call = {"from": "function_call", "value": CALL_JSON, "train": False}
    result = {"from": "tool", "value": "4"}
    asked = {"from": "human", "value": "2+2?", "train": True}
    example, changes = converted({"conversations": [asked, call, result, {"from": "gpt", "value": "4"}]})
    assert [message.learned for message in example.messages] == [False, False, False, True]
    assert changes == {
        "user turns marked to be learned, not learned": 1,
        "assistant turns masked by train, context only": 1,
    }


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        ({"loss": 0.34}, "loss 0.34: a turn is learned"),
        ({"train": "all"}, "train all: a turn is learned"),
        ({"mask": 1}, "turn key 'mask': 1 masks the turn in some tools"),
        ({"train_detail": [{"begin_offset": 0}]}, "parts of a turn cannot be masked"),
        ({"weight": 1, "loss": False}, "weight 1, loss False contradict each other"),
        ({"masked": True, "train": True}, "contradict each other"),
    ],
)
def test_marks_that_do_not_say_which_are_refused(mark, reason):
    with pytest.raises(DataError, match=reason):
        converted({"messages": [USER, ANSWER | mark]})


def test_plain_text_is_learned_whole_and_text_with_a_stranger_is_asked_about():
    example, _ = converted({"text": "Once upon a time.", "url": "x", "id": "a"})
    assert example.form == "text" and example.messages == (Message("assistant", "Once upon a time."),)
    with pytest.raises(DataError, match=r"(?s)more than text \(team\).*format: text.*label: team.*team: IT"):
        formats.detect([{"text": "Broken.", "team": "IT"}])


def test_preference_pairs_are_refused_with_advice_and_the_chosen_answer_is_taken_where_asked():
    rows = [
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]},
        {"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]},
        {"prompt": "2+2?", "chosen": [USER, ANSWER], "rejected": [USER, ANSWER]},
    ]
    for row in rows:
        with pytest.raises(DataError, match="set format: preference to train only on the chosen answers"):
            formats.detect([row])
        example, changes = converted(row, "preference")
        assert example.messages == ASKED and changes == {"column 'rejected', not used": 1}


@pytest.mark.parametrize(
    ("mapping", "form", "said"),
    [
        ({"prompt": "Q_Text", "completion": "gold"}, "prompt_completion", ("hi", "there")),
        ({"prompt": "q_text", "label": "team"}, "text_label", ("hi", "IT")),
        ({"text": "q_text", "label": "team"}, "text_label", ("hi", "IT")),
    ],
)
def test_any_table_is_mapped_by_name(mapping, form, said):
    row = {"q_text": "hi", "gold": "there", "team": "IT", "label": "x"}
    columns.check(mapping)
    assert columns.format_of(mapping) == form
    example = formats.convert(columns.renamed(row, mapping), form, 0)
    assert tuple(message.content for message in example.messages) == said
    assert example.label == (said[1] if form == "text_label" else None)


def test_mapping_with_prompt_completion_label_and_system_uses_all_of_them():
    mapping = {"prompt": "question_text", "completion": "gold", "label": "team", "system": "rules"}
    row = {"question_text": "2+2?", "gold": "4", "team": "sums", "rules": "Add.", "extra": "x"}
    changes: Counter[str] = Counter()
    example = formats.convert(columns.renamed(row, mapping), columns.format_of(mapping), 0, changes)
    assert example.messages == (SYSTEM, *ASKED) and example.source == "sums"
    assert changes == {"column 'extra (not mapped)', not used": 1}


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ({"promt": "a"}, "did you mean 'prompt'"),
        ({"prompt": "a"}, "nothing to learn"),
        ({"prompt": "", "completion": "b"}, "is not a column name"),
        ({"prompt": "a", "completion": "A "}, "columns.completion: 'A ' is prompt already"),
        ({"text": "a", "completion": "b"}, "columns.completion: not read with text.*write prompt for text"),
        ({"text": "a", "system": "b"}, "columns.system: not read with text"),
        ({"prompt": "a", "completion": "b", "label": "c", "source": "d"}, "columns.label: not read"),
    ],
)
def test_mapping_that_cannot_work_is_a_configuration_error(mapping, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        columns.check(mapping)
    assert not isinstance(caught.value, DataError)


def test_mapped_column_that_is_missing_is_named():
    with pytest.raises(DataError, match="no column 'gold', the row has a, b"):
        columns.renamed({"a": 1, "b": 2}, {"prompt": "a", "completion": "gold"})


def test_content_key_is_blind_to_unicode_forms_and_invisible_characters():
    def key(text: str) -> bytes:
        return splits.content_key(Example("x", (Message("user", text), Message("assistant", "yes"))))

    same = ["Café ﬁn", "Cafe\u0301 fin", "CAF\u00c9\u200b \u00adfin", "\ufeffcaf\u00e9\u00a0f\u200din"]
    assert len({key(text) for text in same}) == 1
    assert key("I \u2764\ufe0f it") == key("i \u2764 it")  # a variation selector
    assert key("cafe\u200d\u0301") == key("café") and key("\u3164ΐ") == key("\u0390")
    assert key("Cafe fin") != key("Café fin") and key("3.5") != key("35")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "a", "answer": "b", "image": {"path": "x.png"}}, "the row has image: only text"),
        ({"messages": [{"speaker": "user", "text": "a"}]}, "its keys are speaker, text"),
        ({"text": "a", "label": "NaN"}, "empty assistant content"),
        ({"messages": '[{"role": "us'}, "messages: not JSON"),
    ],
)
def test_what_cannot_be_trained_is_named(row, reason):
    form = formats.detect([row])
    with pytest.raises(DataError, match=reason):
        formats.convert(row, form, 0)


def test_turns_kept_as_json_text_and_results_that_are_objects_are_read():
    turns = [
        {"role": "system", "content": None},
        {"role": "user", "content": "w?"},
        {"role": "tool_call", "content": {"name": "get", "arguments": {"c": 1}}},
        {"role": "tool", "content": {"t": 1}},
        {"role": "assistant", "content": "Sunny"},
    ]
    changes = Counter()
    example = formats.convert({"messages": json.dumps(turns)}, "messages", 0, changes)
    assert [m.content for m in example.messages] == ["w?", "", '{"t": 1}', "Sunny"]
    assert example.messages[1].tool_calls[0].name == "get" and changes == {"empty system turns, dropped": 1}


def test_judged_completions_are_refused_with_advice():
    rows = [{"prompt": "p", "completion": "c", "label": judged} for judged in (True, False)]
    with pytest.raises(DataError, match="keep those labelled true, or set format: prompt_completion"):
        formats.detect(rows)


def test_context_of_a_question_is_said_and_a_label_or_second_source_that_is_not_used_is_counted():
    row = {"question": "q", "context": "long", "answer": "a", "label": "hard", "source": "x", "dataset": "y"}
    changes = Counter()
    example = formats.convert(row, "question_answer", 0, changes)
    assert example.messages[0].content == "q\n\nlong" and example.source == "x"
    assert changes == {"column 'label', not used": 1, "column 'dataset', not used": 1}


@pytest.mark.parametrize(
    "row",
    [
        {"input": "2+2?", "output": "4"},
        {"prompt": "2+2?", "answer": 4},
        {"prompt": [USER], "completion": ANSWER},
        {"instruction": "", "input": "2+2?", "output": "4"},
        {"messages": {"role": ["user", "assistant"], "content": ["2+2?", "4"]}},
        {"messages": str([USER, ANSWER])},  # as pandas writes a list into CSV
        {"messages": [{"role": "user", "parts": [{"text": "2+2?"}]}, {"role": "model", "text": "4"}]},
        {"question": "2+2?", "answer": ["4"]},
        {"question": "2+2?", "answers": {"text": ["4", "4"], "answer_start": [1, 1]}},
        {"question": "2+2?", "answers": [{"text": "4"}]},
        {"prompt": "2+2?", "completion": ["4"]},
        {"conversation": [{"human": "2+2?", "assistant": "4"}]},
        {"conversation": [{"Assistant": "4", "Human": "2+2?"}]},  # as Parquet sorts them
        {"messages": [{"role": "user", "content": {"type": "text", "text": "2+2?"}}, ANSWER]},
    ],
)
def test_rarer_shape_is_the_same_conversation(row):
    assert converted(row) == (converted({"messages": [USER, ANSWER]})[0], {})


def test_history_may_be_turns_or_json():
    for history in ([USER, ANSWER], json.dumps([["2+2?", "4"]])):
        example, _ = converted({"instruction": "And 3+3?", "output": "6", "history": history})
        assert example.messages == (*ASKED, Message("user", "And 3+3?"), Message("assistant", "6"))


def test_preference_pairs_of_other_makers_give_the_chosen_answer():
    for asked in (
        {"instruction": "2+2?", "input": ""},
        {"question": "2+2?"},
        {"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4"},
    ):
        example, changes = converted({"chosen": "4", "rejected": "5"} | asked, "preference")
        assert example.messages == ASKED and changes == {"column 'rejected', not used": 1}


def test_thoughts_in_parts_are_reasoning_and_other_parts_say_how_to_write_them():
    parts = [{"type": "thinking", "thinking": "Easy."}, {"type": "text", "text": "4"}]
    example, _ = converted({"messages": [USER, {"role": "assistant", "content": parts}]})
    assert example.messages[-1] == Message("assistant", "4", reasoning_content="Easy.")
    for kind, fix in (("tool_use", "tool_calls"), ("tool_result", "role tool"), ("image_url", "only text")):
        with pytest.raises(DataError, match=f"part of type '{kind}': .*{fix}"):
            converted({"messages": [USER, {"role": "assistant", "content": [{"type": kind}]}]})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "a", "answer": ["b", "c"]}, "a list of 2 values: give one"),
        ({"messages": [{"role": "user", "txt": "a"}, ANSWER]}, "no content, its keys are role, txt"),
        ({"messages": "[{'role': {1, 2}}]"}, "messages: not JSON"),
    ],
)
def test_what_would_be_glued_or_guessed_is_named(row, reason):
    with pytest.raises(DataError, match=reason):
        converted(row)


def test_tools_are_used_in_every_shape():
    example, changes = converted({"instruction": "2+2?", "output": "4", "tools": [SCHEMA]})
    assert example.tools == (SCHEMA,) and not changes


def test_mapping_reaches_into_fields_and_is_checked_against_the_first_rows():
    row = {"translation": {"en": "2+2?", "De": "4"}, "id": "1"}
    mapping = {"prompt": "translation.en", "completion": "Translation.de"}
    assert columns.top(mapping) >= {"translation"}
    changes: Counter[str] = Counter()
    example = formats.convert(columns.renamed(row, mapping), "prompt_completion", 0, changes)
    assert example.messages == ASKED and changes == {"column 'id (not mapped)', not used": 1}
    columns.check_rows([{}, row], mapping)
    with pytest.raises(DataError, match=r"(?s)no column 'translation.fr'.*the data has.*translation: "):
        columns.check_rows([row], mapping | {"prompt": "translation.fr"})
    with pytest.raises(DataError, match=r"no column 'rules'"):  # nothing that is mapped is ignored
        columns.check_rows([{}, row], mapping | {"system": "rules"})


@pytest.mark.parametrize(
    ("row", "mapping"),
    [
        ({"id": 1, "user": "a", "assistant": "b"}, "{prompt: user, completion: assistant}"),
        ({"Review": "a", "sentiment": 1}, "{prompt: Review, label: sentiment}"),
        (
            {"review": "a", "sentiment": 1, "system": "x"},
            "{prompt: review, label: sentiment, system: system}",
        ),
        ({"zu": "a", "lang": "b"}, "{prompt: zu, completion: lang}"),
        ({"a": 1, "b": 2, "c": "x"}, "{prompt: COLUMN, completion: COLUMN}"),
        ({"contents": [{"role": "user", "parts": [{"text": "a"}]}], "n": 1}, "{messages: contents}"),
        ({"input": [USER], "ideal": "b"}, "{prompt: input, completion: ideal}"),
        ({"content": "a"}, "{text: content}"),
        (
            {"ctx": "c", "gold": "a", "question_text": "q", "team": "t"},
            "{prompt: question_text, completion: gold}",
        ),
        ({"id": 1, "body": "a", "queue": "b", "priority": 1}, "{prompt: body, label: queue}"),
        ({"n": 1, "body": {"model": "x", "messages": [USER]}}, "{messages: body.messages}"),
        ({"translation": {"en": "a", "fr": "b"}}, "{prompt: translation.en, completion: translation.fr}"),
    ],
)
def test_columns_of_unknown_names_get_a_mapping_to_write(row, mapping):
    assert columns.mapping_for([row]) == mapping


def test_format_that_the_mapping_does_not_fill_is_refused():
    formats.check_mapping("text_label", {"prompt": "a", "label": "b"})
    formats.check_mapping("preference", {"prompt": "a", "chosen": "b"})
    with pytest.raises(
        ValueError, match="format alpaca with columns prompt, completion: it needs instruction"
    ):
        formats.check_mapping("alpaca", {"prompt": "a", "completion": "b"})


def test_other_answers_are_counted_and_a_number_below_the_question_is_said():
    changes: Counter[str] = Counter()
    example = formats.convert(
        {"question": "q", "answers": ["a", "b", "a", "c"]}, "question_answer", 0, changes
    )
    assert example.messages[-1].content == "a" and changes == {"answers other than the first, not used": 2}
    changes.clear()
    example = formats.convert({"instruction": "Double", "input": 0, "output": 0}, "alpaca", 0, changes)
    assert [m.content for m in example.messages] == ["Double\n\n0", "0"] and not changes
