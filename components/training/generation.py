"""Settle a model's generation settings: end tokens, tokens never generated, and settings that can be saved.

A chat template ends an answer with one token, the tokenizer names another as its end, and the publisher's
generation_config.json lists more (Gemma, Qwen's base models, Llama 3, GLM). A model may stop on any of them,
so scoring, chat, written answers and the released generation_config.json use their union.
"""

import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core.errors import DataError, judged
from deepcuts.components.training import faulty_field
from deepcuts.components.training.render import form_of

KEPT = "as published"
FILE = "generation_config.json"
FIX = "correct or remove it"


def settle(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a model generation settings that transformers can save.

    They stop on every end token and never generate an id without a token (padded vocabularies).
    """
    settings, _ = corrected(model.generation_config or GenerationConfig())
    ends = end_tokens(settings, tokenizer)
    settings.eos_token_id = ends if len(ends) > 1 else ends[0]
    settings.suppress_tokens = sorted({*(settings.suppress_tokens or ()), *unnamed(model, tokenizer)}) or None
    model.generation_config = settings


def corrected(settings: GenerationConfig) -> tuple[GenerationConfig, str]:
    """Return settings that transformers will save, and a description of the changes.

    Sampling values without ``do_sample`` are taken to mean it; invalid values are dropped; token ids stay.
    """
    if not (reason := _refusal(settings)):
        return settings, KEPT
    sampling = copy.deepcopy(settings)
    sampling.do_sample = True
    if not _refusal(sampling):
        return sampling, f"do_sample set to true, as transformers does not save it otherwise: {reason}"
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(settings, name) for name in names if _is_id(getattr(settings, name, None))}
    return GenerationConfig(
        **ids
    ), f"all but its token ids dropped, as transformers does not save it: {reason}"


def published(folder: Path) -> str:
    """Describe, for the receipt, what ``corrected`` changes in the folder's generation_config.json.

    Raises:
        DataError: the file is not a generation config.
    """
    if not folder.joinpath(FILE).exists():
        return "none"
    with faulty_field.named(folder, (FILE,), read), judged(f"{folder}/{FILE} does not load", FIX):
        return read(folder)[1]


def end_tokens(settings: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every token that ends an answer: the settings', the tokenizer's and the chat template's."""
    named = settings.eos_token_id
    listed = [] if named is None else named if isinstance(named, list) else [named]
    ends = {*listed, tokenizer.eos_token_id}
    with suppress(DataError, ValueError):  # no answer can be rendered; rendering one reports it
        ends.add(form_of(tokenizer).end)
    return sorted(end for end in ends if end is not None)


def ends_of(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every token that ends an answer of the model in ``folder``, without loading it."""
    settings = read(folder)[0] if folder.joinpath(FILE).exists() else GenerationConfig()
    return end_tokens(settings, tokenizer)


def decoding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **given: Any) -> GenerationConfig:
    """Return the settings for generating with a settled model; greedy unless ``given`` says otherwise."""
    settings = model.generation_config
    ends = end_tokens(settings, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    return greedy(
        **given,
        pad_token_id=pad,
        eos_token_id=ends,
        suppress_tokens=settings.suppress_tokens,
    )


def unnamed(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the rows of the output layer that belong to no token of the tokenizer."""
    rows = int(model.get_output_embeddings().weight.shape[0])
    return sorted(set(range(rows)) - set(tokenizer.get_vocab().values()))


def greedy(**given: Any) -> GenerationConfig:
    """Return settings for one greedy answer; missing values come from the model's own settings."""
    return GenerationConfig(**{"do_sample": False, "num_beams": 1, "num_return_sequences": 1} | given)


def read(folder: Path) -> tuple[GenerationConfig, str]:
    """Return the folder's settings as transformers saves them, and a description of the changes."""
    return corrected(GenerationConfig.from_pretrained(folder, local_files_only=True))


def _refusal(settings: GenerationConfig) -> str:
    try:
        settings.validate(strict=True)
    except (ValueError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[1] if len(lines) > 1 else lines[0]
    return ""


def _is_id(value: object) -> bool:
    ids = value if isinstance(value, list) else [value]
    return bool(ids) and all(isinstance(one, int) and one >= 0 for one in ids)
