"""Compressed-tensors folders by llmcompressor: the formats that vLLM and transformers load."""

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from deepcuts.components.training import calibration
from deepcuts.components.training.quantized import Unsupported, linears, weight_of
from deepcuts.components.training.render import Rendered

with contextlib.redirect_stdout(io.StringIO()):  # its import logs to stdout, where our receipt goes
    from llmcompressor.entrypoints.oneshot import oneshot
    from llmcompressor.logger import LoggerConfig, configure_logger
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier

INT8 = {"num_bits": 8, "type": "int", "strategy": "channel"}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel"}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group"}
WEIGHTS: dict[str, dict[str, Any]] = {"w8a8": INT8, "fp8": FP8, "w4a16": INT4, "gptq-w4a16": INT4}
ACTIVATIONS = {"w8a8", "fp8"}
"""These also quantize what goes into a layer, a scale a token, found while serving."""

configure_logger(LoggerConfig(console_log_level="ERROR"))


def write(
    model: PreTrainedModel,
    scheme: str,
    group_size: int,
    data: Sequence[Rendered],
    folder: Path,
    stored: torch.dtype,
) -> list[str]:
    """Quantize the float32 ``model``, which came from a folder, in place; returns the layers left alone.

    Weights are rounded to nearest, or by GPTQ, which corrects each column's error in the next, on ``data``.
    4-bit weights have a scale every ``group_size`` columns; layers that do not divide by it stay as they
    were. Those, embeddings, lm_head and norms are stored as ``stored``.

    Raises:
        Unsupported: the architecture has no ``nn.Linear`` to quantize (GPT-2's Conv1D).
    """
    layers = {name: m for name, m in linears(model).items() if isinstance(m, nn.Linear)}
    if not layers:
        raise Unsupported("its linear layers are Conv1D, which compressed-tensors has no format for")
    weights = WEIGHTS[scheme]
    left = []
    if weights is INT4:
        weights = weights | {"group_size": group_size}
        left = [name for name, layer in layers.items() if weight_of(layer).shape[1] % group_size]
    group: dict[str, Any] = {"targets": sorted(layers.keys() - left), "weights": weights}
    if scheme in ACTIVATIONS:
        group["input_activations"] = weights | {"strategy": "token", "dynamic": True}
    if not group["targets"]:
        raise Unsupported(f"no layer's columns divide by group_size {group_size}")
    modifier: Any = QuantizationModifier
    text: dict[str, Any] = {}
    if scheme.startswith("gptq"):
        rows: Any = [
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            for ids in calibration.rows(data, model.device)
        ]
        modifier = GPTQModifier
        text = {"dataset": DataLoader(rows, batch_size=None), "num_calibration_samples": len(rows)}
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars of every layer
        oneshot(model=model, recipe=modifier(config_groups={"linear": group}), **text)
        quantized = set(group["targets"])
        for name, module in model.named_modules():
            for parameter in module.parameters(recurse=False) if name not in quantized else ():
                parameter.data = parameter.data.to(stored)
        model.save_pretrained(folder, save_compressed=True)
    folder.joinpath("recipe.yaml").unlink(missing_ok=True)
    path = folder / "config.json"
    config = json.loads(path.read_bytes())
    config["quantization_config"].pop("sparsity_config", None)  # vLLM 0.24 refuses dense models that have one
    path.write_text(json.dumps(config, indent=2, sort_keys=True))
    return left
