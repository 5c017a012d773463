"""Read and check tokenizer.json without transformers."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from deepcuts.components.core.errors import DataError, judged
from deepcuts.components.training import faulty_field, model_files

FILE = "tokenizer.json"
LARGEST_ID = 2**32 - 1
GROWTH = 1000
"""Published tokenizers replace a character by one to five others."""
VOCABULARIES = {"BPE": dict, "WordPiece": dict, "WordLevel": dict, "Unigram": list}
"""By ``model.type``, which old files do not have."""


def read(folder: Path) -> Tokenizer:
    """Read the tokenizer in ``folder``.

    Raises:
        DataError: it is not a tokenizer; names the field, or line and column.
    """
    check_growth(folder)
    try:
        with judged(f"{FILE} is not a tokenizer", "download it again"):
            return _read(folder)
    except DataError as error:
        for place, wrong in _faults(model_files.read_object(folder / FILE)):
            raise DataError(f"{FILE}: {place}: {wrong}: download it again") from error
        faulty_field.blame(error, folder, (FILE,), _read)
        raise


def check_growth(folder: Path) -> None:
    """Refuse steps that together make a text over GROWTH times as long; three can take all memory.

    Raises:
        DataError: they do; names the field.
    """
    path = folder / FILE
    value = model_files.read_object(path) if path.exists() else {}
    for field in ("normalizer", "decoder"):
        growth, pending = 1.0, [value.get(field)]
        while pending:
            match pending.pop():
                case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                    growth *= max(1.0, len(new) / max(1, len(old)))
                case {"type": "Replace", "content": str(new)}:
                    growth *= max(1, len(new))
                case dict() as step:
                    pending += step.values()
                case list() as steps:
                    pending += steps
        if growth > GROWTH:
            raise DataError(
                f"{FILE}: {field} makes a text up to {growth:.2g} times as long, over {GROWTH}: correct it"
            )


def _read(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / FILE))


def _faults(value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (field, problem) for entries of the vocabulary, the merges and the added tokens.

    The library only names line and column, and a file of a million entries is usually one line.
    """
    model = value.get("model")
    model = model if isinstance(model, dict) else {}
    vocabulary, merges = model.get("vocab"), model.get("merges", [])
    kind = VOCABULARIES.get(str(model.get("type")), (dict, list))
    if not isinstance(vocabulary, kind):
        yield (
            "model.vocab",
            f"{_shown(vocabulary)} is not a vocabulary of model.type {_shown(model.get('type'))}",
        )
    if not isinstance(merges, list):
        yield "model.merges", f"{_shown(merges)} is not a list"
    elif isinstance(vocabulary, dict):
        yield from _ids(vocabulary)
        yield from _merges(merges, vocabulary, model)
    if isinstance(vocabulary, list):
        for number, piece in enumerate(vocabulary):
            if not _is_piece(piece):
                yield f"model.vocab[{number}]", f"{_shown(piece)} is not a pair of a token and its score"
    added = value.get("added_tokens")
    for number, token in enumerate(added if isinstance(added, list) else ()):
        if not isinstance(token, dict):
            yield f"added_tokens[{number}]", f"{_shown(token)} is not an object"
        elif not _is_id(token.get("id")):
            yield f"added_tokens[{number}].id", _no_id(token.get("id"))
        elif not isinstance(token.get("content"), str):
            yield f"added_tokens[{number}].content", f"{_shown(token.get('content'))} is not text"


def _ids(vocabulary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for token, number in vocabulary.items():
        if not _is_id(number):
            yield f"model.vocab[{_shown(token)}]", _no_id(number)


def _merges(
    merges: list[Any], vocabulary: dict[str, Any], model: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield merges that are not two tokens, not in the form of the first, or of unknown tokens."""
    skipped = len(str(model.get("continuing_subword_prefix") or ""))
    for number, merge in enumerate(merges):
        if isinstance(merge, str) and merge.startswith("#version"):
            continue
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if type(merge) is not type(merges[0]) or not _is_pair(pair):
            yield f"model.merges[{number}]", f"{_shown(merge)} is not a pair of tokens like the first one"
            continue
        for token in (*pair, pair[0] + pair[1][skipped:]):
            if token not in vocabulary:
                yield f"model.merges[{number}]", f"{_shown(token)} is not in model.vocab"


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(token, str) for token in value)


def _is_piece(value: object) -> bool:
    match value:
        case [str(), int() | float() as score]:
            return not isinstance(score, bool) and math.isfinite(score)
        case _:
            return False


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_ID


def _no_id(value: object) -> str:
    return f"{_shown(value)} is not a whole number from 0 to {LARGEST_ID}"


def _shown(value: object) -> str:
    """Return a value as JSON, so that control characters show as one visible line."""
    text = json.dumps(value)  # escapes non-ASCII characters
    return text if len(text) <= 80 else text[:77] + "..."
