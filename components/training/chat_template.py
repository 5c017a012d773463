"""Chat templates: where answers lie in what a template writes, and which token ends each of them."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from components.core.deadline import within
from components.core.errors import DataError, ModelFault, judged
from components.core.examples import Message
from components.training import tools

TEMPLATE_SECONDS = 10.0
"""A conversation takes about a millisecond; a template can loop for ever."""
MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
OPEN_TAG = re.compile(r"<([\w:]+)>\s*\Z")
"""Ends a generation prompt that opens the reasoning (``<think>``), which finished turns may lack."""


LEFT_OUT = "the chat template leaves out part of the answer: train with another template"
FOLD = "correct its turns, or set fold_system, which puts the system turn into the first question"
PLACE = "PlaceOfTheAnswer"


class Written(NamedTuple):
    """A conversation up to its last answer, as text."""

    text: str
    prompt: str
    """What a server sends; ``text`` begins with it."""
    said: str
    """``text`` up to the answer's last character."""
    content: str
    """The answer as it stands in ``text``."""


class Span(NamedTuple):
    """An answer in a text's tokens, ``ids[start:end]``."""

    start: int
    end: int
    closed: bool
    """Whether the last of them is a special token, which ends the answer."""


def tokens_of(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids of a conversation as a server writes it, and the mask of its answers with their end tokens.

    Many templates write earlier answers differently from the last one (they drop the reasoning), or open the
    generation prompt with text that finished turns lack. Then only the last answer is learned, after exactly
    the prompt that a server sends; ``components/ingest`` makes such a conversation one example a turn.

    Raises:
        DataError: the template refuses the turns, leaves out text, or a token crosses an answer's start.
    """
    messages = messages[: last_answer(messages) + 1]
    written = _write(messages, tokenizer)
    if messages[0].role == "system" and _dense(messages[0].content) not in _dense(written.prompt):
        raise DataError(f"the chat template leaves out the system turn: {FOLD}")
    ids = encode(written.text, tokenizer)
    span = _span(written, ids, tokenizer)
    answers = [turn for turn, message in enumerate(messages[:-1]) if message.learned]
    earlier = [_earlier(messages[: turn + 1], written.text, ids, tokenizer) for turn in answers]
    if not span.closed:
        ids, span = _close(messages, written, ids, span, tokenizer)
    ended_by = ids[span.end - 1]  # gpt-oss ends earlier answers with the token that ends its reasoning, too
    found = [one for one in earlier if one and one.closed and ids[one.end - 1] == ended_by]
    mask = [0] * len(ids)
    for one in (*(found if len(found) == len(answers) else ()), span):
        mask[one.start : one.end] = [1] * (one.end - one.start)
    return ids, _within_marks(messages, ids, mask, tokenizer)


def lead_of(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what a template writes between the prompt and the last answer's first character."""
    written = _write(messages, tokenizer)
    return written.said[len(written.prompt) : len(written.said) - len(written.content)]


def prompt_of(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that a server has the model continue."""
    text: str = _apply(messages, tokenizer, tokenize=False, add_generation_prompt=True)
    return text


def last_answer(messages: Sequence[Message]) -> int:
    """Index of the last assistant turn that is learned; the number of turns if there is none."""
    answers = [turn for turn, message in enumerate(messages) if message.learned]
    return answers[-1] if answers else len(messages)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that no text spells: named ones, and added ones marked special (Gemma's ``<end_of_turn>``)."""
    return _special_ids(tokenizer, len(tokenizer), tuple(tokenizer.all_special_ids))


def refuse_special_tokens(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse special tokens in a text: it is tokenised whole, so ``<|im_end|>`` would end the turn.

    Raises:
        DataError: one of ``texts`` spells out a special token.
    """
    whole = "\n".join(texts)
    for token in tokenizer.all_special_tokens:
        if token and token in whole:
            raise DataError(f"a message or a tool spells out the special token {token!r}: remove it")


def encode(text: str, tokenizer: PreTrainedTokenizerBase, split_special_tokens: bool = False) -> list[int]:
    """Token ids of ``text`` alone."""
    with judged("the tokenizer cannot encode a text", "correct the patterns in tokenizer.json, or the text"):
        ids: list[int] = tokenizer(
            text, add_special_tokens=False, split_special_tokens=split_special_tokens, verbose=False
        )["input_ids"]
    return ids


@lru_cache(maxsize=8)  # a vocabulary of added tokens is walked in milliseconds, and every row asks
def _special_ids(tokenizer: PreTrainedTokenizerBase, size: int, named: tuple[int, ...]) -> frozenset[int]:
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(named))


def _write(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> Written:
    text: str = _apply(messages, tokenizer, tokenize=False, add_generation_prompt=False)
    prompt, content = prompt_of(messages[:-1], tokenizer), messages[-1].content
    if messages[-1].tool_calls:
        return _calling(prompt, text, messages[-1], tokenizer)
    tail = _tail(messages, tokenizer)
    if not (text.startswith(prompt) and text.endswith(tail)):
        return _continue(prompt, text, messages[-1], tail)
    said = text[: len(text) - len(tail)]
    if _dense(content) not in _dense(said[len(prompt) :]):  # templates for images, for reasoning
        raise DataError(LEFT_OUT)
    form = content if said.endswith(content) else content.strip()
    return Written(text, prompt, said, form if said.endswith(form) else said[len(prompt) :])


def _tail(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the template writes behind the last answer, found with a word in the answer's place."""
    turns = [*messages[:-1], Message("assistant", PLACE)]
    text: str = _apply(turns, tokenizer, tokenize=False, add_generation_prompt=False)
    if PLACE not in text:
        raise DataError(LEFT_OUT)
    return text.rpartition(PLACE)[2]


def _calling(prompt: str, text: str, answer: Message, tokenizer: PreTrainedTokenizerBase) -> Written:
    """Return an answer that calls functions, as the template writes it: up to its special end token."""
    written = text.rstrip()
    last = encode(written[-200:], tokenizer)[-1]
    end = str(tokenizer.convert_ids_to_tokens(last)) if last in special_ids(tokenizer) else ""
    said = written.removesuffix(end)
    if not text.startswith(prompt):
        tag = OPEN_TAG.search(prompt)
        if not tag or not text.startswith(head := prompt[: tag.start()]):
            raise DataError(
                "the chat template writes calls behind another prompt: train with another template"
            )
        calls = re.sub(rf"\A\s*<{tag[1]}>.*?</{tag[1]}>\s*", "", said[len(head) :], flags=re.DOTALL)
        text, said = text[len(said) :], prompt + _lead(tag, answer.reasoning_content) + calls
        text = said + text
    return Written(text, prompt, said, said[len(prompt) :])


def _continue(prompt: str, text: str, answer: Message, tail: str) -> Written:
    """Return the prompt, the answer, its reasoning closed where the prompt opened it, and the ``tail``."""
    tag = OPEN_TAG.search(prompt)
    reasoning, _, said = answer.content.rpartition(f"</{tag[1]}>") if tag else ("", "", answer.content)
    said = said.strip()
    if _dense(said) not in _dense(text):
        raise DataError(LEFT_OUT)
    begun = prompt + (_lead(tag, answer.reasoning_content or reasoning) if tag else "") + said
    return Written(begun + tail, prompt, begun, said)


def _lead(tag: re.Match[str], reasoning: str) -> str:
    """Return what stands between a prompt that opens the reasoning with ``tag`` and the answer."""
    thought = reasoning.strip().removeprefix(f"<{tag[1]}>").strip()
    return f"{thought}\n</{tag[1]}>\n\n" if thought else f"</{tag[1]}>\n\n"


def _span(written: Written, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Span:
    """Return where the last answer of ``written`` is in ``ids``, whose text begins with ``written.said``."""
    prompt, said = encode(written.prompt, tokenizer), encode(written.said, tokenizer)
    if list(ids[: len(prompt)]) != prompt:
        raise DataError(
            "an answer's first characters merge with the prompt's last into one token: strip the answer, or "
            "let the template's generation prompt end with a special token or a newline"
        )
    if list(ids[: len(said)]) != said:  # the answer's last characters merge with what follows: no end there
        return Span(len(prompt), len(ids), False)
    end = _end_token(ids[len(said) :], tokenizer)
    return Span(len(prompt), len(said) + end, bool(end))


def _end_token(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many of ``ids`` lead to a special token with only white space before it; 0: none do."""
    special = special_ids(tokenizer)
    for number, token in enumerate(ids, start=1):
        if token in special:
            return number
        if str(tokenizer.decode([token])).strip():
            break
    return 0


def _earlier(
    messages: Sequence[Message], text: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> Span | None:
    """Return the last answer of ``messages`` in a longer conversation; None where it differs there."""
    written = _write(messages, tokenizer)
    return _span(written, ids, tokenizer) if text.startswith(written.said) else None


def _close(
    messages: Sequence[Message],
    written: Written,
    ids: list[int],
    span: Span,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[list[int], Span]:
    """Return an answer that the template does not end, with an end.

    That is the token that would begin the next turn (GLM's ``<|user|>``), on which its publisher's models
    stop, else the tokenizer's end token.
    """
    text = written.text if written.text[len(written.said) :].strip() else written.said
    ids = encode(text, tokenizer)
    after_it = Message("tool" if messages[-1].tool_calls else "user", "?")
    longer: str = _apply([*messages, after_it], tokenizer, tokenize=False)
    after = encode(longer[len(text) :], tokenizer) if longer.startswith(text) else []
    ids += after[: _end_token(after, tokenizer)] or [end_token_of(tokenizer)]
    return ids, Span(span.start, len(ids), True)


def end_token_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the tokenizer's own end token.

    Raises:
        ValueError: it has none.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "the tokenizer has no eos_token, so no answer would end: set it in tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


def _within_marks(
    messages: Sequence[Message], ids: Sequence[int], mask: list[int], tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Return ``mask`` where the template's ``{% generation %}`` marks agree, end tokens in any case."""
    if not MARKED.search(tokenizer.get_chat_template()):
        return mask
    marked = _apply(messages, tokenizer, return_dict=True, return_assistant_tokens_mask=True)
    marks, common = marked["assistant_masks"], min(len(ids), len(marked["input_ids"]))
    if list(marked["input_ids"][:common]) != list(ids[:common]) or not any(marks):
        return mask
    ends = [
        number for number, (one, after) in enumerate(zip(mask, [*mask[1:], 0], strict=True)) if one > after
    ]
    return [
        int(one and (number >= len(marks) or bool(marks[number]) or number in ends))
        for number, one in enumerate(mask)
    ]


def _dense(text: str) -> str:
    """Return ``text`` without white space, which templates trim and add."""
    return "".join(text.split())


def _apply(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, **options: bool) -> Any:
    late = ModelFault(f"the chat template takes over {TEMPLATE_SECONDS:.0f} s a conversation: use another")
    fix = FOLD if messages[0].role == "system" else "correct its turns"
    fix += ", or chat_template in tokenizer_config.json"
    with within(TEMPLATE_SECONDS, late), judged("the chat template refuses the conversation", fix):
        turns = _turns(messages, in_parts=_takes_parts(tokenizer, str(tokenizer.get_chat_template())))
        return tokenizer.apply_chat_template(turns, **options)


def _turns(messages: Sequence[Message], in_parts: bool) -> list[dict[str, Any]]:
    turns = [tools.as_turn(message) for message in messages]
    if in_parts:
        turns = [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    return turns


@lru_cache(maxsize=8)
def _takes_parts(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Return whether a template leaves out text that is no list of parts, as for models of images."""
    turns = _turns([Message("user", PLACE), Message("assistant", PLACE)], in_parts=False)
    try:
        return PLACE not in tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError:
        return True
