"""Which programs read a release: transformers 5 wrote it, and servers with older ones look for other keys."""

import json
from pathlib import Path
from typing import Any

OWN = "deepcuts"
"""Quantization that no other tool loads."""


def add_older_keys(folder: Path) -> list[str]:
    """Write what transformers 4.57 reads in place of newer keys, next to them; returns the names written.

    Version 5 reads the folder as before: the keys say the same twice.
    """
    added = _older_config(folder / "config.json")
    path = folder / "tokenizer_config.json"
    if path.exists():
        settings = json.loads(path.read_bytes())
        if settings.get("tokenizer_class") == "TokenizersBackend":  # a class of version 5
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
            added.append("tokenizer_class")
        if isinstance(settings.get("extra_special_tokens"), list):  # 4.57 takes a dict by that name
            settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
            added.append("additional_special_tokens")
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False))
    return added


def describe(folder: Path, added: list[str]) -> str:
    """Programs that load the release, for its card."""
    config = json.loads((folder / "config.json").read_bytes())
    wrote = f"written by transformers {config.get('transformers_version', 'unknown')}"
    method = (config.get("quantization_config") or {}).get("quant_method", "")
    if method == OWN:
        return f"deepcuts chat and evaluate only (deepcuts' own {method} format); {wrote}"
    older = "with the keys of 4.57, which servers on that version read" if added else "no older keys needed"
    if method:
        return f"transformers 5 and vLLM with {method}; {wrote}"
    return f"transformers 5, and vLLM, SGLang and TGI where they know the type; {wrote}, {older}"


def _older_config(path: Path) -> list[str]:
    config = json.loads(path.read_bytes())
    older = _rotary(config.get("rope_parameters")) | _dtype(config)
    older = {name: value for name, value in older.items() if name not in config}
    if older:
        path.write_text(json.dumps(config | older, indent=2, sort_keys=True))
    return sorted(older)


def _rotary(rotary: Any) -> dict[str, Any]:
    """Return ``rope_theta`` and ``rope_scaling``; of Gemma 3's two kinds of layers, its own old names."""
    if not isinstance(rotary, dict):
        return {}
    full = rotary.get("full_attention", rotary)
    found = {"rope_theta": full["rope_theta"]} if isinstance(full, dict) and "rope_theta" in full else {}
    sliding = rotary.get("sliding_attention")
    if isinstance(sliding, dict) and "rope_theta" in sliding:
        found["rope_local_base_freq"] = sliding["rope_theta"]
    return found


def _dtype(config: dict[str, Any]) -> dict[str, Any]:
    return {"torch_dtype": config["dtype"]} if "dtype" in config else {}
