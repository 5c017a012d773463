"""Two-turn data under the chat templates that TRL ships, which are those of the models people fine-tune."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from deepcuts.components.training.render import answer_text, form_of, render, render_prompt, turns_of
from tests.training.test_render import conversation

TRL = find_spec("trl")
FOLDER = Path((TRL.submodule_search_locations or [""])[0] if TRL else "") / "chat_templates"
SPECIAL = re.compile(
    r"<[|\uff5c][^<>\s'\"]+?[|\uff5c]>|<(?:start_of_turn|end_of_turn|turn\||\|turn)>|\[/?INST\]|\[gMASK\]|<sop>|<end_of_utterance>"
)
"""What such templates write as special tokens."""


def tokenizer_for(template: str) -> PreTrainedTokenizerFast:
    """A token a byte, and one for each special token of the template."""
    special = sorted(set(SPECIAL.findall(template)))
    names = dict.fromkeys(["<s>", "</s>", *special, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=special,
        chat_template=template,
    )


def trains_two_turns(template: str) -> bool:
    """Whether both answers are learned, each once, each behind the prompt that a server would send."""
    tokenizer = tokenizer_for(template)
    example = conversation("2+2?", "It is 4.", "2+3?", "It is 5.")
    turns = turns_of(example, render(example, tokenizer))
    learned = ""
    for turn in turns:
        rendered, prompt = render(turn, tokenizer), render_prompt(turn, tokenizer)
        said = rendered.ids[len(prompt) :]
        assert rendered.ids[: len(prompt)] == prompt and all(rendered.mask[len(prompt) :])
        assert answer_text(said, tokenizer, form_of(tokenizer)) == turn.messages[-1].content
        assert rendered.ids[-1] == form_of(tokenizer).end
        learned += tokenizer.decode([i for i, mask in zip(rendered.ids, rendered.mask, strict=True) if mask])
    return learned.count("It is 4.") == learned.count("It is 5.") == 1


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs trl, which is in the dev extra")
def test_two_turn_data_is_taken_under_every_template():
    paths = sorted(FOLDER.glob("*.jinja"))
    assert len([path for path in paths if not path.stem.endswith("_training")]) >= 41
    assert [path.stem for path in paths if not trains_two_turns(path.read_text(encoding="utf-8"))] == []
