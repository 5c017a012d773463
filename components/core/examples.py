"""Example: one training record, and its JSONL files."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from deepcuts.components.core import files
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.strict import MALFORMED

INVISIBLE = re.compile(
    "[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufdd0-\ufdef\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\ufffc\U00013441\U00013442\U00016fe4\U0001d159\U000e0000-\U000e0fff"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000))
    + "]"
)
"""Invisible characters outside category Cf: control characters other than white space, variation selectors,
fillers, blank letters and symbols (braille without dots, an empty hieroglyph, a null note head), characters
that Unicode ignores by default and noncharacters. Other unassigned ones stay: they may be letters in a
newer Unicode than this Python's."""
Role = Literal["system", "user", "assistant", "tool"]


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A function that the assistant calls."""

    name: str
    arguments: dict[str, Any]
    id: str = ""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One turn. A ``tool`` turn is the result of a call."""

    role: Role
    content: str
    reasoning_content: str = ""
    """The assistant's reasoning before its answer; the chat template decides where it goes."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls of an assistant turn; its content may then be empty."""
    tool_call_id: str = ""
    """In a tool turn: id of the call it answers."""
    name: str = ""
    """In a tool turn: name of the function called."""
    weight: Literal[0, 1] = 1
    """0 masks an assistant turn: it is context only and carries no loss."""

    @property
    def learned(self) -> bool:
        """Tell whether the turn is an answer that carries loss."""
        return self.role == "assistant" and self.weight == 1


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A conversation, with the loss on assistant turns, or plain text, with the loss everywhere."""

    id: str
    messages: tuple[Message, ...]
    """For plain text, a single assistant turn."""
    form: Literal["text", "passage"] | None = None
    """None for a conversation. ``text`` is rendered without a chat template; a ``passage`` is text that
    continues in another example, so it has no end token."""
    tools: tuple[dict[str, Any], ...] = ()
    """Functions that the assistant may call, as JSON schemas in OpenAI's form."""
    tokens: int = 0
    """Length in tokens, as counted by ingest; 0 if not counted."""
    label: str | None = None
    """Class in a classification example; equal to the assistant's content."""
    source: str | None = None
    """Where it came from: file, dataset, intent."""
    gain: float | None = None
    """Estimated value for training (select); higher is better."""
    difficulty: float | None = None
    """Difficulty (curriculum); higher is harder."""
    phase: int = 0
    """Its phase of the curriculum."""


def read(path: Path) -> list[Example]:
    """Return the Examples in a JSONL file written by one of our steps.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: a line is not an Example (line number and reason), or the file is empty.
    """
    return list(stream(path))


def stream(path: Path) -> Iterator[Example]:
    """Yield what ``read`` returns, one Example at a time."""
    with path.open("rb") as lines:
        number = 0
        for number, example in enumerate(decoded(lines, str(path)), start=1):  # noqa: B007
            yield example
    if number == 0:
        raise empty(path)


def decoded(lines: Iterable[bytes], where: str, first: int = 1) -> Iterator[Example]:
    """Yield the Examples in ``lines`` of the file ``where``, the first of which has that number."""
    decoder = msgspec.json.Decoder(Example)
    for number, line in enumerate(lines, start=first):
        try:
            yield decoder.decode(line)
        except MALFORMED as error:
            raise DataError(
                f"{where}:{number}: not an Example ({error}): run ingest on the raw file"
            ) from error


def empty(path: Path) -> DataError:
    """Return the error for a file without Examples."""
    return DataError(f"{path} is empty: give it at least one Example")


def write(path: Path, records: Iterable[Example]) -> int:
    """Write Examples as JSONL, atomically; return how many."""
    encoder, count = msgspec.json.Encoder(), 0
    with files.staged(path) as staging, staging.open("wb") as out:
        for count, record in enumerate(records, start=1):  # noqa: B007, it is the return value
            out.write(encoder.encode(record) + b"\n")
    return count


def answer(example: Example) -> str:
    """Return the last assistant turn, the reference for greedy decoding."""
    return example.messages[-1].content


def plain(text: str) -> str:
    """Normalize text for comparison: NFKC, case folded, white space collapsed, invisible characters removed.

    Invisible are Unicode's format characters (category Cf: zero-width space and joiner, soft hyphen,
    direction marks) and ``INVISIBLE``. Punctuation and digits stay: 3.5 is not 35.
    """
    text = INVISIBLE.sub("", text)
    if not text.isascii():
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
        # NFKC again: a joiner had kept a letter and its accent apart, and folding may separate them
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(text.casefold().split())


def said(message: Message) -> str:
    """Return all text of a turn: reasoning, content and calls."""
    calls = [msgspec.json.encode(call, order="deterministic").decode() for call in message.tool_calls]
    return " ".join(part for part in (message.reasoning_content, message.content, *calls) if part)
