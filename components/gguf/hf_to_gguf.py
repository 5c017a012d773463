"""Run llama.cpp's converter on a Hugging Face folder, in a separate process started by ``convert.py``.

    python hf_to_gguf.py CHECKOUT FOLDER FILE.gguf [--vocab-only]

``CHECKOUT`` is llama.cpp's source tree, with modules ``conversion`` and ``gguf``. If the converter does not
support the model, the last line on stderr says why and the exit status is 1.
"""

import json
import sys
from pathlib import Path
from typing import Any

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
PRE_TOKENIZERS = {
    "gpt-2": [BYTE_LEVEL],
    "smollm": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
}
"""llama.cpp's names of pre-tokenizers. The converter recognises published vocabularies by a hash of one
tokenized text; a custom vocabulary has another hash but the same regular expression."""


def tokenizer_of(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the content of tokenizer.json, and the steps of its pre-tokenizer."""
    described = json.loads((folder / "tokenizer.json").read_bytes())
    given = described.get("pre_tokenizer") or {}
    return described, given.get("pretokenizers", [given])


def pre_tokenizer(folder: Path) -> str:
    """Return llama.cpp's name for the folder's pre-tokenizer, from its structure.

    Raises:
        NotImplementedError: it is not one of ``PRE_TOKENIZERS``.
    """
    described, steps = tokenizer_of(folder)
    plain = [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
    for name, wanted in PRE_TOKENIZERS.items():
        if plain == wanted and not described.get("normalizer"):
            return name
    kinds = ", ".join(str(step.get("type", "none")) for step in steps)
    raise NotImplementedError(f"its pre-tokenizer ({kinds}) has no name in llama.cpp")


def is_byte_level(folder: Path) -> bool:
    """Tell whether the folder's tokenizer is byte-level BPE, whatever else its tokenizer.json says.

    A vocabulary that transformers has read from GGUF has ``byte_fallback`` and its decoder, but not the 256
    tokens ``<0x00>`` … ``<0xFF>``. The converter takes it for SentencePiece, and llama.cpp's tokenizer then
    ends the process with ``std::out_of_range`` when it first looks up one of these tokens.
    """
    described, steps = tokenizer_of(folder)
    return (
        any(step.get("type") == "ByteLevel" for step in steps) and "<0x00>" not in described["model"]["vocab"]
    )


def convert(folder: Path, file: Path, vocab_only: bool) -> None:
    """Write ``folder`` to ``file`` in 16 bits, or only its vocabulary."""
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    hparams = ModelBase.load_hparams(folder, False)
    if "n_positions" in hparams:
        hparams.setdefault("n_ctx", hparams["n_positions"])  # transformers 5 writes only one name for GPT-2
    published: Any = get_model_class(get_model_architecture(hparams, ModelType.TEXT))

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> str:
        try:
            return str(published.get_vocab_base_pre(self, tokenizer))
        except NotImplementedError:
            return pre_tokenizer(folder)

    def set_vocab_llama_hf(self: Any) -> None:
        take = published._set_vocab_gpt2 if is_byte_level(folder) else published._set_vocab_llama_hf
        take(self)

    parts = {
        "model_arch": published.model_arch,
        "get_vocab_base_pre": get_vocab_base_pre,
        "_set_vocab_llama_hf": set_vocab_llama_hf,
    }
    known = type(published.__name__, (published,), parts)
    with torch.inference_mode():
        model = known(folder, gguf.LlamaFileType.MOSTLY_F16, file, model_name=folder.name, hparams=hparams)
        model.write_vocab() if vocab_only else model.write()


if __name__ == "__main__":
    checkout, folder, file, *rest = sys.argv[1:]
    sys.path[0:1] = [f"{checkout}/gguf-py", checkout]  # instead of this file's folder
    try:
        convert(Path(folder), Path(file), "--vocab-only" in rest)
    except Exception as error:  # third-party code may raise anything; the caller reports it
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
