"""Read JSON documents in pieces: a list of a million rows takes the memory of one row."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from deepcuts.components.core.errors import DataError
from deepcuts.components.ingest.encodings import BYTE_ORDER_MARK
from deepcuts.components.ingest.rows import MAX_ROW_BYTES, decode

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|"|[][{},]', re.DOTALL)
"""A string, the start of a string longer than the buffer, or punctuation."""
ROWS = re.compile(rb"\s*\[\s*[{\]]")
PIECE_BYTES = 1 << 18
LONGEST_STRING = 64 << 20
"""A longer string is an unclosed quotation mark."""
WHOLE_BYTES = 256 << 20
"""Limit for a document that must be in memory whole, such as a table by columns."""


class TooLarge(DataError):
    """A document above ``WHOLE_BYTES`` that cannot be read in pieces."""


class Document:
    """A JSON document; only brackets and strings are parsed here, readers decode the values.

    Raises:
        DataError: brackets or strings are not closed, or something is missing between them.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._buffer, self._place = file.read(PIECE_BYTES).removeprefix(BYTE_ORDER_MARK), 0
        self._list = self._buffer.lstrip()[:1] == b"["
        self._key_at = -1
        """Start of the last key's value, until it is read."""

    def peek(self) -> bytes:
        """Return the next byte other than white space; empty at the end."""
        while True:
            rest = self._buffer[self._place : self._place + 1]
            if rest and not rest.isspace():
                return rest
            if rest:
                self._place += 1
            elif not self._more():
                return b""

    def value(self, most: int = MAX_ROW_BYTES) -> bytes:
        """Return the next value, undecoded; one above ``most`` bytes is cut one byte after that."""
        if self.peek() in (b"", b",", b"]", b"}"):
            raise self.broken("a value is missing")
        kept, depth = b"", 0
        while True:
            stop, depth, ended = self._scanned(depth)
            kept += self._buffer[self._place : stop][: max(0, most + 1 - len(kept))]
            self._place = stop
            if ended:
                return kept.rstrip()
            if not self._more():
                raise self.broken("it ends too early")

    def elements(self) -> Iterator[bytes]:
        """Yield the values of the list that comes next."""
        self._take(b"[")
        if self.peek() != b"]":
            yield self.value()
            while self.peek() == b",":
                self._take(b",")
                yield self.value()
        self._take(b"]")

    def members(self) -> Iterator[str]:
        """Yield the keys of the object that comes next; values the caller does not read are skipped."""
        self._take(b"{")
        while self.peek() != b"}":
            key = self._key()
            yield key
            if self._key_at == self._place:
                self.value(0)
            if self.peek() != b",":
                break
            self._take(b",")
        self._take(b"}")

    def begins_rows(self) -> bool:
        """Tell whether the next value is a list of objects, or empty."""
        while not (found := ROWS.match(self._buffer, self._place)):
            if self._buffer[self._place :].strip() not in (b"", b"[") or not self._more():
                return False
        return found is not None

    def end(self) -> None:
        """Raise DataError if anything follows."""
        if self.peek():
            raise self.broken("something follows its end")

    def broken(self, why: str) -> DataError:
        """Return an error with the reason ``why``."""
        kind = "list" if self._list else "object"
        return DataError(f"{self._path}: not a JSON {kind} ({why}): correct it, or save it as JSON Lines")

    def _key(self) -> str:
        if self.peek() != b'"':
            raise self.broken("a key is missing")
        while not (found := TOKEN.match(self._buffer, self._place)) or len(found[0]) < 2:
            if not self._more():
                raise self.broken("a key does not end")
        self._place = found.end()
        self._take(b":")
        self.peek()
        self._key_at = self._place
        return str(decode(found[0]))

    def _scanned(self, depth: int) -> tuple[int, int, bool]:
        """Return (end of the scanned part of the buffer, depth there, whether the value ends there)."""
        for token in TOKEN.finditer(self._buffer, self._place):
            mark = token[0]
            if mark in (b"[", b"{"):
                depth += 1
            elif depth == 0 and mark in (b",", b"]", b"}"):
                return token.start(), depth, True
            elif mark in (b"]", b"}"):
                depth -= 1
            elif mark == b'"':
                if len(self._buffer) - token.start() > LONGEST_STRING:
                    raise self.broken(f"a string of more than {LONGEST_STRING >> 20} MB")
                return token.start(), depth, False
        return len(self._buffer), depth, False

    def _take(self, byte: bytes) -> None:
        if self.peek() != byte:
            raise self.broken(f"{byte.decode()} is missing")
        self._place += 1

    def _more(self) -> bool:
        """Read more, at least as much as is buffered, so that a long string is scanned only a few times."""
        left = self._buffer[self._place :]
        piece = self._file.read(max(PIECE_BYTES, len(left)))
        self._key_at -= self._place
        self._buffer, self._place = left + piece, 0
        return bool(piece)


def whole(path: Path, file: BinaryIO) -> object:
    """Decode a document of at most ``WHOLE_BYTES``.

    Raises:
        DataError: it is larger, or not JSON.
    """
    data = file.read(WHOLE_BYTES + 1)
    if len(data) > WHOLE_BYTES:
        raise TooLarge(
            f"{path}: a JSON document that is not a list of rows must be held in memory, and it is above "
            f"{WHOLE_BYTES >> 20} MB: save it as JSON Lines, one row per line"
        )
    return decode(data.removeprefix(BYTE_ORDER_MARK))
