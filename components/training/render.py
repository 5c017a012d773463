"""Render: an Example as token ids, and which of them are answer to be learned."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from components.core.errors import DataError
from components.core.examples import Example, Message
from components.training import tools


class Rendered(NamedTuple):
    ids: list[int]
    """Token ids; the last one is the end token of the last answer (of a passage, its last token)."""
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
    try:
        return AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{base}: no tokenizer that loads ({str(error).splitlines()[0]}): add its tokenizer files"
        ) from error


def render(example: Example, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """Token ids of the whole conversation and the mask of what is learned: each answer and its end token.

    With a chat template the text is the template's, tokenised whole, as a server does it. Without one it is
    ``<bos>``, then ``text\\n`` a system or user turn and ``answer<eos>`` an assistant turn, with a newline
    between an answer and the next turn; what stands between two answers is one segment, each answer is one,
    and segments are tokenised on their own, so the prompt's tokens are the same with and without the answer.

    Plain text is ``<bos>text<eos>``, all of it learned. Turns of weight 0 are not learned.

    Raises:
        DataError: this Example cannot be rendered: the template refuses it or has no place for its tools, or
            a token crosses its start.
        ValueError: no Example can be rendered well: the tokenizer or its template must be mended first.
    """
    if example.form:
        return _document(example, tokenizer)
    if not any(message.learned for message in example.messages):
        raise DataError(f"example {example.id!r} has no answer: give it an assistant turn")
    if tokenizer.chat_template:
        tokenizer = tools.bound(tokenizer, example.tools)
        _refuse_special_tokens(example, tokenizer)
        ids, mask = _chat(example.messages, tokenizer)
        mask = _closed(ids, mask, tokenizer)
        if tools.has_extras(example):
            tools.check_shown(example, str(tokenizer.decode(ids)))
    elif tools.has_extras(example):
        raise DataError(
            "a base without a chat template has no place for tools, calls or reasoning: take one that has one"
        )
    else:
        ids, mask = _plain(example.messages, tokenizer)
    mask = tools.masked(example.messages, mask)
    end = len(mask) - mask[::-1].index(1)  # what follows the last end token (often "\n") teaches nothing
    return Rendered(ids[:end], mask[:end])


def render_prompt(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of everything before the last answer, ready for generation: a prefix of ``render``'s ids."""
    if example.form:
        return [_first_token(tokenizer)]
    before = example.messages[: _last_answer(example.messages)]
    tokenizer = tools.bound(tokenizer, example.tools)
    if tokenizer.chat_template:
        return _encode(_text(before, tokenizer, prompt=True), tokenizer)
    return _plain(before, tokenizer).ids


def _document(example: Example, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """Plain text behind the first token; a passage, which continues elsewhere, has no end token."""
    ids = _encode(example.messages[-1].content, tokenizer, split_special_tokens=True)
    ids += [] if example.form == "passage" else [_end_token(tokenizer)]
    return Rendered([_first_token(tokenizer), *ids], [0] + [1] * len(ids))


def _first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """What a text begins with: ``<bos>``, or the end token as GPT-2 has it."""
    bos: int | None = tokenizer.bos_token_id
    return _end_token(tokenizer) if bos is None else bos


def _end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "the tokenizer has no eos_token, so no answer would end: set it in tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


def _plain(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> Rendered:
    end_token = _end_token(tokenizer)
    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    mask = [0] * len(ids)
    for text, learned in _segments(messages):
        tokens = _encode(text, tokenizer, split_special_tokens=True)  # a "</s>" in the text stays text
        tokens += [end_token] * learned
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


def _chat(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> Rendered:
    text = _text(messages, tokenizer, prompt=False)
    ids = _encode(text, tokenizer)
    last = _last_answer(messages)
    prompt = _text(messages[:last], tokenizer, prompt=True)
    _covered(prompt, text, ids, tokenizer)
    if _dense(messages[last].content) not in _dense(
        text[len(prompt) :]
    ):  # templates for images, for reasoning
        raise DataError("the chat template leaves out part of the answer: train with another template")
    if re.search(r"\{%-?\s*generation\s*-?%\}", tokenizer.get_chat_template()):
        marked = _apply(messages, tokenizer, return_dict=True, return_assistant_tokens_mask=True)
        return Rendered(ids, marked["assistant_masks"])
    mask = [0] * len(ids)
    for turn in (i for i, message in enumerate(messages) if message.learned):
        start = _covered(_text(messages[:turn], tokenizer, prompt=True), text, ids, tokenizer)
        end = _covered(_text(messages[: turn + 1], tokenizer, prompt=False), text, ids, tokenizer)
        mask[start:end] = [1] * (end - start)
    return Rendered(ids, mask)


def _covered(head: str, text: str, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """How many of ``ids``, the tokens of ``text``, are the tokens of its beginning ``head``."""
    if not text.startswith(head):
        raise ValueError(
            f"the chat template writes a beginning ({head[-40:]!r}) otherwise when more follows, so answers "
            "cannot be found: put {% generation %} and {% endgeneration %} around them in the template, and "
            "let add_generation_prompt write just what precedes an answer"
        )
    tokens = _encode(head, tokenizer)
    if ids[: len(tokens)] != tokens:
        raise DataError(
            "an answer's first characters merge with the prompt's last into one token: strip the answer, or "
            "let the template's generation prompt end with a special token or a newline"
        )
    return len(tokens)


def _closed(ids: list[int], mask: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """``mask`` without what follows an answer's end token (``"\\n"``), which no server ever generates."""
    special = set(tokenizer.all_special_ids)
    closed, inside = [0] * len(ids), False
    for i in reversed(range(len(ids))):
        inside = bool(mask[i]) and (inside or ids[i] in special)
        closed[i] = int(inside)
        if mask[i] and not inside and (i == 0 or not mask[i - 1]):
            raise ValueError(
                "the chat template ends an answer without a special token, so a model would never learn to "
                "stop: write {{ eos_token }} after the answer (inside {% generation %} if it has that)"
            )
    return closed


def _refuse_special_tokens(example: Example, tokenizer: PreTrainedTokenizerBase) -> None:
    """A template's text is tokenised whole: a user who writes ``<|im_end|>`` would end the turn."""
    for token in tokenizer.all_special_tokens:
        if any(token in message.content for message in example.messages):
            raise DataError(f"a message spells out the special token {token!r}: remove it")


def _dense(text: str) -> str:
    """``text`` without white space, which templates trim and add."""
    return "".join(text.split())


def _last_answer(messages: Sequence[Message]) -> int:
    answers = [turn for turn, message in enumerate(messages) if message.role == "assistant"]
    return answers[-1] if answers else len(messages)


def _text(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, prompt: bool) -> str:
    text: str = _apply(messages, tokenizer, tokenize=False, add_generation_prompt=prompt)
    return text


def _apply(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, **options: bool) -> Any:
    turns = [tools.as_turn(message) for message in messages]
    try:
        return tokenizer.apply_chat_template(turns, **options)
    except TemplateError as error:
        raise DataError(f"the chat template refuses the conversation ({error}): mend its turns") from error


def _encode(text: str, tokenizer: PreTrainedTokenizerBase, split_special_tokens: bool = False) -> list[int]:
    ids: list[int] = tokenizer(
        text, add_special_tokens=False, split_special_tokens=split_special_tokens, verbose=False
    )["input_ids"]
    return ids
