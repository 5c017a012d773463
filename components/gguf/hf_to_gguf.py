"""Run llama.cpp's converter on a Hugging Face folder, in a process of its own; ``convert.py`` starts it.

    python hf_to_gguf.py CHECKOUT FOLDER FILE.gguf [--vocab-only]

``CHECKOUT`` is llama.cpp's source tree, whose modules are called ``conversion`` and ``gguf``. The last line
on stderr says what the converter does not take, and the exit status is then 1.
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
"""llama.cpp's names for what tokenizer.json does before BPE. The converter knows published vocabularies by a
hash of what they make of one text; one's own vocabulary has another hash and the same regular expression."""


def tokenizer_of(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what tokenizer.json describes, and the steps of its pre-tokenizer."""
    described = json.loads((folder / "tokenizer.json").read_bytes())
    given = described.get("pre_tokenizer") or {}
    return described, given.get("pretokenizers", [given])


def pre_tokenizer(folder: Path) -> str:
    """Return llama.cpp's name for the folder's pre-tokenizer, from its structure.

    Raises:
        NotImplementedError: it is none of ``PRE_TOKENIZERS``.
    """
    described, steps = tokenizer_of(folder)
    plain = [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
    for name, wanted in PRE_TOKENIZERS.items():
        if plain == wanted and not described.get("normalizer"):
            return name
    kinds = ", ".join(str(step.get("type", "none")) for step in steps)
    raise NotImplementedError(f"its vocabulary is split in a way that llama.cpp has no name for ({kinds})")


def is_byte_level(folder: Path) -> bool:
    """Return whether the folder's tokenizer is BPE on bytes, whatever else its tokenizer.json says.

    A vocabulary that transformers read from GGUF has ``byte_fallback`` and a decoder for it without the 256
    tokens ``<0x00>`` … ``<0xFF>``. The converter takes that for SentencePiece, and llama.cpp's tokenizer then
    ends the process with ``std::out_of_range`` at the first word it looks for these tokens.
    """
    described, steps = tokenizer_of(folder)
    return (
        any(step.get("type") == "ByteLevel" for step in steps) and "<0x00>" not in described["model"]["vocab"]
    )


def convert(folder: Path, file: Path, vocab_only: bool) -> None:
    """Write ``folder`` to ``file`` in 16 bits, or its vocabulary alone."""
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    hparams = ModelBase.load_hparams(folder, False)
    if "n_positions" in hparams:
        hparams.setdefault("n_ctx", hparams["n_positions"])  # GPT-2's configs of transformers 5 have one name
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
    sys.path[0:1] = [f"{checkout}/gguf-py", checkout]  # not this file's folder, whose names are ours
    try:
        convert(Path(folder), Path(file), "--vocab-only" in rest)
    except Exception as error:  # of third-party code, which raises whatever it likes; the caller says it
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
