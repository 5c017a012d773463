"""Render: an Example as token ids, and which of them are answer to be learned."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from components.core import examples
from components.core.errors import DataError, judged
from components.core.examples import Example, Message
from components.training import chat_template, faulty_field, model_files, tokenizer_file, tools

TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json", "config.json")


class Rendered(NamedTuple):
    ids: list[int]
    """Token ids; the last one is the end token of the last answer (of a passage, its last token)."""
    mask: list[int]
    """1 where the token is answer to be learned, its end token included; as long as ``ids``."""


def load_tokenizer(base: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in the Hugging Face folder ``base``; asks no hub, runs no code from the folder.

    Raises:
        FileNotFoundError: no such folder.
        DataError: no tokenizer in it that transformers can load.
    """
    if not base.is_dir():
        raise FileNotFoundError(f"{base} is not a folder: give it a Hugging Face model folder")
    model_files.check_fields(base)
    fix = "add its tokenizer files (tokenizer.json, tokenizer_config.json), or download them again"
    try:
        with judged(f"{base}: no tokenizer that loads", fix):
            return _open(base)
    except DataError as error:
        if (base / tokenizer_file.FILE).exists():
            tokenizer_file.read(base)  # raises where this file is at fault
        faulty_field.blame(error, base, TOKENIZER_FILES, _open)
        raise


def _open(base: Path) -> PreTrainedTokenizerBase:
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
    r"""Return token ids of the whole conversation, and the mask of what is learned: answers and end tokens.

    With a chat template the text is the template's, tokenised whole, as a server does it
    (``chat_template.tokens_of``). Without one it is ``<bos>``, then ``text\n`` a system or user turn and
    ``answer<eos>`` an assistant turn, with a newline between an answer and the next turn; what stands between
    two answers is one segment, each answer is one, and segments are tokenised on their own, so the prompt's
    tokens are the same with and without the answer.

    Plain text is ``<bos>text<eos>``, all of it learned. Turns of weight 0 are not learned.

    Raises:
        DataError: this Example cannot be rendered: the template refuses it or has no place for its tools, or
            a token crosses its start.
        ValueError: no Example can be: the tokenizer has no end token.
    """
    if example.form:
        return _document(example, tokenizer)
    if not any(message.learned for message in example.messages):
        raise DataError(f"example {example.id!r} has no answer: give it an assistant turn")
    if tokenizer.chat_template:
        texts = [*map(examples.said, example.messages), msgspec.json.encode(example.tools).decode()]
        chat_template.refuse_special_tokens(texts, tokenizer)
        ids, mask = chat_template.tokens_of(example.messages, tools.bound(tokenizer, example.tools))
        if tools.has_extras(example):
            tools.check_shown(example, str(tokenizer.decode(ids)))
    elif tools.has_extras(example):
        raise DataError(
            "a base without a chat template has no place for tools, calls or reasoning: take one that has one"
        )
    else:
        ids, mask = _plain(example.messages, tokenizer)
    end = len(mask) - mask[::-1].index(1)  # what follows the last end token (often "\n") teaches nothing
    return Rendered(ids[:end], mask[:end])


def render_prompt(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of everything before the last answer, ready for generation: a prefix of ``render``'s ids."""
    if example.form:
        return [_first_token(tokenizer)]
    before = example.messages[: chat_template.last_answer(example.messages)]
    if tokenizer.chat_template:
        prompt = chat_template.prompt_of(before, tools.bound(tokenizer, example.tools))
        return chat_template.encode(prompt, tokenizer)
    return _plain(before, tokenizer).ids


def turns_of(example: Example, rendered: Rendered) -> list[Example]:
    """Return the Example, or one for each learned answer where its template lets only the last be learned.

    In each of these the answers before the last have weight 0, so that none is learned twice.
    """
    answers = [turn for turn, message in enumerate(example.messages) if message.learned]
    learned = sum(one > before for before, one in pairwise((0, *rendered.mask)))
    if example.form or learned >= len(answers) or len(answers) == 1:
        return [example]
    context = [msgspec.structs.replace(m, weight=0) if m.learned else m for m in example.messages]
    return [
        msgspec.structs.replace(
            example, id=f"{example.id}#{number}", messages=(*context[:turn], example.messages[turn])
        )
        for number, turn in enumerate(answers, start=1)
    ]


def with_system_folded(example: Example) -> Example:
    """Return a system turn put before the first user turn's text, for templates that have no such role."""
    first, *rest = example.messages
    if first.role != "system" or not rest or rest[0].role != "user":
        return example
    opening = Message("user", f"{first.content}\n\n{rest[0].content}")
    return msgspec.structs.replace(example, messages=(opening, *rest[1:]))


def form_of(tokenizer: PreTrainedTokenizerBase) -> Form:
    """Return how the tokenizer's template writes an answer, from a conversation of one question.

    Raises:
        DataError, ValueError: as ``render``.
    """
    probe = Example("probe", (Message("user", "Question"), Message("assistant", "Answer")))
    lead = chat_template.lead_of(probe.messages, tokenizer) if tokenizer.chat_template else ""
    return Form(lead, render(probe, tokenizer).ids[-1])


def answer_text(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase, form: Form) -> str:
    """Return what generated ``tokens`` say, without special tokens and the template's lead."""
    ids, lead = list(tokens), chat_template.encode(form.lead, tokenizer) if form.lead else []
    if lead and ids[: len(lead)] == lead:
        ids = ids[len(lead) :]
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    if form.lead.rstrip().endswith("</think>"):  # the model thought before it answered
        text = text.rpartition("</think>")[2]
    return text.strip()


def _document(example: Example, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """Plain text behind the first token; a passage, which continues elsewhere, has no end token."""
    ids = chat_template.encode(example.messages[-1].content, tokenizer, split_special_tokens=True)
    ids += [] if example.form == "passage" else [chat_template.end_token_of(tokenizer)]
    return Rendered([_first_token(tokenizer), *ids], [0] + [1] * len(ids))


def _first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return what a text begins with: ``<bos>``, or the end token as GPT-2 has it."""
    bos: int | None = tokenizer.bos_token_id
    return chat_template.end_token_of(tokenizer) if bos is None else bos


def _plain(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> Rendered:
    eos = chat_template.end_token_of(tokenizer)
    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    mask = [0] * len(ids)
    for text, answer in _segments(messages):
        tokens = chat_template.encode(text, tokenizer, split_special_tokens=True)  # "</s>" there stays text
        tokens += [eos] * (answer is not None)
        ids += tokens
        mask += [int(answer is not None and answer.learned)] * len(tokens)
    return Rendered(ids, mask)


def _segments(messages: Sequence[Message]) -> Iterator[tuple[str, Message | None]]:
    """Yield (text, the answer that it is), in order; the text between two answers comes in one piece."""
    between = ""
    for message in messages:
        if message.role == "assistant":
            yield between, None
            yield message.content, message
            between = "\n"
        else:
            between += message.content + "\n"
    yield between, None
