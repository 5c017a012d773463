"""Texts as tokens, in batches: one alone costs a third more, and a prefix is not read again."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from deepcuts.components.core.errors import DataError, judged

UNREADABLE = "the tokenizer cannot encode a text", "correct the patterns in tokenizer.json, or the text"
REMEMBERED_CHARS = 200
"""Longer texts do not come again: what stands between two turns of a template does."""


class Tokens(NamedTuple):
    """A text's tokens."""

    ids: list[int]
    starts: list[int]
    """Where in the text each begins; empty for tokenizers that do not say."""


def encode(text: str, tokenizer: PreTrainedTokenizerBase, split_special_tokens: bool = False) -> list[int]:
    """Return the token ids of ``text`` alone.

    Raises:
        DataError: the tokenizer cannot read it.
    """
    with judged(*UNREADABLE):
        ids: list[int] = tokenizer(
            text, add_special_tokens=False, split_special_tokens=split_special_tokens, verbose=False
        )["input_ids"]
    return ids


def encode_all(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, split_special_tokens: bool = False
) -> list[Tokens | DataError]:
    """Encode ``texts`` in one call, each as ``encode`` does; one that cannot be read is its error."""
    if tokenizer.is_fast and texts:
        try:
            with judged(*UNREADABLE):
                found = tokenizer(
                    list(texts),
                    add_special_tokens=False,
                    split_special_tokens=split_special_tokens,
                    return_attention_mask=False,
                    return_token_type_ids=False,
                    return_offsets_mapping=True,
                    verbose=False,
                )
        except DataError:
            pass  # one of them is at fault: which one, the next loop says
        else:
            starts = ([start for start, _ in offsets] for offsets in found["offset_mapping"])
            return [Tokens(ids, begun) for ids, begun in zip(found["input_ids"], starts, strict=True)]
    return [_alone(text, tokenizer, split_special_tokens) for text in texts]


def prefix(
    text: str, whole: Tokens, special: frozenset[int], tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Return the token ids of ``text`` alone, which the text of ``whole`` begins with.

    Tokenizers cut at special tokens before they do anything else, so up to the last of these in ``text`` the
    ids are those of ``whole``, and only the rest (``<|im_start|>assistant`` mostly) is tokenised.
    """
    place = bisect_right(whole.starts, len(text)) - 1
    while place >= 0 and not (whole.ids[place] in special and whole.starts[place] < len(text)):
        place -= 1
    if place < 0:
        return encode(text, tokenizer)
    rest = text[whole.starts[place] :]
    ids = _remembered(rest, tokenizer) if len(rest) <= REMEMBERED_CHARS else tuple(encode(rest, tokenizer))
    if ids[:1] != (whole.ids[place],):  # this token depends on what is before it
        return encode(text, tokenizer)
    return [*whole.ids[:place], *ids]


def end_token_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the tokenizer's own end token.

    Raises:
        ValueError: it has none.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "the tokenizer has no eos_token, so no answer would end: set it in tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


def _alone(text: str, tokenizer: PreTrainedTokenizerBase, split_special_tokens: bool) -> Tokens | DataError:
    try:
        return Tokens(encode(text, tokenizer, split_special_tokens), [])
    except DataError as error:
        return error


@lru_cache(maxsize=1024)
def _remembered(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    return tuple(encode(text, tokenizer))
