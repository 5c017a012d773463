"""Apply a chat template to a conversation, and locate the last answer in the text."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from deepcuts.components.core.deadline import within
from deepcuts.components.core.errors import DataError, ModelFault, judged
from deepcuts.components.core.examples import Message
from deepcuts.components.training import tools
from deepcuts.components.training.tokens import encode

TEMPLATE_SECONDS = 10.0
"""Time limit for one conversation: it takes about a millisecond, but a template may loop forever."""
MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
OPEN_TAG = re.compile(r"<([\w:]+)>\s*\Z")
"""End of a generation prompt that opens the reasoning (``<think>``), which finished turns may lack."""


LEFT_OUT = "the chat template leaves out part of the answer: train with another template"
FOLD = "correct its turns, or set fold_system, which puts the system turn into the first question"
PLACE = "PlaceOfTheAnswer"


class Template(NamedTuple):
    """A tokenizer's chat template, with properties of the tokenizer that every row needs."""

    tokenizer: PreTrainedTokenizerBase
    special: frozenset[int]
    """Tokens that text must not spell out: named ones, and added special ones (Gemma's ``<end_of_turn>``)."""
    names: tuple[str, ...]
    """The named special tokens, as text."""
    in_parts: bool
    """The template drops content that is not a list of parts, as templates of image models do."""
    marked: bool
    """The template has ``{% generation %}`` marks."""
    tools: tuple[dict[str, Any], ...] = ()
    """Functions that the conversation may call."""


class Written(NamedTuple):
    """A conversation up to its last answer, as text."""

    messages: Sequence[Message]
    text: str
    prompt: str
    """The prompt a server sends; ``text`` begins with it."""
    said: str
    """``text`` up to the answer's last character."""
    content: str
    """The answer as written in ``text``."""


def template_of(tokenizer: PreTrainedTokenizerBase) -> Template:
    """Return the tokenizer's template, without tools.

    Raises:
        ModelFault: it has no usable template.
    """
    fix = "correct chat_template in tokenizer_config.json"
    with judged("no chat template that can be used", fix, kind=ModelFault):
        source = str(tokenizer.get_chat_template())
        return _template_of(tokenizer, source, len(tokenizer), tuple(tokenizer.all_special_tokens))


def written(messages: Sequence[Message], template: Template) -> Written:
    """Write a conversation up to its last learned answer with the template.

    Raises:
        DataError: the template refuses the turns, or leaves out text.
    """
    messages = messages[: last_answer(messages) + 1]
    found = write(messages, template)
    if messages[0].role == "system" and _dense(messages[0].content) not in _dense(found.prompt):
        raise DataError(f"the chat template leaves out the system turn: {FOLD}")
    return found


def lead_of(messages: Sequence[Message], template: Template) -> str:
    """Return the text that a template writes between the prompt and the last answer."""
    found = written(messages, template)
    return found.said[len(found.prompt) : len(found.said) - len(found.content)]


def prompt_of(messages: Sequence[Message], template: Template) -> str:
    """Return the prompt that a server would have the model continue."""
    text: str = apply(messages, template, tokenize=False, add_generation_prompt=True)
    return text


def last_answer(messages: Sequence[Message]) -> int:
    """Return the index of the last learned assistant turn; the number of turns if there is none."""
    answers = [turn for turn, message in enumerate(messages) if message.learned]
    return answers[-1] if answers else len(messages)


def refuse_special_tokens(texts: Iterable[str], names: Iterable[str]) -> None:
    """Refuse special tokens in a conversation: a user who writes ``<|im_end|>`` would end the turn.

    Raises:
        DataError: one of ``texts`` spells out one of the special tokens ``names``.
    """
    whole = "\n".join(texts)
    for token in names:
        if token in whole:
            raise DataError(f"a message or a tool spells out the special token {token!r}: remove it")


def write(messages: Sequence[Message], template: Template) -> Written:
    """Write a conversation that ends with an answer."""
    text: str = apply(messages, template, tokenize=False, add_generation_prompt=False)
    prompt, content = prompt_of(messages[:-1], template), messages[-1].content
    if messages[-1].tool_calls:
        return _calling(messages, prompt, text, template)
    if text.startswith(prompt) and text.count(content, len(prompt)) == 1:  # the only place it can be
        place = text.index(content, len(prompt)) + len(content)
        return Written(messages, text, prompt, text[:place], content)
    tail = _tail(messages, template)
    if not (text.startswith(prompt) and text.endswith(tail)):
        return _continue(messages, prompt, text, tail)
    said = text[: len(text) - len(tail)]
    if _dense(content) not in _dense(said[len(prompt) :]):  # as with templates for images or for reasoning
        raise DataError(LEFT_OUT)
    form = content if said.endswith(content) else content.strip()
    return Written(messages, text, prompt, said, form if said.endswith(form) else said[len(prompt) :])


