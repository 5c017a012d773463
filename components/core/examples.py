"""Example: one training record, and its JSONL files."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from components.core import files
from components.core.errors import DataError


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A conversation; the loss is on its assistant turns only."""

    id: str
    messages: tuple[Message, ...]
    label: str | None = None
    """Class of a classification example; equal to the assistant's content there."""
    source: str | None = None
    """Where it came from: file, dataset, intent."""
    gain: float | None = None
    """What training on it is worth (select); higher is better."""
    difficulty: float | None = None
    """How hard it is (curriculum); higher is harder."""
    phase: int = 0
    """Phase of the curriculum it belongs to."""


def read(path: Path) -> list[Example]:
    """The Examples of a JSONL file that a step of this project wrote.

    Raises:
        FileNotFoundError: the file is not there.
        DataError: a line is not an Example (line number and reason), or there is none at all.
    """
    return list(stream(path))


def stream(path: Path) -> Iterator[Example]:
    """As ``read``, one at a time."""
    decoder = msgspec.json.Decoder(Example)
    number = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise DataError(
                    f"{path}:{number}: not an Example ({error}): run ingest on the raw file"
                ) from error
    if number == 0:
        raise DataError(f"{path} is empty: give it at least one Example")


def write(path: Path, records: Iterable[Example]) -> int:
    """Write Examples as JSONL, whole or not at all; returns how many."""
    encoder, count = msgspec.json.Encoder(), 0
    with files.staged(path) as staging, staging.open("wb") as out:
        for count, record in enumerate(records, start=1):  # noqa: B007, it is what we return
            out.write(encoder.encode(record) + b"\n")
    return count


def answer(example: Example) -> str:
    """The last assistant turn: what greedy decoding is compared with."""
    return example.messages[-1].content
