"""Write compressed-tensors folders with llmcompressor, formats that vLLM and transformers load."""

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from deepcuts.components.core.long_calls import working
from deepcuts.components.core.progress import ProgressLog
from deepcuts.components.training import calibration
from deepcuts.components.training.quantized import Unsupported, linears, weight_of
from deepcuts.components.training.render import Rendered

with contextlib.redirect_stdout(io.StringIO()):  # its import logs to stdout, where our receipt goes
    from llmcompressor.entrypoints.oneshot import oneshot
    from llmcompressor.logger import LoggerConfig, configure_logger
    from llmcompressor.modifiers import Modifier
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier


class CompressedFormat(NamedTuple):
    """How a linear layer is stored, and how rounding is prepared."""

    weights: dict[str, Any]
    """The weights, in compressed-tensors' terms."""
    activations: dict[str, Any] | None = None
    """The layer's inputs, if they are quantized, too."""
    prepare: Callable[[], Modifier] | None = None
    """Makes the modifier that runs before the weights are rounded."""
    rounding: Callable[..., Modifier] = QuantizationModifier
    group_size: int | None = 1
    """Group size, which must divide a layer's columns; None: the requested one."""
    reads_text: bool = False


INT8 = {"num_bits": 8, "type": "int", "strategy": "channel"}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel"}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group"}
TOKEN = {"strategy": "token", "dynamic": True}
"""One scale per token, computed while serving."""
FP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
FP4 |= dict.fromkeys(("scale_dtype", "zp_dtype"), torch.float8_e4m3fn)
LOCAL = {"dynamic": "local", "observer": "static_minmax"}
"""One scale per tensor from text, and one per group of 16 computed while serving."""
FORMATS = {
    "w8a8": CompressedFormat(INT8, INT8 | TOKEN),
    "smoothquant-w8a8": CompressedFormat(
        INT8, INT8 | TOKEN, partial(SmoothQuantModifier, smoothing_strength=0.8), reads_text=True
    ),  # 0.8: as in llmcompressor's published W8A8 recipes; its default is 0.5. Not tuned here.
    "fp8": CompressedFormat(FP8, FP8 | TOKEN),
    "w4a16": CompressedFormat(INT4, group_size=None),
    "gptq-w4a16": CompressedFormat(INT4, rounding=GPTQModifier, group_size=None, reads_text=True),
    "awq-w4a16": CompressedFormat(
        INT4 | {"symmetric": False}, None, AWQModifier, group_size=None, reads_text=True
    ),
    "nvfp4": CompressedFormat(FP4, FP4 | LOCAL, group_size=16, reads_text=True),
}

FOREIGN = (ValueError, KeyError, RuntimeError, AttributeError, TypeError, NotImplementedError)
"""Errors of llmcompressor on module trees it does not know (Llama 4's experts, OPT's norms)."""

configure_logger(LoggerConfig(console_log_level="ERROR"))


def write(
    model: PreTrainedModel,
    name: str,
    group_size: int,
    data: Sequence[Rendered],
    folder: Path,
    stored: torch.dtype,
) -> list[str]:
    """Quantize the float32 ``model``, loaded from a folder, in place; return the layers left alone.

    Weights are rounded to nearest, or by GPTQ, which corrects each column's error in the next. SmoothQuant
    (Xiao et al. 2023, arXiv 2211.10438) and AWQ (Lin et al. 2024, arXiv 2306.00978) scale channels first.
    These and NVFP4 need ``data``. 4-bit integers have a scale per ``group_size`` columns, NVFP4 per 16;
    layers whose columns it does not divide are left alone. Those, embeddings, lm_head and norms are stored
    as ``stored``.

    Raises:
        Unsupported: the architecture has no ``nn.Linear`` to quantize (GPT-2's Conv1D), or llmcompressor
            does not support it.
    """
    chosen = FORMATS[name]
    check_host(name, data)
    layers = {name: m for name, m in linears(model).items() if isinstance(m, nn.Linear)}
    if not layers:
        raise Unsupported(
            "its blocks have no nn.Linear (GPT-2's Conv1D, Falcon's own), the only layers with such formats"
        )
    group_size = chosen.group_size or group_size
    left = [name for name, layer in layers.items() if weight_of(layer).shape[1] % group_size]
    targets = sorted(layers.keys() - left)
    if not targets:
        raise Unsupported(f"group_size {group_size} divides no layer's columns")
    weights = chosen.weights | ({} if chosen.group_size else {"group_size": group_size})
    group = {"targets": targets, "weights": weights, "input_activations": chosen.activations}
    text: dict[str, Any] = {}
    if chosen.reads_text:
        rows: Any = [
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            for ids in calibration.rows(data, model.device)
        ]
        text = {"dataset": DataLoader(rows, batch_size=None), "num_calibration_samples": len(rows)}
    recipe = [chosen.rounding(config_groups={"linear": group})]
    if chosen.prepare:
        recipe.insert(0, chosen.prepare())
    with working(f"making {name}"), contextlib.redirect_stderr(Bars(name)):  # of every layer
        try:
            oneshot(model=model, recipe=recipe, **text)
        except FOREIGN as error:  # it looks up layers by the names in architectures it knows
            reason = " ".join(str(error).split())[:120]
            raise Unsupported(f"llmcompressor does not support this architecture ({reason})") from error
        for layer, module in model.named_modules():
            for parameter in module.parameters(recurse=False) if layer not in targets else ():
                parameter.data = parameter.data.to(stored)
        model.save_pretrained(folder, save_compressed=True)
    folder.joinpath("recipe.yaml").unlink(missing_ok=True)
    path = folder / "config.json"
    config = json.loads(path.read_bytes())
    config["quantization_config"].pop("sparsity_config", None)  # vLLM 0.24 refuses dense models that have one
    path.write_text(json.dumps(config, indent=2, sort_keys=True))
    return left


class Bars(io.StringIO):
    """Takes llmcompressor's progress bars, one or more for each part of a model, and reports the parts."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name, self._err = name, sys.stderr
        self._progress: ProgressLog | None = None

    def write(self, text: str) -> int:
        """Report a part that begins: ``(3/30): Calibrating:  40%|####      | 26/64``."""
        if found := re.search(r"\((\d+)/(\d+)\): Calibrating", text):
            part, parts = map(int, found.groups())
            unit = f"parts calibrated for {self._name}"
            self._progress = self._progress or ProgressLog(parts, unit, say=self._say, brief=True)
            self._progress(part - 1)
        return len(text)

    def _say(self, text: str) -> None:
        print(text, file=self._err, flush=True)


def check_host(name: str, data: Sequence[Rendered]) -> None:
    """Raise Unsupported if a format needs text but there is none, or hardware this host lacks."""
    if FORMATS[name].reads_text and not data:
        raise Unsupported("there is no text to measure its scales on")
    if FORMATS[name].prepare is AWQModifier and not torch.cuda.is_available():
        raise Unsupported("llmcompressor's AWQ pins memory for a CUDA device, and this host has none")
