"""Render an Example as token ids, with a mask of the answer tokens to learn."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from deepcuts.components.core import examples
from deepcuts.components.core.errors import DataError, ModelFault, judged
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.training import (
    chat_template,
    faulty_field,
    model_files,
    spans,
    tokenizer_file,
    tools,
)
from deepcuts.components.training.chat_template import Template
from deepcuts.components.training.tokens import Tokens, encode, encode_all, end_token_of

Given = TypeVar("Given")
Made = TypeVar("Made")
TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "config.json",
)
"""Files that define a tokenizer."""


class Rendered(NamedTuple):
    ids: list[int]
    """Token ids; the last is the end token of the last answer (or a passage's last token)."""
    mask: list[int]
    """1 for answer tokens to learn, including end tokens; as long as ``ids``."""


def load_tokenizer(base: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer in the Hugging Face folder ``base``, without the hub or custom code.

    Raises:
        FileNotFoundError: no such folder.
        DataError: it has no tokenizer that transformers can load.
    """
    if not base.is_dir():
        raise FileNotFoundError(f"{base} is not a folder: give it a Hugging Face model folder")
    model_files.check_fields(base)
    tokenizer_file.check_growth(base)
    fix = "add its tokenizer files (tokenizer.json, tokenizer_config.json), or download them again"
    try:
        with judged(f"{base}: the tokenizer does not load", fix):
            return _open(base)
    except DataError as error:
        if (base / tokenizer_file.FILE).exists():
            tokenizer_file.read(base)  # raises if this file is at fault
        faulty_field.blame(error, base, TOKENIZER_FILES, _open)
        raise


def _open(base: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    tokenizer("a b", add_special_tokens=False)  # some faults show only in use
    return tokenizer


class AnswerForm(NamedTuple):
    """How this tokenizer's template writes an answer."""

    lead: str
    """Text between the prompt and the answer's first character: ``<think>\n\n</think>\n\n``, or nothing."""
    end: int
    """The token that ends an answer."""


def render(example: Example, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    r"""Return the token ids of the whole conversation, with a mask of answers and their end tokens.

    With a chat template, its text is tokenised as a whole, as a server does it (``spans.tokens_of``). Without
    one, the text is ``<bos>``, then ``text\n`` for a system or user turn and ``answer<eos>`` for an assistant
    turn, with a newline between an answer and the next turn. Each answer, and the text between two answers,
    is tokenised separately, so the prompt's tokens are the same with and without the answer.

    Plain text is ``<bos>text<eos>``, all of it learned. Turns of weight 0 are not learned.

    Raises:
        DataError: the template refuses this Example or cannot show its tools, or a token crosses the start of
            an answer.
            ValueError: the tokenizer has no end token, so no Example can be rendered.
    """
    (found,) = render_each([example], tokenizer)
    if isinstance(found, DataError):
        raise found
    return found


def render_each(records: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[Rendered | DataError]:
    """Render Examples, tokenising them together; return the error of any that cannot be rendered.

    Raises:
        ValueError, ModelFault: no Example can be rendered.
    """
    template = chat_template.template_of(tokenizer) if tokenizer.chat_template else None

    def begun(example: Example) -> _Pending:
        return _pending(example, template, tokenizer)

    pending = [_caught(begun, record) for record in records]
    found: list[Rendered | DataError] = []
    tokens = _tokenised([one for one in pending if isinstance(one, _Pending)], tokenizer)
    for one in pending:
        found.append(one if isinstance(one, DataError) else _caught(one.finished, next(tokens)))
    return found


def render_prompt(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids before the last answer, ready for generation: a prefix of ``render``'s ids."""
    if example.form:
        return [_first_token(tokenizer)]
    before = example.messages[: chat_template.last_answer(example.messages)]
    if tokenizer.chat_template:
        template = chat_template.template_of(tokenizer)._replace(tools=example.tools)
        return encode(chat_template.prompt_of(before, template), tokenizer)
    texts = [text for text, _ in _segments(before)]
    return _plain(
        before, [encode(text, tokenizer, split_special_tokens=True) for text in texts], tokenizer
    ).ids


def turns_of(example: Example, rendered: Rendered) -> list[Example]:
    """Return the Example, or one per learned answer if its template allows only the last to be learned.

    In each of these, answers before the last have weight 0, so that none is learned twice.
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
    """Move the system turn into the first user turn, for templates without a system role."""
    first, *rest = example.messages
    if first.role != "system" or not rest or rest[0].role != "user":
        return example
    opening = Message("user", f"{first.content}\n\n{rest[0].content}")
    return msgspec.structs.replace(example, messages=(opening, *rest[1:]))


def form_of(tokenizer: PreTrainedTokenizerBase) -> AnswerForm:
    """Find out how the tokenizer's template writes an answer, with a conversation of one question.

    Raises:
        DataError, ValueError: as for ``render``.
    """
    probe = Example("probe", (Message("user", "Question"), Message("assistant", "Answer")))
    lead = ""
    if tokenizer.chat_template:
        lead = chat_template.lead_of(probe.messages, chat_template.template_of(tokenizer))
    return AnswerForm(lead, render(probe, tokenizer).ids[-1])


def answer_text(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase, form: AnswerForm) -> str:
    """Return the text of generated ``tokens``, without special tokens and the template's lead."""
    ids, lead = list(tokens), encode(form.lead, tokenizer) if form.lead else []
    if lead and ids[: len(lead)] == lead:
        ids = ids[len(lead) :]
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    if form.lead.rstrip().endswith("</think>"):  # drop the reasoning before the answer
        text = text.rpartition("</think>")[2]
    return text.strip()


class _Pending(NamedTuple):
    """An Example as texts, and the function that makes it Rendered once they are tokenised."""

    texts: list[str]
    split_special_tokens: bool
    """``</s>`` in them stays text."""
    finish: Callable[[list[Tokens]], Rendered]

    def finished(self, tokens: list[Tokens | DataError]) -> Rendered:
        whole = []
        for one in tokens:
            if isinstance(one, DataError):
                raise one
            whole.append(one)
        ids, mask = self.finish(whole)
        if 1 not in mask:  # an empty passage
            return Rendered(ids, mask)
        end = len(mask) - mask[::-1].index(1)  # drop what follows the last end token (often "\n")
        return Rendered(ids[:end], mask[:end])


def _caught(action: Callable[[Given], Made], value: Given) -> Made | DataError:
    try:
        return action(value)
    except ModelFault:
        raise
    except DataError as error:
        return error


def _tokenised(
    pending: Sequence[_Pending], tokenizer: PreTrainedTokenizerBase
) -> Iterator[list[Tokens | DataError]]:
    """Return the tokens of each Example's texts, in order, with one tokenizer call per kind of text."""
    texts: dict[bool, list[str]] = {True: [], False: []}
    for one in pending:
        texts[one.split_special_tokens] += one.texts
    tokens = {split: iter(encode_all(texts[split], tokenizer, split)) for split in texts}
    for one in pending:
        yield list(islice(tokens[one.split_special_tokens], len(one.texts)))


def _pending(example: Example, template: Template | None, tokenizer: PreTrainedTokenizerBase) -> _Pending:
    messages, text = example.messages, example.messages[-1].content
    if example.form:
        return _Pending([text], True, lambda tokens: _document(example, tokens[0].ids, tokenizer))
    if not any(message.learned for message in messages):
        raise DataError(f"example {example.id!r} has no answer: give it an assistant turn")
    if template:
        return _in_template(example, template._replace(tools=example.tools))
    if tools.has_extras(example):
        raise DataError(
            "a base without a chat template cannot show tools, calls or reasoning: use one that has one"
        )
    texts = [text for text, _ in _segments(messages)]
    return _Pending(texts, True, lambda tokens: _plain(messages, [one.ids for one in tokens], tokenizer))


def _in_template(example: Example, template: Template) -> _Pending:
    texts = [*map(examples.said, example.messages), msgspec.json.encode(example.tools).decode()]
    chat_template.refuse_special_tokens(texts, template.names)
    written = chat_template.written(example.messages, template)

    def finish(tokens: list[Tokens]) -> Rendered:
        ids, mask = spans.tokens_of(written, tokens[0], template)
        if tools.has_extras(example):
            tools.check_shown(example, str(template.tokenizer.decode(ids)))
        return Rendered(ids, mask)

    return _Pending([written.text], False, finish)


def _document(example: Example, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """Render plain text after the first token; a passage, which continues elsewhere, has no end token."""
    ids = ids + ([] if example.form == "passage" else [end_token_of(tokenizer)])
    return Rendered([_first_token(tokenizer), *ids], [0] + [1] * len(ids))


def _first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the first token of a text: ``<bos>``, or the end token, as in GPT-2."""
    bos: int | None = tokenizer.bos_token_id
    return end_token_of(tokenizer) if bos is None else bos


def _plain(
    messages: Sequence[Message], segments: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase
) -> Rendered:
    """Render a conversation without a template from the tokens of its ``_segments``."""
    eos = end_token_of(tokenizer)
    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    mask = [0] * len(ids)
    for (_, answer), tokens in zip(_segments(messages), segments, strict=True):
        ids += tokens + [eos] * (answer is not None)
        mask += [int(answer is not None and answer.learned)] * (len(ids) - len(mask))
    return Rendered(ids, mask)


def _segments(messages: Sequence[Message]) -> Iterator[tuple[str, Message | None]]:
    """Yield (text, answer or None) in order; the text between two answers is one segment."""
    between = ""
    for message in messages:
        if message.role == "assistant":
            yield between, None
            yield message.content, message
            between = "\n"
        else:
            between += message.content + "\n"
    yield between, None
