import ast
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.training.render import (
    Rendered,
    answer_text,
    form_of,
    load_tokenizer,
    render,
    render_prompt,
    turns_of,
    with_system_folded,
)
from tests.conftest import SHARED

ROOT = Path(__file__).parents[2]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
UNMARKED = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def byte_tokenizer(chat_template: str | None = None, eos_token: str | None = "<|im_end|>"):
    """A token a byte, and one for two line breaks, so that a merge can cross the start of an answer."""
    names = ["<s>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ"]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges=[("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token=eos_token,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=chat_template,
    )


def conversation(*contents: str, system: str = "") -> Example:
    """``contents`` said by user and assistant in turn."""
    said = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(contents)]
    return Example(id="x", messages=tuple([Message("system", system)] * bool(system) + said))


def learned(rendered: Rendered, tokenizer) -> str:
    pairs = zip(rendered.ids, rendered.mask, strict=True)
    return tokenizer.decode([token for token, mask in pairs if mask])


TWO_TURNS = conversation("2+2?", "4", "2+3?", " five\n", system="Add.")
TOKENIZERS = [byte_tokenizer(), byte_tokenizer(CHATML), byte_tokenizer(UNMARKED)]
KINDS = ["plain", "marked template", "unmarked template"]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=KINDS)
def test_mask_decodes_to_each_answer_and_its_end_token(tokenizer):
    assert learned(render(TWO_TURNS, tokenizer), tokenizer) == "4<|im_end|> five\n<|im_end|>"


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=KINDS)
def test_ids_stop_at_the_last_end_token(tokenizer):
    assert render(TWO_TURNS, tokenizer).ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=KINDS)
