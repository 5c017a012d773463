"""Lengths of examples in tokens: those that ingest stored, if they are by this tokenizer."""

from collections.abc import Sequence

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core.examples import Example
from deepcuts.components.training.scoring import render_all

CHECKED_LENGTHS = 32
"""Examples rendered again to check stored lengths."""


def lengths(records: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the number of tokens of each example, as stored by ingest if its tokenizer was this one.

    That is checked on ``CHECKED_LENGTHS`` examples, including the longest. Tokenising all of 13,000 short
    rows again takes ten seconds of CPU, reading their lengths none.
    """
    stored = [record.tokens for record in records]
    if are_lengths([records[place] for place in checked_places(stored)], tokenizer) and all(stored):
        return stored
    return [len(rendered.ids) for rendered in render_all(records, tokenizer)]


def checked_places(stored: Sequence[int]) -> list[int]:
    """Return which of the ``stored`` lengths to check."""
    stride = max(1, len(stored) // CHECKED_LENGTHS)
    longest = max(range(len(stored)), key=lambda place: stored[place], default=0)
    return [*range(0, len(stored), stride), *([longest] if stored else [])]


def are_lengths(records: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether the stored lengths of ``records`` are by this tokenizer."""
    return [len(rendered.ids) for rendered in render_all(records, tokenizer)] == [r.tokens for r in records]