def _tail(messages: Sequence[Message], template: Template) -> str:
    """Return the text that the template writes after the last answer.

    A placeholder is put in the answer's place, as the answer's own text may also occur in the template.
    """
    turns = [*messages[:-1], Message("assistant", PLACE)]
    text: str = apply(turns, template, tokenize=False, add_generation_prompt=False)
    if PLACE not in text:
        raise DataError(LEFT_OUT)
    return text.rpartition(PLACE)[2]


def _calling(messages: Sequence[Message], prompt: str, text: str, template: Template) -> Written:
    """Write an answer that calls functions, up to its special end token."""
    stripped = text.rstrip()
    last = encode(stripped[-200:], template.tokenizer)[-1]
    end = str(template.tokenizer.convert_ids_to_tokens(last)) if last in template.special else ""
    said = stripped.removesuffix(end)
    if not text.startswith(prompt):
        tag = OPEN_TAG.search(prompt)
        if not tag or not text.startswith(head := prompt[: tag.start()]):
            raise DataError(
                "the chat template writes calls after another prompt: train with another template"
            )
        calls = re.sub(rf"\A\s*<{tag[1]}>.*?</{tag[1]}>\s*", "", said[len(head) :], flags=re.DOTALL)
        text, said = text[len(said) :], prompt + _lead(tag, messages[-1].reasoning_content) + calls
        text = said + text
    return Written(messages, text, prompt, said, said[len(prompt) :])


def _continue(messages: Sequence[Message], prompt: str, text: str, tail: str) -> Written:
    """Write a conversation whose finished turns do not begin like the generation prompt.

    It is the prompt, then the answer (with the reasoning closed if the prompt opened it), then the text that
    the template writes after an answer.
    """
    tag, answer = OPEN_TAG.search(prompt), messages[-1]
    reasoning, _, said = answer.content.rpartition(f"</{tag[1]}>") if tag else ("", "", answer.content)
    said = said.strip()
    if _dense(said) not in _dense(text):
        raise DataError(LEFT_OUT)
    begun = prompt + (_lead(tag, answer.reasoning_content or reasoning) if tag else "") + said
    return Written(messages, begun + tail, prompt, begun, said)


def _lead(tag: re.Match[str], reasoning: str) -> str:
    """Return the text between the answer and a prompt that opens the reasoning with ``tag``."""
    thought = reasoning.strip().removeprefix(f"<{tag[1]}>").strip()
    return f"{thought}\n</{tag[1]}>\n\n" if thought else f"</{tag[1]}>\n\n"


def _dense(text: str) -> str:
    """Remove white space from ``text``, as templates trim and add it."""
    return "".join(text.split())


def apply(messages: Sequence[Message], template: Template, **options: bool) -> Any:
    """Apply the template to ``messages`` within the time limit; return a text, or tokens."""
    with _judged(messages):
        turns = _turns(messages, template.in_parts)
        tools = [*template.tools] or None
        return template.tokenizer.apply_chat_template(turns, tools=tools, **options)


def marks(messages: Sequence[Message], template: Template) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of ``messages`` and the spans of the template's ``{% generation %}`` marks in it.

    ``apply_chat_template`` gives the spans only as tokens, of a text that it tokenises again.
    """
    tokenizer, tools = template.tokenizer, [*template.tools] or None
    with _judged(messages):
        texts, places = render_jinja_template(
            [_turns(messages, template.in_parts)],
            tools=tools,
            chat_template=tokenizer.get_chat_template(None, tools),
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )
    return texts[0], places[0]


@contextmanager
def _judged(messages: Sequence[Message]) -> Iterator[None]:
    fix = FOLD if messages[0].role == "system" else "correct its turns"
    fix += ", or chat_template in tokenizer_config.json"
    with judged("the chat template refuses the conversation", fix), bounded():
        yield


@contextmanager
def bounded() -> Iterator[None]:
    """Limit the time and memory of applying a template.

    Raises:
        ModelFault: it takes too long (``core/deadline.py``), or needs more memory than there is.
    """
    late = f"the chat template takes over {TEMPLATE_SECONDS:.0f} s for a conversation: use another"
    try:
        with within(TEMPLATE_SECONDS, ModelFault(late)):
            yield
    except MemoryError as error:
        raise ModelFault("the chat template needs more memory than there is: use another") from error


def _turns(messages: Sequence[Message], in_parts: bool) -> list[dict[str, Any]]:
    turns = [tools.as_turn(message) for message in messages]
    if in_parts:
        turns = [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    return turns


@lru_cache(maxsize=8)  # walking the added tokens takes milliseconds
def _template_of(
    tokenizer: PreTrainedTokenizerBase, source: str, size: int, names: tuple[str, ...]
) -> Template:
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    probe = _turns([Message("user", PLACE), Message("assistant", PLACE)], in_parts=False)
    try:
        with bounded():
            in_parts = PLACE not in tokenizer.apply_chat_template(probe, tokenize=False)
    except ModelFault:
        raise
    except Exception:  # errors of the template are reported when a conversation is written (``apply``)
        in_parts = True
    special = frozenset(added | set(tokenizer.all_special_ids))
    return Template(tokenizer, special, names, in_parts, MARKED.search(source) is not None)
