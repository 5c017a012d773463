"""Make releases, written by transformers 5, readable for servers with older versions."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from deepcuts.components.publish import read_by_4

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Names of the number of experts in different versions and types."""
NEOX = {"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"}


def add_older_keys(folder: Path) -> list[str]:
    """Add the keys that transformers 4.57 reads in place of newer ones; return the names added.

    A key that would change how version 5 reads the folder is not added.
    """
    added = _older_config(folder)
    path = folder / "tokenizer_config.json"
    if path.exists():
        settings = json.loads(path.read_bytes())
        if settings.get("tokenizer_class") == "TokenizersBackend":  # a class of version 5
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
            added.append("tokenizer_class")
        if isinstance(settings.get("extra_special_tokens"), list):  # 4.57 expects a dict there
            settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
            added.append("additional_special_tokens")
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False))
    return added


def describe(folder: Path, added: list[str]) -> str:
    """List the programs that load the release, for its card."""
    config = json.loads((folder / "config.json").read_bytes())
    wrote = f"written by transformers {config.get('transformers_version', 'unknown')}"
    method = (config.get("quantization_config") or {}).get("quant_method", "")
    if method == "gguf":
        kind = config["quantization_config"].get("type", "")
        return (
            f"llama.cpp's server, Ollama and tools built on them (GGUF, {kind}); deepcuts chat and evaluate"
        )
    if method:
        return f"transformers 5 and vLLM with {method}; {wrote}"
    return f"transformers 5, and vLLM, SGLang and TGI if they know the type; {wrote}, {_older(config, added)}"


def _older(config: dict[str, Any], added: list[str]) -> str:
    if lost := sorted(name for name, value in _rotary(config).items() if config.get(name) != value):
        return f"and not for 4.57, which would miss {', '.join(lost)}"
    keys = "with the keys of 4.57" if added else "no older keys needed"
    return f"{keys}: {read_by_4.words(config.get('model_type', ''))}"


def _older_config(folder: Path) -> list[str]:
    path = folder / "config.json"
    published = path.read_bytes()
    config, wanted, added = json.loads(published), _read(folder), []
    for name, value in (_rotary(config) | _experts(config) | _dtype(config)).items():
        if config.get(name) == value:
            continue
        path.write_text(json.dumps(config | {name: value}, indent=2, sort_keys=True))
        found = _read(folder)
        if all(found.get(key) == said for key, said in wanted.items()):
            config[name] = value
            added.append(name)
    path.write_bytes(json.dumps(config, indent=2, sort_keys=True).encode() if added else published)
    return sorted(added)


def _read(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
    return values


def _rotary(config: dict[str, Any]) -> dict[str, Any]:
    """Return ``rope_theta``, ``rope_scaling`` and ``partial_rotary_factor``, or GPT-NeoX's names for them.

    Gemma 3 has special old names for its two kinds of layers. Version 5 reads ``rope_scaling`` as its
    ``rope_parameters``, so the base of the rotation is written into both.
    """
    rotary = config.get("rope_parameters")
    full = rotary.get("full_attention", rotary) if isinstance(rotary, dict) else None
    if not isinstance(rotary, dict) or not isinstance(full, dict):
        return {}
    found = {name: full[name] for name in ("rope_theta", "partial_rotary_factor") if name in full}
    if config.get("model_type") == "gpt_neox":
        found |= {name: full[new] for name, new in NEOX.items() if new in full}
    if full.get("rope_type", "default") != "default":
        three = {"type": "longrope"} | {name: full.get(name) for name in ("short_factor", "long_factor")}
        found["rope_scaling"] = three if config["model_type"] == "phi3" else full  # phi3 refuses other fields
    sliding = rotary.get("sliding_attention")
    if isinstance(sliding, dict) and "rope_theta" in sliding:
        found["rope_local_base_freq"] = sliding["rope_theta"]
    return found


def _experts(config: dict[str, Any]) -> dict[str, Any]:
    """Return the number of experts under every name that the type uses."""
    kind = config.get("model_type")
    names: dict[str, str] = CONFIG_MAPPING[kind].attribute_map if kind in CONFIG_MAPPING else {}
    return {old: config[new] for old, new in names.items() if old in EXPERTS and new in config}


def _dtype(config: dict[str, Any]) -> dict[str, Any]:
    return {"torch_dtype": config["dtype"]} if "dtype" in config else {}
