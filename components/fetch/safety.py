"""Choose what to fetch from an untrusted folder: weights, configuration and data, never code."""

import re
from pathlib import Path, PurePosixPath

from deepcuts.components.core.datafiles import COMPRESSIONS, FORMATS, data_suffix, is_sidecar
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.keys import checked
from deepcuts.components.training import model_files, tokenizer_file

KEPT = {"model": {".safetensors", ".json", ".txt", ".model", ".tiktoken", ".jinja"}, "dataset": {*FORMATS}}
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack"}
"""Formats that run code on loading, or that our loaders would have to trust."""
TOKENIZERS = {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json"}
LOADABLE = {"model.safetensors", "model.safetensors.index.json"}
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
LOADED = ("deepcuts", "compressed-tensors")
"""Quantizations that our steps load."""
CODE_KEYS = {"auto_map", "_attn_implementation_internal", "_experts_implementation_internal", "model_file"}
"""Settings that make transformers import code from the repository, some despite trust_remote_code
(CVE-2026-4372)."""
KERNEL_KEYS = {"attn_implementation", "_attn_implementation", "experts_implementation"}
"""Settings that name a hub repository of compiled kernels if the value has a slash."""


def choose(names: list[str], kind: str) -> list[str]:
    """Return the names to fetch.

    Raises:
        DataError: there is nothing to fetch, or a model without config.json or safetensors.
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
        if gguf := [name for name in names if suffix(name) == ".gguf"]:
            raise DataError(
                f"weights only as {_short(gguf)}, quantized for llama.cpp: give the original model, "
                "or unpack them (transformers: from_pretrained with gguf_file, then save_pretrained)"
            )
        raise DataError(f"no *.safetensors among {_short(names)}: give the folder of a model")
    if "config.json" not in kept and "adapter_config.json" in kept:
        raise DataError(
            "an adapter, not a model (adapter_config.json without config.json): merge it into its base "
            "(peft: merge_and_unload, then save_pretrained) and give the result"
        )
    if "config.json" not in kept:
        raise DataError(f"no config.json among {_short(names)}: give the folder of a whole model")
    if adapters := [name for name in kept if name in model_files.ADAPTER_FILES]:
        raise DataError(
            f"a model and an adapter ({adapters[0]}) in one folder, and loading it would use the adapter: "
            "keep one of them, or merge them (peft: merge_and_unload) and give the result"
        )
    if not any(name in TOKENIZERS for name in kept):
        raise DataError(
            f"no tokenizer ({', '.join(sorted(TOKENIZERS))}) among {_short(names)}: add the tokenizer files "
            "of the original model"
        )
    if not LOADABLE & {*kept}:
        weights = [name for name in kept if suffix(name) == ".safetensors"]
        raise DataError(
            f"weights only as {_short(weights)}, and transformers looks for {' or '.join(sorted(LOADABLE))}: "
            "give a folder saved by transformers; if only the file name differs, rename it; a "
            "consolidated file has other weight names and needs its publisher's conversion script"
        )
    return _once(kept)


def _once(kept: list[str]) -> list[str]:
    """Leave out second copies of the weights (``consolidated``, ``original/``, ``model.fp16``).

    transformers loads one file, or the shards of one.
    """
    single = "model.safetensors" in kept
    loaded = {"model.safetensors"} if single else {name for name in kept if SHARD.fullmatch(name)}
    if not loaded:
        return kept
    second = {name for name in kept if suffix(name) == ".safetensors"} - loaded
    second |= {"model.safetensors.index.json"} if single else set()
    return [name for name in kept if name not in second]


def check_names(names: list[str]) -> None:
    """Refuse names that no store accepts, or that lead out of the folder.

    Raises:
        DataError: names the first.
    """
    for name in names:
        try:
            checked(name)
        except ValueError as error:
            raise DataError(
                f"the file name {name!r} leads out of its folder, or has a backslash or a control "
                "character: rename it"
            ) from error


def _data(names: list[str]) -> list[str]:
    """Return the data files, compressed or not; a single file may have any name, as in KFP's store."""
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
    """Return the names that are code or pickles."""
    return [name for name in names if suffix(name) in PICKLES | {".py", ".so", ".sh", ".exe", ".dll"}]


def check_model(folder: Path) -> None:
    """Refuse a model that needs code, is truncated, or has more tokens than embeddings.

    Raises:
        DataError: names the file, and says what to do.
    """
    for path in sorted(folder.rglob("*config.json")):
        for key, value in model_files.settings(model_files.read_object(path)):
            if key == "auto_map" and path == folder / "config.json" and _is_stock(folder):
                continue  # code that was left behind and that transformers' class does not need
            if key in CODE_KEYS or (key == "trust_remote_code" and value):
                raise DataError(
                    f"{path.name}: {key!r} needs code from the repository: use a model without it"
                )
            if key in KERNEL_KEYS and "/" in str(value):
                raise DataError(f"{path.name}: {key} {value!r} is code on the hub: set 'sdpa', or remove it")
    model_files.check_fields(folder)
    model_files.check_whole(folder, model_files.headers(folder))
    _check_vocabulary(folder)
    _check_quantization(folder)


def _check_quantization(folder: Path) -> None:
    settings = model_files.read_object(folder / "config.json").get("quantization_config")
    if not settings:
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else settings
    if method not in LOADED:
        raise DataError(
            f"config.json: the weights are quantized ({method}), which is neither trained nor loaded here: "
            "give the original model, or dequantize it where that library runs (transformers: "
            "model.dequantize(), then save_pretrained)"
        )


def _is_stock(folder: Path) -> bool:
    """Tell whether transformers ships a class for the model, so that its own code is not needed."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # takes seconds

    return model_files.read_object(folder / "config.json").get("model_type") in CONFIG_MAPPING_NAMES


def _check_vocabulary(folder: Path) -> None:
    path, config = folder / "tokenizer.json", model_files.read_object(folder / "config.json")
    text = config.get("text_config")  # the language model's, in multimodal configurations
    rows = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    if not path.exists() or rows is None:
        return
    if not isinstance(rows, int):
        raise DataError(f"config.json: vocab_size {rows!r} is not a number: download it again")
    vocabulary = tokenizer_file.read(folder).get_vocab(with_added_tokens=True)
    if (needed := max(vocabulary.values(), default=-1) + 1) > rows:
        raise DataError(
            f"{path.name} has token ids up to {needed - 1}, but config.json's vocab_size is {rows}: "
            "use the tokenizer that belongs to the weights, or resize the embeddings"
        )


def suffix(name: str) -> str:
    """Return the suffix of a name, in lower case."""
    return PurePosixPath(name).suffix.lower()


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _short(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
