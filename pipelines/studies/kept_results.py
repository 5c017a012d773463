"""Keep the results of a study's trials in one file, so that the study can continue on another machine."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from deepcuts.components.core import files
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.strict import MALFORMED
from deepcuts.pipelines.studies.savings import TrialResult

FILE = "results.jsonl"


class KeptResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the file."""

    inputs: str
    """``inputs_of`` the trial, whatever its arm was called."""
    result: TrialResult


def read(path: Path) -> dict[str, TrialResult]:
    """Read the results kept by their trials' inputs; none if there is no file.

    Raises:
        DataError: it holds something else.
    """
    if not path.exists():
        return {}
    try:
        kept = msgspec.json.Decoder(KeptResult).decode_lines(path.read_bytes())
    except MALFORMED as error:
        raise DataError(f"{path} holds no results of a study ({error}): restore it, or remove it") from error
    return {line.inputs: line.result for line in kept}


def write(path: Path, kept: Mapping[str, TrialResult]) -> None:
    """Write all results, one a line; a crash leaves the file before or after."""
    with files.staged(path) as place:
        place.write_bytes(msgspec.json.Encoder().encode_lines(KeptResult(*pair) for pair in kept.items()))


def inputs_of(arguments: Mapping[str, Any], content_of: Callable[[str], str]) -> str:
    """Identify a trial by its arguments (SHA-256), local files by ``content_of`` their URI, not by place."""
    same = {
        name: content_of(value) if name.endswith("_uri") and f"{value}".startswith("file://") else value
        for name, value in arguments.items()
        if name != "store_uri"
    }
    return hashlib.sha256(msgspec.json.encode(same, order="deterministic")).hexdigest()


def content_of(uri: str) -> str:
    """Return the digest of a file or folder by its ``file://`` URI; takes half a second a gigabyte."""
    return files.digest(Path(unquote(urlsplit(uri).path)))