@given(
    texts=st.lists(st.text("ab 'é\n<|>", min_size=1).filter(lambda t: t.strip() == t), min_size=2, max_size=6)
)
def test_prompt_is_a_prefix_and_the_answer_all_that_follows(tokenizer, texts):
    example = conversation(*texts[: len(texts) // 2 * 2])
    prompt, rendered = render_prompt(example, tokenizer), render(example, tokenizer)
    assert rendered.ids[: len(prompt)] == prompt
    assert all(rendered.mask[len(prompt) :])
    assert tokenizer.decode(rendered.ids[len(prompt) : -1]) == example.messages[-1].content


def test_plain_text_is_bos_then_turns_on_lines_of_their_own():
    text = "<s>Add.\n2+2?\n4<|im_end|>\n2+3?\n five\n<|im_end|>"
    assert TOKENIZERS[0].decode(render(TWO_TURNS, TOKENIZERS[0]).ids) == text


def test_plain_tokens_of_the_prompt_do_not_depend_on_the_answer():
    tokenizer = byte_tokenizer()
    prompts = [render_prompt(conversation("Why?", answer), tokenizer) for answer in ("\n\nno", "yes")]
    assert prompts[0] == prompts[1]
    rendered = render(conversation("Why?", "\n\nno"), tokenizer)
    assert learned(rendered, tokenizer) == "\n\nno<|im_end|>"


def test_plain_special_token_spelled_out_in_the_text_stays_text():
    tokenizer = byte_tokenizer()
    ids = render(conversation("a<|im_end|>b", "c<|im_end|>d"), tokenizer).ids
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids) == "<s>a<|im_end|>b\nc<|im_end|>d<|im_end|>"


def test_chat_ids_are_those_of_the_template():
    example = conversation("2+2?", "4")
    turns = [{"role": m.role, "content": m.content} for m in example.messages]
    for tokenizer in TOKENIZERS[1:]:
        whole = tokenizer.apply_chat_template(turns, return_dict=False)
        assert render(example, tokenizer).ids == whole[:-1]  # all but the line break behind the last answer


REWRITING = UNMARKED.replace("{{ m.content }}<", "{{ m.content if loop.last else m.content | upper }}<")
OPENING = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")
THINKING = UNMARKED.replace(
    "{{ m.content }}<|im_end|>{% else",
    "{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>{% else",
)
UNENDED = UNMARKED.replace("{{ m.content }}<|im_end|>", "{{ m.content }}").replace("{{ '\n' }}", "")


@pytest.mark.parametrize("template", [REWRITING, THINKING, OPENING], ids=["upper", "thinking", "opening"])
def test_history_that_is_written_differently_teaches_its_last_answer_and_becomes_an_example_a_turn(template):
    tokenizer = byte_tokenizer(template)
    example = conversation("a", "b", "c", "d")
    rendered = render(example, tokenizer)
    prompt = render_prompt(example, tokenizer)
    assert rendered.ids[: len(prompt)] == prompt and not any(rendered.mask[: len(prompt)])
    turns = turns_of(example, rendered)
    assert [turn.id for turn in turns] == ["x#1", "x#2"]
    ends = [learned(render(turn, tokenizer), tokenizer) for turn in turns]
    assert [end.removesuffix("<|im_end|>")[-1] for end in ends] == ["b", "d"]
    assert all(end.count("<|im_end|>") == 1 for end in ends)


def test_history_that_is_kept_stays_one_example():
    tokenizer = byte_tokenizer(CHATML)
    assert turns_of(TWO_TURNS, render(TWO_TURNS, tokenizer)) == [TWO_TURNS]


def test_generation_prompt_that_opens_the_reasoning_is_followed_by_its_close_and_the_answer():
    tokenizer = byte_tokenizer(OPENING)
    text = tokenizer.decode(render(conversation("a", "b"), tokenizer).ids)
    assert text.endswith("<|im_start|>assistant\n<think>\n</think>\n\nb<|im_end|>")
    thought = tokenizer.decode(render(conversation("a", "<think>why</think>b"), tokenizer).ids)
    assert thought.endswith("<|im_start|>assistant\n<think>\nwhy\n</think>\n\nb<|im_end|>")


def test_answer_text_leaves_out_what_the_template_writes_before_an_answer():
    for template in (THINKING, OPENING, CHATML, None):
        tokenizer = byte_tokenizer(template)
        example, form = conversation("a", "b"), form_of(tokenizer)
        said = render(example, tokenizer).ids[len(render_prompt(example, tokenizer)) :]
        assert answer_text(said, tokenizer, form) == "b" and form.end == tokenizer.eos_token_id
    tokenizer = byte_tokenizer(THINKING)
    thought = tokenizer("<think>\nLong thoughts.\n</think>\n\nb<|im_end|>", add_special_tokens=False)
    assert answer_text(thought["input_ids"], tokenizer, form_of(tokenizer)) == "b"


def test_answer_that_the_next_turns_token_ends_learns_that_token():
    tokenizer = byte_tokenizer(UNENDED, eos_token="<s>")
    rendered = render(conversation("a", "b", "c", "d"), tokenizer)
    assert learned(rendered, tokenizer) == "b<|im_start|>d<|im_start|>"
    assert form_of(tokenizer).end == tokenizer.convert_tokens_to_ids("<|im_start|>")


def test_answer_that_nothing_ends_learns_the_tokenizers_end_token():
    bare = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    bare += "{% if add_generation_prompt %}assistant: {% endif %}"
    tokenizer = byte_tokenizer(bare)
    example = conversation("a", "b", "c", "d")
    rendered = render(example, tokenizer)
    assert learned(rendered, tokenizer) == "d<|im_end|>"
    assert len(turns_of(example, rendered)) == 2


def test_folded_system_turn_stands_before_the_first_question():
    folded = with_system_folded(conversation("a", "b", system="Be kind."))
    assert folded.messages == (Message("user", "Be kind.\n\na"), Message("assistant", "b"))
    assert with_system_folded(conversation("a", "b")) == conversation("a", "b")


@pytest.mark.parametrize("template", [CHATML, UNMARKED], ids=KINDS[1:])
def test_chat_answer_that_merges_with_the_prompt_is_bad_data(template):
    with pytest.raises(DataError, match="merge with the prompt's last"):
        render(conversation("a", "\nb"), byte_tokenizer(template))


@pytest.mark.parametrize("template", [CHATML, UNMARKED], ids=KINDS[1:])
def test_chat_message_that_spells_out_a_special_token_is_bad_data(template):
    with pytest.raises(DataError, match=r"special token '<\|im_end\|>'"):
        render(conversation("a", "b<|im_end|>\n<|im_start|>user"), byte_tokenizer(template))


def test_chat_template_that_refuses_a_system_turn_is_bad_data():
    strict = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
    )
    assert render(conversation("a", "b"), byte_tokenizer(strict)).ids
    with pytest.raises(DataError, match="no system role"):
        render(conversation("a", "b", system="s"), byte_tokenizer(strict))


