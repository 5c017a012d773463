"""Tools, calls, results and reasoning: rendered by the model's own template, learned or masked, compared."""

import msgspec
import pytest

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example, Message, ToolCall
from deepcuts.components.training import tools
from deepcuts.components.training.render import load_tokenizer, render, render_prompt, turns_of
from tests.conftest import ROOT
from tests.training.test_render import CHATML, TOKENIZERS, UNMARKED, byte_tokenizer, learned

CALLING = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALL = ToolCall("add", {"a": 2, "b": [2.5, "x y"]})
SCHEMA = {"type": "function", "function": {"name": "add", "parameters": {}}}
CONVERSATION = Example(
    "x",
    (
        Message("user", "2+2?"),
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", "4 it is"),
        Message("assistant", "Four", reasoning_content="Easy."),
    ),
    tools=(SCHEMA,),
)
WRITTEN = '{"name": "add", "arguments": {"a": 2, "b": [2.5, "x y"]}}'


def test_calls_and_answers_are_learned_and_results_and_schemas_are_not():
    tokenizer = byte_tokenizer(CALLING)
    rendered = render(CONVERSATION, tokenizer)
    said = f"<tool_call>{WRITTEN}</tool_call><|im_end|><think>Easy.</think>Four<|im_end|>"
    assert learned(rendered, tokenizer) == said
    whole = tokenizer.decode(rendered.ids)
    assert "4 it is" in whole and '"parameters"' in whole
    prompt = render_prompt(CONVERSATION, tokenizer)
    assert rendered.ids[: len(prompt)] == prompt and '"parameters"' in tokenizer.decode(prompt)


def test_the_bundled_base_takes_tools_too():
    tokenizer = load_tokenizer(ROOT / "pipelines/examples/base")
    plain = msgspec.structs.replace(
        CONVERSATION, messages=(*CONVERSATION.messages[:3], Message("assistant", "4"))
    )
    assert learned(render(plain, tokenizer), tokenizer) == f"{WRITTEN}<|end|>4<|end|>"


@pytest.mark.parametrize("template", [CHATML, UNMARKED, CALLING], ids=["marked", "unmarked", "calling"])
def test_a_turn_of_weight_0_is_not_learned(template):
    said = (
        Message("user", "a"),
        Message("assistant", "b", weight=0),
        Message("user", "c"),
        Message("assistant", "d"),
    )
    tokenizer = byte_tokenizer(template)
    rendered = render(Example("x", said), tokenizer)
    assert learned(rendered, tokenizer) == "d<|im_end|>" and "b<|im_end|>" in tokenizer.decode(rendered.ids)
    greeting = Example("x", (said[1], *said[2:]))
    assert learned(render(greeting, tokenizer), tokenizer) == "d<|im_end|>"


FORGETTING = CALLING.replace("{% if m.reasoning_content %}", "{% if m.reasoning_content and loop.last %}")
"""As Qwen3: what was thought before an earlier answer is left out."""
THOUGHTFUL = msgspec.structs.replace(
    CONVERSATION,
    messages=(
        *CONVERSATION.messages[:3],
        Message("assistant", "Four", reasoning_content="Easy."),
        Message("user", "2+3?"),
        Message("assistant", "Five", reasoning_content="Hm."),
    ),
)


def test_a_conversation_whose_reasoning_is_forgotten_teaches_each_answer_once():
    tokenizer = byte_tokenizer(FORGETTING)
    turns = turns_of(THOUGHTFUL, render(THOUGHTFUL, tokenizer))
    ends = [learned(render(turn, tokenizer), tokenizer) for turn in turns]
    assert ends == [
        f"<tool_call>{WRITTEN}</tool_call><|im_end|>",
        "<think>Easy.</think>Four<|im_end|>",
        "<think>Hm.</think>Five<|im_end|>",
    ]
    assert all(turn.tools for turn in turns)


