"""Hold a model's configuration against its weights before memory is taken for either."""

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
"""For a model without weights (meta device): 2 s for 126 layers, so far above any that has weights."""
PAIR = "they are not a pair; fetch both from the same revision"
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
TABLE_BYTES = 2**30
"""Buffers that no file holds: GPT-Neo's masks are positions squared, 40 GB for 200,000 (26 MB of weights)."""
LARGER = 2
"""A model may take this many times the weights that its files explain; more is a size that nobody saved."""


def load_config(folder: Path) -> Any:
    """Read the model's configuration.

    Raises:
        DataError: transformers cannot make one of config.json; names the field where its type is known.
    """
    model_files.check_fields(folder)
    fix = "download it again, or use a model that transformers ships"
    if methods := [key for key in model_files.read_object(folder / CONFIG) if _is_method(key)]:
        raise DataError(f"{folder}/{CONFIG}: {methods[0]} is a method of transformers: remove it")
    bad = f"{folder}/config.json describes no model that loads"
    with faulty_field.named(folder, (CONFIG,), _read), judged(bad, fix):
        config = _read(folder)
    if config.is_encoder_decoder:
        raise DataError(f"{folder}/config.json: is_encoder_decoder is true: use a model that only decodes")
    return config


def check_sizes(folder: Path) -> Any:
    """Refuse a config.json whose sizes the weights do not have; nothing is allocated. Returns it, read.

    Raises:
        DataError: names a weight with both shapes, or how many weights there are and should be.
    """
    found = model_files.headers(folder)
    model_files.check_whole(folder, found)
    config = load_config(folder)
    late = DataError(f"{folder}/config.json: building it takes over {OUTLINE_SECONDS:.0f} s: use another")
    bad = f"{folder}/config.json describes no model that can be built"
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
    """Refuse a model of which weights are missing, left over, or of another shape (transformers' report).

    Transformers fills missing ones with random numbers and drops those that config.json has no place for.
    Weights that are no numbers are refused as well: in the embedding of a rare token they would show at the
    first save.

    Raises:
        DataError: how many, and the first.
    """
    missing = [*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])]
    _refuse(folder, missing, "are missing or have another shape than config.json says")
    _refuse(folder, found["unexpected_keys"], "have no place in the model that config.json describes")
    check_finite(model.named_parameters(), f"{folder} is damaged or diverged in training: fetch another")
    rates = ((name, buffer) for name, buffer in model.named_buffers() if name.endswith("inv_freq"))
    check_finite(rates, f"{folder}/{CONFIG} says how fast positions turn, rope_parameters: correct it")


def check_finite(weights: Iterable[tuple[str, torch.Tensor]], fix: str) -> None:
    """Refuse weights that are infinite or no numbers: the loss of the step that made them was still finite.

    Raises:
        DataError: names the first, and ``fix``.
    """
    for name, weight in weights:
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise DataError(f"{name} holds values that are infinite or no numbers: {fix}")


def check_saves(folder: Path, config: Any) -> None:
    """Refuse a configuration that loads but that transformers would not save after hours of training.

    Raises:
        DataError: what transformers says.
    """
    with (
        tempfile.TemporaryDirectory() as scratch,
        judged(f"{folder}/config.json cannot be saved", "remove the field, or download it again"),
    ):
        config.save_pretrained(scratch)


def _read(folder: Path) -> Any:
    return AutoConfig.from_pretrained(folder, local_files_only=True)


def _is_method(key: str) -> bool:
    """Return whether a field would replace code: every key becomes an attribute."""
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
    """Refuse Qwen 3.5 and Llama 4 with towers: they load as text alone, so the release would lack them."""
    for part in TOWERS:
        if any(part in name for name in found) and not any(part in name for name in shapes):
            raise DataError(
                f"{folder}: transformers loads this multimodal model as text alone, so it would be released "
                f"without its {part.replace('_', ' ')}: give its text model (AutoModelForCausalLM, then "
                "save_pretrained)"
            )


def _check_layers(config: Any, found: Mapping[str, Header]) -> None:
    """Limit the layers: they are Python objects, even on the meta device; a billion would take all memory."""
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
    """Return the bytes of an element that is no float: I64, U8, BOOL, F8_E4M3."""
    digits = re.search(r"\d+", dtype)
    return max(1, int(digits[0]) // 8) if digits else 1
