"""Choose the formats to try by where the model will be served, and report unsupported ones."""

from collections.abc import Sequence
from pathlib import Path

from deepcuts.components.core import strict
from deepcuts.components.gguf import convert
from deepcuts.components.gguf.convert import NoGguf, NotInstalled

GGUF = {"gguf-q8_0": "Q8_0", "gguf-q4_k_m": "Q4_K_M"}
"""llama.cpp's name of the format, by candidate."""
SERVED_BY = {"cpu": tuple(GGUF), "gpu": ("fp8", "w8a8", "gptq-w4a16")}
"""Formats loaded by servers on that kind of node: llama.cpp, and vLLM."""
AUTO, OFF = "auto", "off"
"""Given alone in place of formats: those of ``serve_on``, or none."""


def wanted(candidates: Sequence[str], serve_on: str) -> list[str]:
    """Return the formats to try.

    Raises:
        ValueError: ``serve_on`` is neither cpu nor gpu.
    """
    if serve_on not in SERVED_BY:
        raise ValueError(strict.unknown_key("serve_on", serve_on, tuple(SERVED_BY)))
    named = {AUTO: list(SERVED_BY[serve_on]), OFF: []}
    return named[candidates[0]] if len(candidates) == 1 and candidates[0] in named else list(candidates)


def foresee(base: Path, candidates: Sequence[str], serve_on: str) -> list[str]:
    """Return notes on what would be refused after training; empty if all formats are supported.

    Raises:
        ValueError: a GGUF format is requested by name, but llama.cpp does not know the base's architecture or
            vocabulary.
    """
    asked = any(name in GGUF for name in wanted(candidates, serve_on))
    if not asked or not any(base.glob("*.safetensors")):  # a config alone can be planned for, too
        return []
    try:
        convert.check_convertible(base)
    except NotInstalled as error:
        return [f"the model is released as it was trained: {error}"]
    except NoGguf as error:
        if AUTO in candidates:
            return [f"the model is released as it was trained: {error}"]
        raise ValueError(
            f"quantize_candidates {list(candidates)}: {error}; give [off], or formats of serve_on gpu"
        ) from error
    return []