def test_calls_stand_behind_a_prompt_that_opens_the_reasoning_and_end_as_the_template_says():
    opening = CALLING.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    tokenizer = byte_tokenizer(opening)
    call = msgspec.structs.replace(CONVERSATION, messages=CONVERSATION.messages[:2])
    prompt = render_prompt(call, tokenizer)
    assert render(call, tokenizer).ids[: len(prompt)] == prompt
    assert (
        learned(render(call, tokenizer), tokenizer)
        == f"</think>\n\n<tool_call>{WRITTEN}</tool_call><|im_end|>"
    )
    thought = Message("assistant", "", reasoning_content="Add.", tool_calls=(CALL,))
    call = msgspec.structs.replace(call, messages=(call.messages[0], thought))
    said = learned(render(call, tokenizer), tokenizer)
    assert said == f"Add.\n</think>\n\n<tool_call>{WRITTEN}</tool_call><|im_end|>"
    unended = CALLING.replace("{% endfor %}<|im_end|>\n{% endfor %}", "{% endfor %}{% endfor %}")
    said = learned(
        render(msgspec.structs.replace(call, messages=CONVERSATION.messages[:2]), byte_tokenizer(unended)),
        byte_tokenizer(unended),
    )
    assert said == f"<tool_call>{WRITTEN}</tool_call><|im_start|>"


@pytest.mark.parametrize("place", ["reasoning", "arguments", "tools"])
def test_special_tokens_in_calls_reasoning_and_tools_make_the_row_bad_data(place):
    call = ToolCall("add", {"a": "<|im_end|>" if place == "arguments" else "b"})
    thought = "<|im_end|>" if place == "reasoning" else ""
    answer = Message("assistant", "", reasoning_content=thought, tool_calls=(call,))
    schema = SCHEMA | {"note": "<|im_end|>"} if place == "tools" else SCHEMA
    with pytest.raises(DataError, match="special token"):
        render(Example("x", (Message("user", "a"), answer), tools=(schema,)), byte_tokenizer(CALLING))


LACKING = {
    "tools": (CALLING.replace("{% if tools %}", "{% if false %}"), "does not show tools:"),
    "calls": (CALLING.replace("in m.tool_calls or []", "in []"), "does not show tool calls"),
    "results": (
        CALLING.replace("m.content }}", "m.content if m.role != 'tool' }}"),
        "leaves out tool results",
    ),
    "reasoning": (CALLING.replace("if m.reasoning_content", "if false"), "does not show reasoning_content"),
}


@pytest.mark.parametrize(("template", "reason"), LACKING.values(), ids=LACKING)
def test_a_template_without_a_place_makes_the_row_bad_data(template, reason):
    with pytest.raises(DataError, match=reason):
        render(CONVERSATION, byte_tokenizer(template))


def test_a_base_without_a_template_takes_no_tools():
    with pytest.raises(DataError, match="without a chat template cannot show tools"):
        render(CONVERSATION, TOKENIZERS[0])


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_plain_text_is_learned_whole_without_the_template_and_a_passage_does_not_end(tokenizer):
    text = Example("x", (Message("assistant", "Once <|im_end|>"),), form="text")
    rendered = render(text, tokenizer)
    assert rendered.ids[0] == tokenizer.bos_token_id and rendered.mask == [0] + [1] * (len(rendered.ids) - 1)
    assert rendered.ids.count(tokenizer.eos_token_id) == 1 and rendered.ids[-1] == tokenizer.eos_token_id
    passage = render(msgspec.structs.replace(text, form="passage"), tokenizer)
    assert passage.ids == rendered.ids[:-1] and render_prompt(text, tokenizer) == rendered.ids[:1]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (f"<tool_call>\n{WRITTEN}\n</tool_call>", True),
        ('{"arguments": {"b": [2.5, "x y"], "a": 2.0}, "name": "add"}', True),
        ('[{"name": "add", "parameters": {"a": 2, "b": [2.5, "x y"]}}]', True),
        ('[TOOL_CALLS]add[ARGS]{"a": 2, "b": [2.5, "x y"]}', True),
        ('{"name": "add", "arguments": "{\\"a\\": 2, \\"b\\": [2.5, \\"x y\\"]}"}', True),
        (WRITTEN.replace("2,", "3,", 1), False),
        (WRITTEN.replace("add", "sub"), False),
        (WRITTEN * 2, False),
        (WRITTEN[:-2], False),
        ("Four", False),
    ],
)
def test_calls_are_the_same_when_their_parsed_arguments_are(text, same):
    assert tools.same_calls(text, CONVERSATION.messages[1]) is same
