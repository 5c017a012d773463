"""Check the files of a model folder without torch, before a library loads them."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from deepcuts.components.core.errors import DataError

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types in which unquantized weights are stored."""
BUFFERS = ("attn.bias", "attn.masked_bias", "position_ids", "inv_freq", "gate.tid2eid")
"""Endings of names in checkpoints that are not weights and may have any type: old buffers, which transformers
drops, and DeepSeek 4's table of experts."""
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
DTYPES = ("auto", "float64", "float32", "float16", "bfloat16", "double", "float", "half")
POSITIVE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "max_position_embeddings",
    "n_embd",
    "n_layer",
    "n_head",
    "n_positions",
)
"""Fields of config.json that are counts; for null the architecture has a default."""
OBJECT, TEXT, TRUTH, NUMBER = dict, str, bool, (int, float)
LARGEST = 2**63
"""Largest whole number in any library; only tokenizer_config.json has 10**30 for "no limit"."""
TOKENS = 2**31
"""Token ids are below this in every library."""
LAYERS, LABELS = 10_000, 100_000
COUNTS = {
    "num_hidden_layers": LAYERS,
    "num_layers": LAYERS,
    "n_layer": LAYERS,
    "n_layers": LAYERS,
    "first_k_dense_replace": LAYERS,
    "num_labels": LABELS,
}
"""Limit for fields of which transformers makes a list or dict before anything else: 10**9 labels took all
memory. The deepest models have 200 layers."""
FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "config.json": {
        "model_type": TEXT,
        "architectures": list,
        "tie_word_embeddings": TRUTH,
        "rope_parameters": OBJECT,
        "rope_scaling": OBJECT,
        "text_config": OBJECT,
        "quantization_config": OBJECT,
        "bos_token_id": (int, list),
        "eos_token_id": (int, list),
        "pad_token_id": int,
        "sliding_window": int,
        "output_attentions": TRUTH,
        "output_hidden_states": TRUTH,
        "use_cache": TRUTH,
        "is_encoder_decoder": TRUTH,
    },
    "generation_config.json": {
        "eos_token_id": (int, list),
        "bos_token_id": (int, list),
        "pad_token_id": int,
        "num_beams": int,
        "num_return_sequences": int,
        "prompt_lookup_num_tokens": int,
    },
    "tokenizer_config.json": {
        "tokenizer_class": TEXT,
        "added_tokens_decoder": OBJECT,
        "chat_template": (str, list, dict),
        "model_max_length": NUMBER,
        "bos_token": (str, dict),
        "eos_token": (str, dict),
        "pad_token": (str, dict),
        "unk_token": (str, dict),
        "additional_special_tokens": list,
        "extra_special_tokens": (dict, list),
    },
    "special_tokens_map.json": {
        "bos_token": (str, dict),
        "eos_token": (str, dict),
        "pad_token": (str, dict),
        "unk_token": (str, dict),
        "additional_special_tokens": list,
    },
    "tokenizer.json": {"model": OBJECT, "added_tokens": list},
    "added_tokens.json": {},
}
"""Types of fields that libraries do not check; null is always allowed."""


class Header(NamedTuple):
    """One tensor in the header of a safetensors file."""

    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def headers(folder: Path) -> dict[str, Header]:
    """Read the header of every tensor in the folder's safetensors files, with a suffix in any case.

    Raises:
        DataError: a file is truncated, broken or empty, or one named by the index is missing.
    """
    found: dict[str, Header] = {}
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".safetensors")
    for path in paths:
        try:
            with safe_open(path, framework="numpy") as file:  # reads the header and checks offsets
                for name in file.keys():  # noqa: SIM118  (safe_open is not a mapping)
                    part = file.get_slice(name)
                    found[name] = Header(path.name, part.get_dtype(), tuple(part.get_shape()))
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path.name} is cut short or broken ({error}): download it again") from error
    if paths and not found:
        raise DataError(f"{paths[0].name} is cut short or broken (it holds no tensor): download it again")
    _check_shards(folder, {path.name for path in paths})
    return found


