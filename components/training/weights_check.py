"""Check a model's configuration against its weights before allocating memory for either."""

import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from deepcuts.components.core.deadline import within
from deepcuts.components.core.errors import DataError, judged
from deepcuts.components.training import faulty_field, model_files
from deepcuts.components.training.blocks import TOWERS
from deepcuts.components.training.model_files import FLOATS, Header

CONFIG = "config.json"
OUTLINE_SECONDS = 120.0
"""Time limit for building a model on the meta device; 126 layers take 2 s."""
PAIR = "they do not match; fetch both from the same revision"
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
TABLE_BYTES = 2**30
"""Limit of buffers that are in no file; GPT-Neo's masks for 200,000 positions take 40 GB (weights 26 MB)."""
LARGER = 2
"""A model may have this many times the weights in its files; beyond that its config does not match them."""


def load_config(folder: Path) -> Any:
    """Read the model's configuration.

    Raises:
        DataError: config.json is not a valid configuration; names the field if it can be found.
    """
    model_files.check_fields(folder)
    fix = "download it again, or use a model that transformers ships"
    if methods := [key for key in model_files.read_object(folder / CONFIG) if _is_method(key)]:
        raise DataError(f"{folder}/{CONFIG}: {methods[0]} is a method of transformers: remove it")
    bad = f"{folder}/config.json does not load"
    with faulty_field.named(folder, (CONFIG,), _read), judged(bad, fix):
        config = _read(folder)
    if config.is_encoder_decoder:
        raise DataError(f"{folder}/config.json: is_encoder_decoder is true: use a model that only decodes")
    return config


def check_sizes(folder: Path) -> Any:
    """Refuse a config.json whose sizes do not match the weights, without allocating; return the config.

    Raises:
        DataError: names a weight with both shapes, or the actual and expected number of weights.
    """
    found = model_files.headers(folder)
    model_files.check_whole(folder, found)
    config = load_config(folder)
    late = DataError(f"{folder}/config.json: building it takes over {OUTLINE_SECONDS:.0f} s: use another")
    bad = f"{folder}/config.json describes a model that cannot be built"
    named = faulty_field.named(folder, (CONFIG,), lambda trial: _outline(_read(trial), found))
    with named, within(OUTLINE_SECONDS, late), judged(bad, "download it again"):
        outline = _outline(config, found)
        shapes = {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}
        wanted = sum(parameter.numel() for parameter in outline.parameters())
        tables = sum(buffer.nbytes for buffer in outline.buffers())
    _check_towers(folder, found, shapes)
    for name, header in found.items():
        if header.dtype in FLOATS and name in shapes and shapes[name] != header.shape:
            raise DataError(
                f"{folder}: {name} has shape {_shape(header.shape)} in {header.file}, {_shape(shapes[name])} "
                f"by config.json: {PAIR}"
            )
    saved = sum(h.size if h.dtype in FLOATS else 8 * h.size * _bytes(h.dtype) for h in found.values())
    if wanted > LARGER * saved:
        raise DataError(
            f"{folder}: config.json describes {wanted:,} weights, its safetensors hold {saved:,}: {PAIR}"
        )
    if tables > max(TABLE_BYTES, 4 * saved):
        raise DataError(
            f"{folder}: the tables of positions and masks that config.json describes take {tables:,} bytes: "
            "correct its number of positions"
        )
    return config


def check_loaded(folder: Path, found: Mapping[str, Any], model: torch.nn.Module) -> None:
    """Refuse a model with missing, surplus or wrongly shaped weights, by transformers' report.

    Transformers fills missing weights with random numbers and drops surplus ones. Non-finite weights are
    refused, too: in the embedding of a rare token they would be noticed only at the first save.

    Raises:
        DataError: says how many, and names the first.
    """
    missing = [*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])]
    _refuse(folder, missing, "are missing or differ in shape from config.json")
    _refuse(folder, found["unexpected_keys"], "are not in the model that config.json describes")
    check_finite(model.named_parameters(), f"{folder} is damaged or diverged in training: fetch another")
    rates = ((name, buffer) for name, buffer in model.named_buffers() if name.endswith("inv_freq"))
    check_finite(rates, f"{folder}/{CONFIG} has wrong rope_parameters: correct them")


def check_finite(weights: Iterable[tuple[str, torch.Tensor]], fix: str) -> None:
    """Refuse infinite or NaN weights; the loss of the step that made them was still finite.

    Raises:
        DataError: names the first one, with ``fix``.
    """
    for name, weight in weights:
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise DataError(f"{name} has infinite or NaN values: {fix}")


def check_saves(folder: Path, config: Any) -> None:
    """Refuse a configuration that loads but that transformers would refuse to save after training.

    Raises:
        DataError: transformers' message.
    """
    with (
        tempfile.TemporaryDirectory() as scratch,
        judged(f"{folder}/config.json cannot be saved", "remove the field, or download it again"),
    ):
        config.save_pretrained(scratch)


def _read(folder: Path) -> Any:
    return AutoConfig.from_pretrained(folder, local_files_only=True)


def _is_method(key: str) -> bool:
    """Tell whether a field would replace code, as every key becomes an attribute."""
    return callable(getattr(PreTrainedConfig, key, None))


def _outline(config: Any, found: Mapping[str, Header]) -> Any:
    """Build the model without memory for its weights."""
    _check_layers(config, found)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _refuse(folder: Path, names: Iterable[str], what: str) -> None:
    if wrong := sorted(set(names)):
        raise DataError(f"{folder}: {len(wrong)} weights {what}, first {wrong[0]}: fetch it again")


def _check_towers(folder: Path, found: Iterable[str], shapes: Iterable[str]) -> None:
    """Refuse Qwen 3.5 and Llama 4 with towers: only the text part is loaded, so a release would lack them."""
    for part in TOWERS:
        if any(part in name for name in found) and not any(part in name for name in shapes):
            raise DataError(
                f"{folder}: transformers loads only the text part of this model, so it would be released "
                f"without its {part.replace('_', ' ')}: give its text model (AutoModelForCausalLM, then "
                "save_pretrained)"
            )


def _check_layers(config: Any, found: Mapping[str, Header]) -> None:
    """Limit the layers: they are Python objects even on the meta device, and a billion would fill memory."""
    for part in (config, config.get_text_config()):
        for field in LAYERS:
            value = getattr(part, field, None)
            if isinstance(value, int) and value > len(found):
                raise DataError(
                    f"config.json: {field} {value:,} with {len(found):,} weights in the safetensors: {PAIR}"
                )


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _bytes(dtype: str) -> int:
    """Return the bytes per element of a dtype such as I64, U8, BOOL or F8_E4M3."""
    digits = re.search(r"\d+", dtype)
    return max(1, int(digits[0]) // 8) if digits else 1
