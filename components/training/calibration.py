"""Load calibration text and models for pruning and quantization."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core import examples
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example
from deepcuts.components.training import models, weights_check
from deepcuts.components.training.render import Rendered, render


def take(
    path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: int, seed: int
) -> list[Rendered]:
    """Return rendered examples of ``path``, shuffled by ``seed``, up to ``tokens`` tokens.

    Too little text is not an error: the calibration gets worse, and the comparison afterwards shows it.

    Raises:
        DataError: an example is longer than the model's context.
    """
    records = examples.read(path)
    random.Random(seed).shuffle(records)
    taken, total = [], 0
    for record in records:
        if total >= tokens:
            break
        rendered = fitting(record, model, tokenizer)
        taken.append(rendered)
        total += len(rendered.ids)
    return taken


def fitting(example: Example, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """Render an example; raises DataError if it is longer than the model's context."""
    rendered, context = render(example, tokenizer), models.context_length(model)
    if len(rendered.ids) > context:
        raise DataError(
            f"example {example.id!r} has {len(rendered.ids)} tokens, the model's context {context}: "
            "lower max_tokens so that ingest sets such examples aside"
        )
    return rendered


def rows(data: Sequence[Rendered], device: torch.device) -> Iterator[Tensor]:
    """Yield the token ids of each example, (1, T), without padding."""
    for rendered in data:
        yield torch.tensor([rendered.ids], device=device)


def load_whole(
    model: Path, base: Path, scratch: Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Path, torch.dtype]:
    """Return (network, tokenizer, folder of the whole model, its stored precision), weights checked for NaN.

    An adapter is merged and the result written under ``scratch``: that is what would be stored and served, so
    savings must be measured against it, not against base plus adapter.
    """
    network, tokenizer = models.load(model, base)
    weights_check.check_finite(network.named_parameters(), f"{model} diverged in training: take another")
    if not models.is_adapter(model):
        return network, tokenizer, model, models.stored_dtype(model)
    stored, folder = models.stored_dtype(base), scratch / "whole"
    models.save(network, tokenizer, base, folder, stored)
    return network, tokenizer, folder, stored