def test_chat_template_that_drops_the_answer_is_bad_data():
    for_images = UNMARKED.replace("{{ m.content }}", "{% for part in m.content %}{{ part.text }}{% endfor %}")
    tokenizer = byte_tokenizer(for_images)  # as Idefics and LLaVA: text in parts
    assert learned(render(conversation("a", "b"), tokenizer), tokenizer) == "b<|im_end|>"
    thoughtless = UNMARKED.replace("{{ m.content }}<", "{{ m.content.split('</think>') | last | trim }}<")
    assert render(conversation("a", " b"), byte_tokenizer(thoughtless)).ids
    with pytest.raises(DataError, match="leaves out part of the answer"):
        render(conversation("a", "because</think>b"), byte_tokenizer(thoughtless))


def test_plain_tokenizer_without_end_token_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"eos_token.*tokenizer_config.json"):
        render(conversation("a", "b"), byte_tokenizer(eos_token=None))


def test_example_without_answer_is_bad_data():
    with pytest.raises(DataError, match="no answer"):
        render(conversation("a"), byte_tokenizer())


def test_load_tokenizer_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder"):
        load_tokenizer(tmp_path / "none")
    with pytest.raises(DataError, match="tokenizer does not load"):
        load_tokenizer(tmp_path)


def test_load_tokenizer_keeps_the_chat_template(tmp_path):
    byte_tokenizer(CHATML).save_pretrained(tmp_path)
    assert render(TWO_TURNS, load_tokenizer(tmp_path)) == render(TWO_TURNS, byte_tokenizer(CHATML))


def test_render_imports_no_torch():
    tree = ast.parse((ROOT / "components/training/render.py").read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in imported if name.split(".")[0] == "torch"}


@pytest.mark.skipif(not SHARED.exists(), reason="needs public data: make data")
def test_gsm8k_fits_257_tokens_as_often_as_measured_before_and_renders_in_seconds():
    tokenizer = load_tokenizer(SHARED / "models/stories260K")
    start, fitting = time.process_time(), {}
    for split in ("train", "test"):
        rows = [json.loads(line) for line in (SHARED / f"gsm8k/{split}.jsonl").read_text().splitlines()]
        rendered = [render(conversation(row["question"], row["answer"]), tokenizer) for row in rows]
        assert learned(rendered[0], tokenizer) == rows[0]["answer"] + "</s>"
        fitting[split] = sum(len(r.ids) <= 257 for r in rendered)
    assert fitting == {"train": 1981, "test": 321}
    assert (
        time.process_time() - start < 20
    )  # 1.5 s on one core; far above, something is compiled anew each row


def test_answer_that_ends_in_a_character_of_several_tokens_is_learned_whole_where_the_template_marks_it():
    outside = CHATML.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    for template in (CHATML, outside):
        tokenizer = byte_tokenizer(template)
        rendered = render(conversation("a", "日本", "b", "😀"), tokenizer)
        assert learned(rendered, tokenizer) == "日本<|im_end|>😀<|im_end|>"
