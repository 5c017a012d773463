"""Locate the answers of a conversation in its tokens, and the token that ends each."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Message
from deepcuts.components.training import chat_template
from deepcuts.components.training.chat_template import Template, Written
from deepcuts.components.training.tokens import Tokens, encode, end_token_of, prefix


class Span(NamedTuple):
    """An answer in a text's tokens, ``ids[start:end]``."""

    start: int
    end: int
    closed: bool
    """Whether the last of them is a special token that ends the answer."""


def tokens_of(written: Written, whole: Tokens, template: Template) -> tuple[list[int], list[int]]:
    """Return a conversation's token ids as a server writes them, and the mask of answers and end tokens.

    ``whole`` is ``written.text`` tokenised. Many templates write earlier answers differently from the last
    one (they drop the reasoning), or open the generation prompt with text that finished turns lack. Then only
    the last answer is learned, after exactly the prompt that a server sends; ``components/ingest`` turns such
    a conversation into one example per turn.

    Raises:
        DataError: the template refuses the turns, or a token crosses an answer's start.
    """
    messages, ids = written.messages, whole.ids
    span = _span(written, whole, template)
    answers = [turn for turn, message in enumerate(messages[:-1]) if message.learned]
    earlier = [_earlier(messages[: turn + 1], written.text, whole, template) for turn in answers]
    if not span.closed:
        ids, span = _close(written, span, template)
    ended_by = ids[span.end - 1]  # gpt-oss ends earlier answers with the token that also ends its reasoning
    found = [one for one in earlier if one and one.closed and ids[one.end - 1] == ended_by]
    mask = [0] * len(ids)
    for one in (*(found if len(found) == len(answers) else ()), span):
        mask[one.start : one.end] = [1] * (one.end - one.start)
    return ids, _within_marks(written, whole, ids, mask, template)


def _span(written: Written, whole: Tokens, template: Template) -> Span:
    """Locate the last answer of ``written`` in ``whole``, whose text begins with ``written.said``."""
    ids, special = whole.ids, template.special
    prompt = prefix(written.prompt, whole, special, template.tokenizer)
    if ids[: len(prompt)] != prompt:
        raise DataError(
            "an answer's first characters merge with the prompt's last into one token: strip the answer, or "
            "let the template's generation prompt end with a special token or a newline"
        )
    said = prefix(written.said, whole, special, template.tokenizer)
    if ids[: len(said)] != said:  # the answer's last characters merge with the text after it
        return Span(len(prompt), len(ids), False)
    end = _end_token(ids[len(said) :], template)
    return Span(len(prompt), len(said) + end, bool(end))


def _end_token(ids: Sequence[int], template: Template) -> int:
    """Count the ``ids`` up to a special token that follows only white space; 0 if there is none."""
    for number, token in enumerate(ids, start=1):
        if token in template.special:
            return number
        if str(template.tokenizer.decode([token])).strip():
            break
    return 0


def _earlier(messages: Sequence[Message], text: str, whole: Tokens, template: Template) -> Span | None:
    """Return the last answer of ``messages`` in a longer conversation; None if it is written differently."""
    written = chat_template.write(messages, template)
    return _span(written, whole, template) if text.startswith(written.said) else None


def _close(written: Written, span: Span, template: Template) -> tuple[list[int], Span]:
    """Add an end token to an answer that the template does not end.

    It is the token that begins the next turn (GLM's ``<|user|>``) if the publisher's models stop on it, else
    the tokenizer's.
    """
    messages, tokenizer = written.messages, template.tokenizer
    text = written.text if written.text[len(written.said) :].strip() else written.said
    ids = encode(text, tokenizer)
    after_it = Message("tool" if messages[-1].tool_calls else "user", "?")
    longer: str = chat_template.apply([*messages, after_it], template, tokenize=False)
    after = encode(longer[len(text) :], tokenizer) if longer.startswith(text) else []
    ids += after[: _end_token(after, template)] or [end_token_of(tokenizer)]
    return ids, Span(span.start, len(ids), True)


def _within_marks(
    written: Written, whole: Tokens, ids: Sequence[int], mask: list[int], template: Template
) -> list[int]:
    """Restrict ``mask`` to the template's ``{% generation %}`` marks; end tokens always stay."""
    if not template.marked or not whole.starts:
        return mask
    text, places = chat_template.marks(written.messages, template)
    same = min(len(ids), len(whole.ids))
    if not places or not written.text.startswith(text) or whole.ids[:same] != [*ids[:same]]:
        return mask
    marked: set[int] = set()
    for start, end in places:
        first = max(0, bisect_right(whole.starts, start) - 1)
        first = bisect_left(whole.starts, whole.starts[first])  # the first token of a character
        marked.update(range(first, bisect_right(whole.starts, end - 1)))
    if not marked:
        return mask
    known = bisect_left(whole.starts, len(text))
    after = [*mask[1:], 0]
    return [
        int(one and (number >= known or number in marked or one > after[number]))
        for number, one in enumerate(mask)
    ]
