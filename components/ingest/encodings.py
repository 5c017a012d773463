"""Read raw files as UTF-8: decompress them, and recode them if the encoding is certain."""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from deepcuts.components.core.errors import DataError
from deepcuts.components.ingest import sizes

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
HEAD_BYTES = 65_536
GZIP, ZSTD, ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
MARKS = "‘’“”«»–—…•€°§©®™ \u00a0"
"""Typographic marks with the same byte in all European Windows code pages."""
SHARED = "äöüßéáíóúçâîôëÄÖÜÉÁÍÓÚÇÂÎÔË"
"""Letters with the same byte in cp1250, cp1252 and cp1254."""
ALPHABETS = ("àâæçèéêëîïôœùûüÿ", "áéíóúüñ¡¿ªº", "àèéìíîòóùú", "ãõáâàçéêíóôúüªº", "åäöæøéü", "äöüßé„")
"""French, Spanish, Italian, Portuguese, Nordic, German; no other code page's text fits any of them."""
ENOUGH_LETTERS = 12
QUOTED = re.compile('"[^"]*"')
"""Line feeds within a cell, in files whose lines end with carriage returns."""


class Encoding(NamedTuple):
    name: str
    """For ``bytes.decode``; utf-8 even if some lines are not."""
    cr_only: bool = False
    """Lines end with a bare carriage return, as on old Macs."""


def opened(path: Path, encoding: Encoding) -> BinaryIO:
    """Open the file, decompressed, as UTF-8; a broken archive raises DataError on reading."""
    raw = _decompressed(path)
    if encoding.name == "utf-8" and not encoding.cr_only:
        return raw
    return cast(BinaryIO, io.BufferedReader(_Recoded(raw, encoding), HEAD_BYTES))


def head(path: Path) -> bytes:
    """Return the first bytes, decompressed."""
    with _decompressed(path) as file:
        return file.read(HEAD_BYTES)


def detect(path: Path) -> Encoding:
    """Detect UTF-8, UTF-16 (by its mark or zero bytes), or cp1252 if nothing else is possible.

    Any other file is read as UTF-8, and its bad lines are reported.
    """
    start = head(path)
    utf16 = _utf16(start)
    outside = QUOTED.sub("", start.decode(utf16 or "latin-1", errors="replace"))
    carriage = "\r" in outside and "\n" not in outside
    if utf16:
        return Encoding(utf16, carriage)
    high = _high_bytes(path)
    return Encoding("cp1252" if high and _is_cp1252(high) else "utf-8", carriage)


def _decompressed(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == ZIP:
        raise DataError(f"{path}: a ZIP archive or an Excel workbook: unpack it, or save the sheet as CSV")
    if magic.startswith(GZIP):
        return cast(BinaryIO, _Guarded(path, gzip.open(path, "rb").read))
    if magic == ZSTD:
        return cast(BinaryIO, _Guarded(path, _zstd(path)))
    return path.open("rb")


def _zstd(path: Path) -> Callable[[int], bytes]:
    import pyarrow  # from an extra: the command also checks local data, and may not have it

    stream = pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")

    def read(size: int) -> bytes:
        try:
            return bytes(stream.read(size))
        except pyarrow.ArrowException as error:
            raise OSError(str(error)) from error

    return read


class _Guarded(io.BufferedReader):
    """A decompressing stream that names the file if the archive is broken or unpacks to too much."""

    def __init__(self, path: Path, read: Callable[[int], bytes]) -> None:
        super().__init__(_Raw(path, read), HEAD_BYTES)


class _Raw(io.RawIOBase):
    def __init__(self, path: Path, read: Callable[[int], bytes]) -> None:
        self._path, self._read = path, sizes.bounded(path, read)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        try:
            data = self._read(len(view))
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self._path}: a broken archive ({error}): write it again") from error
        view[: len(data)] = data
        return len(data)


class _Recoded(io.RawIOBase):
    """Recodes another encoding or other line ends to UTF-8 with line feeds."""

    def __init__(self, raw: BinaryIO, encoding: Encoding) -> None:
        self._raw, self._encoding = raw, encoding
        errors = "surrogateescape" if encoding.name == "utf-8" else "replace"
        self._decoder = codecs.getincrementaldecoder(encoding.name)(errors)
        self._errors = errors if encoding.name == "utf-8" else "strict"
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        ended = False
        while not self._ready and not ended:
            piece = self._raw.read(HEAD_BYTES)
            ended = not piece
            text = self._decoder.decode(piece, ended)
            if self._encoding.cr_only:
                text = text.replace("\r", "\n")
            self._ready = text.encode("utf-8", self._errors)
        size = min(len(view), len(self._ready))
        view[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


def _utf16(start: bytes) -> str:
    """Detect UTF-16 or UTF-32 by its mark, or UTF-16 by zeros in every second byte; empty if neither."""
    if start.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if len(start) >= 8:  # the rest may be in any script
        for name, zeros, letters in (("le", start[1:8:2], start[:8:2]), ("be", start[:8:2], start[1:8:2])):
            if not any(zeros) and all(letters):
                return f"utf-16-{name}"
    even, odd = start[0::2].count(0), start[1::2].count(0)
    half = max(1, len(start) // 2)
    if len(start) >= 8 and max(even, odd) > 0.6 * half and min(even, odd) == 0:
        return "utf-16-le" if odd else "utf-16-be"
    return ""


def _high_bytes(path: Path) -> bytes:
    """Return the surroundings of non-ASCII bytes in a file that is not UTF-8; empty if it is."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _decompressed(path) as file:
        try:
            while piece := file.read(1 << 20):
                decoder.decode(piece)
            decoder.decode(b"", True)
            return b""
        except UnicodeDecodeError:
            pass
    with _decompressed(path) as file:
        found, size = [], 0
        while (line := file.readline(1 << 20)) and size < 1 << 20:
            if not line.isascii():
                if re.search(rb"[\xc3-\xf4][\x80-\xbf]", line) and _decodes(line):
                    return b""  # UTF-8 elsewhere, so the other lines are damaged, not in another encoding
                found.append(line)
                size += len(line)
    return b"\n".join(found)


def _decodes(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_cp1252(text: bytes) -> bool:
    """Tell whether every non-ASCII byte can only be cp1252, or is the same in all code pages."""
    try:
        decoded = text.decode("cp1252")
    except UnicodeDecodeError:
        return False
    if re.search(r"[^\W\d_][„…]\w|[^\x00-\x7f\s]{4}", decoded):  # cp850's ä, or words in another script
        return False
    high = {letter for letter in decoded if ord(letter) > 127} - set(MARKS)
    if high <= set(SHARED):
        return True
    letters = sum(letter.isalpha() and ord(letter) > 127 for letter in decoded)
    inside = any({letter.lower() for letter in high} <= set(known) for known in ALPHABETS)
    return inside and letters >= ENOUGH_LETTERS
