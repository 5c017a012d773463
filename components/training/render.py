"""Render: an Example as token ids, and which of them are answer to be learned."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from components.core.errors import DataError, judged
from components.core.examples import Example, Message
from components.training import chat_template, model_files


class Rendered(NamedTuple):
    ids: list[int]
    """Token ids; the last one is the end token of the last answer."""
    mask: list[int]
    """1 where the token is answer to be learned, its end token included; as long as ``ids``."""


def load_tokenizer(base: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in the Hugging Face folder ``base``; never asks a hub, never runs code from the folder.

    Raises:
        FileNotFoundError: no such folder.
        DataError: no tokenizer in it that transformers can load.
    """
    if not base.is_dir():
        raise FileNotFoundError(f"{base} is not a folder: give it a Hugging Face model folder")
    model_files.check_fields(base)
    fix = "add its tokenizer files (tokenizer.json, tokenizer_config.json), or download them again"
    with judged(f"{base}: no tokenizer that loads", fix):
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
        tokenizer("a b", add_special_tokens=False)  # what is wrong with its parts, it says when it works
    return tokenizer


class Form(NamedTuple):
    """How this tokenizer's template writes an answer."""

    lead: str
    """Between the prompt and the answer's first character: ``<think>\n\n</think>\n\n``, or nothing."""
    end: int
    """The token that ends an answer."""


def render(example: Example, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """Token ids of the whole conversation and the mask of what is learned: each answer and its end token.

    With a chat template the text is the template's, tokenised whole, as a server does it
    (``chat_template.tokens_of``). Without one it is ``<bos>``, then ``text\n`` a system or user turn and
    ``answer<eos>`` an assistant turn, with a newline between an answer and the next turn; what stands between
    two answers is one segment, each answer is one, and segments are tokenised on their own, so the prompt's
    tokens are the same with and without the answer.

    Raises:
        DataError: this Example cannot be rendered: the template refuses it, or a token crosses its start.
        ValueError: no Example can be: the tokenizer has no end token.
    """
    if all(message.role != "assistant" for message in example.messages):
        raise DataError(f"example {example.id!r} has no answer: give it an assistant turn")
    if tokenizer.chat_template:
        ids, mask = chat_template.tokens_of(example.messages, tokenizer)
    else:
        ids, mask = _plain(example.messages, tokenizer)
    end = len(mask) - mask[::-1].index(1)  # what follows the last end token (often "\n") teaches nothing
    return Rendered(ids[:end], mask[:end])


def render_prompt(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of everything before the last answer, ready for generation: a prefix of ``render``'s ids."""
    before = example.messages[: chat_template.last_answer(example.messages)]
    if tokenizer.chat_template:
        return chat_template.encode(chat_template.prompt_of(before, tokenizer), tokenizer)
    return _plain(before, tokenizer).ids


def turns_of(example: Example, rendered: Rendered) -> list[Example]:
    """The Example, or one for each of its answers where its template lets only the last be learned."""
    answers = [turn for turn, message in enumerate(example.messages) if message.role == "assistant"]
    learned = sum(one > before for before, one in pairwise((0, *rendered.mask)))
    if learned == len(answers) or len(answers) == 1:
        return [example]
    return [
        msgspec.structs.replace(example, id=f"{example.id}#{number}", messages=example.messages[: turn + 1])
        for number, turn in enumerate(answers, start=1)
    ]


def with_system_folded(example: Example) -> Example:
    """A system turn put before the first user turn's text, for templates that have no such role."""
    first, *rest = example.messages
    if first.role != "system" or not rest or rest[0].role != "user":
        return example
    opening = Message("user", f"{first.content}\n\n{rest[0].content}")
    return msgspec.structs.replace(example, messages=(opening, *rest[1:]))


def form_of(tokenizer: PreTrainedTokenizerBase) -> Form:
    """How the tokenizer's template writes an answer, from a conversation of one question.

    Raises:
        DataError, ValueError: as ``render``.
    """
    probe = Example("probe", (Message("user", "Question"), Message("assistant", "Answer")))
    lead = chat_template.lead_of(probe.messages, tokenizer) if tokenizer.chat_template else ""
    return Form(lead, render(probe, tokenizer).ids[-1])


def answer_text(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase, form: Form) -> str:
    """What generated ``tokens`` say, without special tokens and what the template writes before an answer."""
    ids, lead = list(tokens), chat_template.encode(form.lead, tokenizer) if form.lead else []
    if lead and ids[: len(lead)] == lead:
        ids = ids[len(lead) :]
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    if form.lead.rstrip().endswith("</think>"):  # the model thought before it answered
        text = text.rpartition("</think>")[2]
    return text.strip()


def _plain(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> Rendered:
    eos = chat_template.end_token_of(tokenizer)
    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    mask = [0] * len(ids)
    for text, learned in _segments(messages):
        tokens = chat_template.encode(text, tokenizer, split_special_tokens=True)  # "</s>" there stays text
        tokens += [eos] * learned
        ids += tokens
        mask += [int(learned)] * len(tokens)
    return Rendered(ids, mask)


def _segments(messages: Sequence[Message]) -> Iterator[tuple[str, bool]]:
    """(text, is an answer), in order; the text between two answers comes in one piece."""
    between = ""
    for message in messages:
        if message.role == "assistant":
            yield between, False
            yield message.content, True
            between = "\n"
        else:
            between += message.content + "\n"
    yield between, False
