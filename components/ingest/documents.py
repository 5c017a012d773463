"""JSON documents read piece by piece: a list of a million rows takes the memory of one row."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from deepcuts.components.core.errors import DataError
from deepcuts.components.ingest.encodings import BYTE_ORDER_MARK
from deepcuts.components.ingest.rows import MAX_ROW_BYTES, decode

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|"|[][{},]', re.DOTALL)
"""A string, the start of one that is longer than the piece at hand, or what divides values."""
ROWS = re.compile(rb"\s*\[\s*[{\]]")
PIECE_BYTES = 1 << 18
LONGEST_STRING = 64 << 20
"""A longer one is a quotation mark that nothing closes."""
WHOLE_BYTES = 256 << 20
"""Of a document that has to be held whole, as a table by columns has."""


class TooLarge(DataError):
    """A document that cannot be read piece by piece, above ``WHOLE_BYTES``."""


class Document:
    """A JSON document; only its brackets and strings are looked at here, values are decoded by their readers.

    Raises:
        DataError: brackets or strings do not close, or something is missing between them.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._buffer, self._place = file.read(PIECE_BYTES).removeprefix(BYTE_ORDER_MARK), 0
        self._list = self._buffer.lstrip()[:1] == b"["
        self._key_at = -1
        """Where the value of the last key begins, until it is read."""

    def peek(self) -> bytes:
        """Return the next byte that is no white space; empty at the end."""
        while True:
            rest = self._buffer[self._place : self._place + 1]
            if rest and not rest.isspace():
                return rest
            if rest:
                self._place += 1
            elif not self._more():
                return b""

    def value(self, most: int = MAX_ROW_BYTES) -> bytes:
        """Return the next value, not decoded; one above ``most`` bytes is cut one byte behind that."""
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
        """Return the values of the list that comes next."""
        self._take(b"[")
        if self.peek() != b"]":
            yield self.value()
            while self.peek() == b",":
                self._take(b",")
                yield self.value()
        self._take(b"]")

    def members(self) -> Iterator[str]:
        """Yield the keys of the object that comes next; a value that nobody reads is passed over."""
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
        """Return whether the next value is a list of objects, or empty."""
        while not (found := ROWS.match(self._buffer, self._place)):
            if self._buffer[self._place :].strip() not in (b"", b"[") or not self._more():
                return False
        return found is not None

    def end(self) -> None:
        """Raise DataError unless nothing follows."""
        if self.peek():
            raise self.broken("something follows its end")

    def broken(self, why: str) -> DataError:
        """Return the error that says ``why``."""
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
        """Return (how far the buffer was scanned, depth there, whether the value ends there)."""
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
        """Read on, as much again as is left over: a long string is looked at a few times, not a thousand."""
        left = self._buffer[self._place :]
        piece = self._file.read(max(PIECE_BYTES, len(left)))
        self._key_at -= self._place
        self._buffer, self._place = left + piece, 0
        return bool(piece)


def whole(path: Path, file: BinaryIO) -> object:
    """Return the document decoded, if it is no larger than ``WHOLE_BYTES``.

    Raises:
        DataError: it is larger, or not JSON.
    """
    data = file.read(WHOLE_BYTES + 1)
    if len(data) > WHOLE_BYTES:
        raise TooLarge(
            f"{path}: a JSON document that is no list of rows has to be held in memory, and is above "
            f"{WHOLE_BYTES >> 20} MB: save it as JSON Lines, a row a line"
        )
    return decode(data.removeprefix(BYTE_ORDER_MARK))
