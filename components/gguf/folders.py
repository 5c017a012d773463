"""Write model folders with a GGUF file, from a transformers model or a release, and verify them."""

import json
import shutil
import tempfile
from pathlib import Path

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core import files
from deepcuts.components.core.manifest import MANIFEST
from deepcuts.components.core.scorecards import Score
from deepcuts.components.gguf import convert, modelfile, scoring
from deepcuts.components.gguf.convert import NoGguf
from deepcuts.components.gguf.engine import LlamaCpp
from deepcuts.components.training import general_text, models, quantized
from deepcuts.components.training.render import Rendered

CONVERSION_NATS = 0.01
"""Largest change of the loss by F16: SmolLM2's was below 0.001; a wrong rotation changes it by whole nats."""


def write(
    model: Path, tokenizer: PreTrainedTokenizerBase, folder: Path, kind: str, source: Path | None
) -> Path:
    """Write ``model`` to a new ``folder`` as ``kind``, quantized from the GGUF ``source`` if given.

    Raises:
        NoGguf: llama.cpp's tools do not support it.
    """
    folder.mkdir()
    if source:
        convert.requantize(source, folder / convert.FILE, kind)
    else:
        convert.to_gguf(model, folder / convert.FILE)
    convert.complete(model, folder, kind)
    modelfile.write(folder, tokenizer)
    return folder


def check_conversion(worse_by: float) -> None:
    """Raise NoGguf if F16 in llama.cpp differs from the model in transformers."""
    if abs(worse_by) > CONVERSION_NATS:
        raise NoGguf(f"the conversion changed the loss by {worse_by:+.4f} nats per token")


def export(model: Path, folder: Path, kind: str) -> str:
    """Write a released ``model`` to ``folder`` as a GGUF file of ``kind``; return how it was verified.

    Before quantizing, F16 in llama.cpp must score like transformers on general text.

    Raises:
        NoGguf: llama.cpp does not support it, or it is quantized in another format.
    """
    if convert.is_gguf(model):
        return _copy(model, folder, kind)
    if quantized.is_quantized(model):
        raise NoGguf(f"{model} is quantized already: export the model it was made from")
    network, tokenizer = models.load_base(model)
    passages = general_text.passages(general_text.SHIPPED)
    data = [Rendered(row, []) for row in (tokenizer.encode(text) for text in passages)]
    wanted = _mean(general_text.score_network(network.float(), tokenizer, passages))
    with tempfile.TemporaryDirectory() as scratch:
        plain = write(model, tokenizer, Path(scratch) / "F16", "F16", None)
        engine = LlamaCpp(plain)
        scoring.check_vocabulary(engine, tokenizer, data)
        first = _mean(scoring.passage_scores(engine, tokenizer, passages))
        check_conversion(first - wanted)
        if kind == "F16":
            shutil.copytree(plain, folder, dirs_exist_ok=True)
        else:
            smaller = write(model, tokenizer, Path(scratch) / kind, kind, plain / convert.FILE)
            shutil.copytree(smaller, folder, dirs_exist_ok=True)
    last = _mean(scoring.passage_scores(LlamaCpp(folder), tokenizer, passages))
    return (
        f"in llama.cpp F16 is {first - wanted:+.4f} nats per token from transformers on {len(data)} passages "
        f"of general text, {kind} {last - wanted:+.4f}"
    )


def export_adapter(release: Path, folder: Path, as_gguf: bool) -> str:
    """Write only the adapter of a release: for PEFT and vLLM, or as a LoRA file for llama.cpp.

    Raises:
        FileNotFoundError: the release has no adapter.
        NoGguf: llama.cpp's converter does not support it (trained embeddings, DoRA).
    """
    adapter = release / models.ADAPTER
    if not adapter.is_dir():
        raise FileNotFoundError(
            f"{release.name} has no adapter: its model was fully fine-tuned, or is the base"
        )
    base = json.loads((adapter / "base.json").read_bytes())
    if as_gguf:
        with tempfile.TemporaryDirectory() as scratch:
            config = json.loads((release / "config.json").read_bytes())
            config.pop("quantization_config", None)
            (Path(scratch) / "config.json").write_text(json.dumps(config))
            convert.convert_lora(adapter, Path(scratch), folder / "lora.gguf")
    else:
        shutil.copytree(adapter, folder, dirs_exist_ok=True)
    return f"of base {base.get('source', 'unnamed')}, SHA-256 {base['digest']}"


def _copy(model: Path, folder: Path, kind: str) -> str:
    settings = json.loads((model / "config.json").read_bytes()).get("quantization_config") or {}
    if (found := settings.get("type")) != kind:
        raise NoGguf(
            f"the release is {found} already and is not quantized again: give --type {found}, or export the "
            "release it was made from"
        )
    LlamaCpp(model)  # checks that it loads
    kept = shutil.ignore_patterns(MANIFEST, models.ADAPTER)
    shutil.copytree(model, folder, dirs_exist_ok=True, ignore=kept)
    return f"as released, {files.size_bytes(folder / convert.FILE):,} bytes of weights"


def _mean(scores: list[Score]) -> float:
    return sum(one.answer_nats for one in scores) / sum(one.answer_tokens for one in scores)