def check_whole(folder: Path, found: Mapping[str, Header]) -> None:
    """Refuse a folder with both a model and an adapter, and non-float weights in an unquantized model.

    Raises:
        DataError: names the file and what to do.
    """
    if adapters := [name for name in ADAPTER_FILES if (folder / name).exists()]:
        raise DataError(
            f"{folder} holds a model and an adapter ({adapters[0]}), and loading it would train or serve the "
            "adapter: keep one of them, or merge them (peft: merge_and_unload) and use the result"
        )
    if read_object(folder / "config.json").get("quantization_config"):
        return
    for name, header in found.items():
        if header.dtype not in FLOATS and not name.endswith(BUFFERS):
            raise DataError(
                f"{header.file}: {name} is stored as {header.dtype}, weights are one of {', '.join(FLOATS)}: "
                "save the model in a float type, or name its quantization_config in config.json"
            )


def check_fields(folder: Path) -> None:
    """Refuse JSON files of a model with fields of a type or value that no library accepts.

    Raises:
        DataError: a field is invalid; names file and field.
    """
    for name, fields in FIELDS.items():
        if (folder / name).exists():
            value = read_object(folder / name)
            for field, kinds in fields.items():
                _check_type(name, field, value.get(field), kinds)
            if name != "tokenizer_config.json":
                _check_numbers(name, value)
            _check_ends(name, value)
            if name == "config.json":
                _check_config(name, value)
    for path in folder.glob("*.jinja"):
        _check_text(path)
    config = read_object(folder / "config.json") if (folder / "config.json").exists() else {}
    for where, part in (("", config), ("text_config.", config.get("text_config") or {})):
        for field in POSITIVE:
            sizes = part.get(field)  # one per layer in OpenELM and Gemma 3n
            if field == "sliding_window" and part.get("use_sliding_window") is False:
                continue  # Qwen2-MoE's 0 means none
            for size in sizes if isinstance(sizes, list) else [sizes]:
                if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
                    raise DataError(f"config.json: {where}{field} {size!r:.80}: give a whole number above 0")
        for field in ("dtype", "torch_dtype"):
            kind = part.get(field)
            if kind is not None and str(kind).removeprefix("torch.") not in DTYPES:
                raise DataError(
                    f"config.json: {where}{field} {kind!r:.80} is not a type of weights: give one of "
                    + ", ".join(DTYPES)
                )


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        DataError: it is not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_bytes().decode())  # like all libraries: no UTF-16, no byte order mark
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is not JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path.name} is a {type(value).__name__}, not a JSON object: download it again")
    return value


def settings(value: object) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, at any depth: multimodal configurations are nested."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from value.items()
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _check_type(file: str, field: str, value: object, kinds: type | tuple[type, ...]) -> None:
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    good = value is None or (isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)))
    if not good:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise DataError(
            f"{file}: {field} is a {type(value).__name__} ({value!r:.80}), expected {wanted}: correct it, or "
            "download it again"
        )


def _check_text(path: Path) -> None:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 ({error}): download it again") from error


def _check_numbers(file: str, value: object) -> None:
    for field, number in settings(value):
        if isinstance(number, int) and abs(number) >= LARGEST:
            raise DataError(f"{file}: {field} {number:.2e} is out of range: correct it, or download it again")


def _check_ends(file: str, value: Mapping[str, Any]) -> None:
    """Refuse end tokens that no tokenizer accepts; -5 used to fail as our bug only after training."""
    ends = value.get("eos_token_id")
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None and (isinstance(end, bool) or not isinstance(end, int) or not 0 <= end < TOKENS):
            raise DataError(
                f"{file}: eos_token_id {end!r:.80} is not a token id: correct it, or download it again"
            )


def _check_config(file: str, value: object) -> None:
    for field, number in settings(value):
        if isinstance(number, float) and math.isnan(number):
            raise DataError(f"{file}: {field} is NaN: give a number, or download it again")
        most = COUNTS.get(field, 0)
        if field in ("id2label", "label2id") and isinstance(number, dict):
            most, number = LABELS, len(number)
        if field == "attention_types":  # GPT-Neo: [[["global", "local"], 12]]
            most, number = LAYERS, max(_numbers_in(number), default=0)
        if most and isinstance(number, int) and number > most:
            raise DataError(f"{file}: {field} {number:,} is above {most:,}: correct it, or download it again")


def _numbers_in(value: object) -> Iterator[int]:
    """Yield the whole numbers in lists of lists."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, int):
            yield value


def _check_shards(folder: Path, there: set[str]) -> None:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = read_object(index).get("weight_map")
        shards = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else {"no shards"}
        if missing := sorted(shards - there):
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise DataError(
                f"{index.name} names {', '.join(missing[:5])}{more}, which is missing: download all shards"
            )
