"""Tokenise texts in batches (a single call costs a third more), reusing tokens of prefixes."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from deepcuts.components.core.errors import DataError, judged

UNREADABLE = "the tokenizer cannot encode a text", "correct the patterns in tokenizer.json, or the text"
REMEMBERED_CHARS = 200
"""Longest text to cache; the short texts between a template's turns recur, longer ones do not."""


class Tokens(NamedTuple):
    """A text's tokens."""

    ids: list[int]
    starts: list[int]
    """Offset of each token in the text; empty for tokenizers without offsets."""


def encode(text: str, tokenizer: PreTrainedTokenizerBase, split_special_tokens: bool = False) -> list[int]:
    """Return the token ids of ``text`` on its own.

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
    """Encode ``texts`` in one call, each as ``encode`` does; return the error of any that fails."""
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
            pass  # one text is at fault; the loop below finds it
        else:
            starts = ([start for start, _ in offsets] for offsets in found["offset_mapping"])
            return [Tokens(ids, begun) for ids, begun in zip(found["input_ids"], starts, strict=True)]
    return [_alone(text, tokenizer, split_special_tokens) for text in texts]


def prefix(
    text: str, whole: Tokens, special: frozenset[int], tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Return the token ids of ``text``, a prefix of the text of ``whole``, on its own.

    Tokenizers split at special tokens first, so up to the last one in ``text`` the ids are those of
    ``whole``, and only the rest (usually ``<|im_start|>assistant``) is tokenised.
    """
    place = bisect_right(whole.starts, len(text)) - 1
    while place >= 0 and not (whole.ids[place] in special and whole.starts[place] < len(text)):
        place -= 1
    if place < 0:
        return encode(text, tokenizer)
    rest = text[whole.starts[place] :]
    ids = _remembered(rest, tokenizer) if len(rest) <= REMEMBERED_CHARS else tuple(encode(rest, tokenizer))
    if ids[:1] != (whole.ids[place],):  # this token depends on the text before it
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
