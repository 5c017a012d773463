"""What may be taken from a stranger's folder: weights, configuration and data, never code."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from components.core.datafiles import COMPRESSIONS, FORMATS, data_suffix, is_sidecar
from components.core.errors import DataError

KEPT = {"model": {".safetensors", ".json", ".txt", ".model", ".tiktoken", ".jinja"}, "dataset": {*FORMATS}}
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack"}
"""Formats that run code when they are loaded, or that our loaders would have to trust."""
CODE_KEYS = {"auto_map", "_attn_implementation_internal", "_experts_implementation_internal", "model_file"}
"""Configuration that makes transformers import code of the repository, some of it past trust_remote_code
(CVE-2026-4372)."""
KERNEL_KEYS = {"attn_implementation", "_attn_implementation", "experts_implementation"}
"""With a slash in the value they name a hub repository of compiled kernels."""


def choose(names: list[str], kind: str) -> list[str]:
    """The names to take; everything else stays behind.

    Raises:
        DataError: nothing to take, or a model without config.json or safetensors.
    """
    if kind == "dataset":
        return _data(names)
    kept = [name for name in names if suffix(name) in KEPT[kind] and not _hidden(name)]
    if not any(suffix(name) == ".safetensors" for name in kept):
        if pickles := [name for name in names if suffix(name) in PICKLES]:
            raise DataError(
                f"weights only as {_short(pickles)}, which can run code when loaded: convert them to "
                "safetensors where you trust them (transformers: save_pretrained), then fetch the result"
            )
        raise DataError(f"no *.safetensors among {_short(names)}: give the folder of a model")
    if "config.json" not in kept:
        raise DataError(f"no config.json among {_short(names)}: give the folder of a whole model")
    return kept


def _data(names: list[str]) -> list[str]:
    """The data files, compressed or not; a single file whatever its name: KFP's objects have no suffix."""
    if len(names) == 1 and suffix(names[0]) in ("", ".txt"):
        return names
    kept = [name for name in names if data_suffix(name) and not is_sidecar(name)]
    if not kept:
        raise DataError(
            f"no data among {_short(names)}: give files that end in {', '.join(FORMATS)}, or those with "
            f"{' or '.join(COMPRESSIONS)}"
        )
    return kept


def unsafe(names: list[str]) -> list[str]:
    """Those that are code or pickles."""
    return [name for name in names if suffix(name) in PICKLES | {".py", ".so", ".sh", ".exe", ".dll"}]


def check_model(folder: Path) -> None:
    """Refuse a model that brings code, is cut short, or has more tokens than embeddings.

    Raises:
        DataError: names the file and what to do.
    """
    for path in sorted(folder.rglob("*config.json")):
        for key, value in _settings(_json(path)):
            if key in CODE_KEYS or (key == "trust_remote_code" and value):
                raise DataError(
                    f"{path.name}: {key!r} asks for code of the repository: use a model without it"
                )
            if key in KERNEL_KEYS and "/" in str(value):
                raise DataError(f"{path.name}: {key} {value!r} is code on the hub: set 'sdpa', or remove it")
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            safe_open(path, framework="numpy")  # reads the header; offsets must fit the file exactly
        except SafetensorError as error:
            raise DataError(f"{path.name} is cut short or broken ({error}): download it again") from error
    _check_shards(folder)
    _check_vocabulary(folder)


def _check_shards(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = _json(index).get("weight_map")
        shards = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else {"no shards"}
        if missing := sorted(shards - {path.name for path in folder.glob("*.safetensors")}):
            raise DataError(f"{index.name} names {_short(missing)}, which is not there: download all shards")


def _check_vocabulary(folder: Path) -> None:
    path, config = folder / "tokenizer.json", _json(folder / "config.json")
    text = config.get("text_config")  # multimodal configurations keep the language model's there
    rows = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    if not path.exists() or rows is None:
        return
    if not isinstance(rows, int):
        raise DataError(f"config.json: vocab_size {rows!r} is not a number: download it again")
    try:
        vocabulary = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # tokenizers raises nothing narrower
        raise DataError(f"{path.name} is not a tokenizer ({error}): download it again") from error
    if (needed := max(vocabulary.values(), default=-1) + 1) > rows:
        raise DataError(
            f"{path.name} has token ids up to {needed - 1}, but config.json's vocab_size is {rows}: "
            "use the tokenizer that belongs to the weights, or resize the embeddings"
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is not JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path.name} is not a JSON object: download it again")
    return value


def _settings(value: object) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth: multimodal configurations nest one model's in another's."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from value.items()
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _short(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
