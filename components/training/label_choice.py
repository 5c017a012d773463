"""Choose each example's likeliest label, with the prompts and labels of many examples as one tree."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.progress import Heard, unheard
from deepcuts.components.training import attention
from deepcuts.components.training.label_search import LabelSearch, common_prefix, decide
from deepcuts.components.training.render import render, render_prompt
from deepcuts.components.training.token_row import PASS_TOKENS, Branch, TokenRow

PROBE_TOLERANCE = 1e-4
"""Largest relative difference of a label's nats in a tree and alone; rounding in float32 is about 1e-6."""


class Question(NamedTuple):
    """A prompt, and the tokens of each label after it, with its end token."""

    prompt: Sequence[int]
    tails: Sequence[Sequence[int]]

    @property
    def tokens(self) -> int:
        """Count the tokens to compute if labels share only the prompt."""
        return len(self.prompt) + sum(len(tail) - 1 for tail in self.tails)


PROBE = [
    Question([5, 3, 4, 2, 6], [[2, 3, 5], [2, 3, 4, 6], [2, 7], [8, 2]]),
    Question([5, 3, 7], [[3, 2, 5, 4], [3, 2, 6], [3, 4, 7], [6, 2]]),
]
"""Token ids with which ``supports_trees`` tries a model."""


class LabelTokens(NamedTuple):
    """Tokens that choosing labels took."""

    computed: int = 0
    one_by_one: int = 0
    """As many as if the labels of an example shared only its prompt."""

    def facts(self) -> dict[str, int]:
        """Return them as facts of a receipt; none if no labels were chosen."""
        if not self.one_by_one:
            return {}
        return {"label_tokens_computed": self.computed, "label_tokens_one_by_one": self.one_by_one}


def total(taken: Iterable[LabelTokens]) -> LabelTokens:
    """Return the sums."""
    return LabelTokens(*map(sum, zip(LabelTokens(), *taken, strict=True)))


def questions(
    tokenizer: PreTrainedTokenizerBase, records: Sequence[Example], labels: Sequence[str]
) -> Iterator[Question]:
    """Yield the tokens of each example's prompt, and of each label after it."""
    for record in records:
        prompt = render_prompt(record, tokenizer)
        answered = [_answered(record, label) for label in labels]
        yield Question(prompt, [render(one, tokenizer).ids[len(prompt) :] for one in answered])


def choose(
    model: PreTrainedModel, asked: Sequence[Question], chose: Heard = unheard
) -> tuple[list[int], LabelTokens]:
    """Return (each question's likeliest label, the tokens this took); ``chose`` gets the number done."""
    model.eval()
    found: list[int] = []
    one_by_one = sum(question.tokens for question in asked)
    with torch.inference_mode():
        if asked and supports_trees(model, asked):
            row = TokenRow(model, asked[0].prompt[: common_prefix([one.prompt for one in asked])])
            for some in together(asked, len(row.prefix), PASS_TOKENS):
                found += [label for label, _ in likeliest(row, some)]
                chose(len(some))
            return found, LabelTokens(row.computed, one_by_one)
        computed = 0
        for question in asked:
            nats, tokens = nats_one_by_one(model, question)
            found.append(int(nats.argmin()))
            computed += tokens
            chose(1)
    return found, LabelTokens(computed, one_by_one)


def together(
    asked: Sequence[Question], shared: int, most_tokens: int, most: int | None = None
) -> Iterator[list[Question]]:
    """Yield at most ``most`` questions in a row, of ``most_tokens`` without what all ``shared``, or one."""
    some: list[Question] = []
    tokens = 0
    for question in asked:
        own = len(question.prompt) - shared
        if some and (tokens + own > most_tokens or len(some) == most):
            yield some
            some, tokens = [], 0
        some.append(question)
        tokens += own
    if some:
        yield some


def likeliest(row: TokenRow, asked: Sequence[Question], best: int = 1) -> list[tuple[int, float]]:
    """Return (label, nats) of each question's likeliest label after the row's prefix, or of its ``best``."""
    searches = [LabelSearch(question.tails) for question in asked]
    columns: list[dict[int, list[int]]] = [{} for _ in asked]

    def branch(number: int, stretch: int) -> Branch:
        prompt, search = asked[number].prompt, searches[number]
        if stretch:
            seen = columns[number][search.stretches[stretch].parent]
            start = len(prompt) + search.stretches[stretch].start
            return Branch(search.tokens(stretch), start, seen, search.read_at(stretch))
        start = max(len(row.prefix), len(prompt) - PASS_TOKENS)
        seen = row.extend(prompt[len(row.prefix) : start], len(row.prefix), row.prefix)
        return Branch(prompt[start:], start, seen, search.read_at(stretch))

    def compute(due: Sequence[tuple[int, int]]) -> list[list[float]]:
        done = row.add([branch(number, stretch) for number, stretch in due])
        for (number, stretch), (seen, _) in zip(due, done, strict=True):
            columns[number][stretch] = seen
        return [nats for _, nats in done]

    found = [label for _ in range(best) for label in decide(searches, compute)]
    row.forget()
    return found


def nats_one_by_one(model: PreTrainedModel, question: Question) -> tuple[Tensor, int]:
    """Return (the nats of each label after the prompt (labels,), the tokens computed), padding included.

    The prompt goes through the model once if the model's only state is keys and values; otherwise (states of
    convolutions and recurrences, special caches) once per label.
    """
    width = max(map(len, question.tails))
    ids = torch.zeros(len(question.tails), width, dtype=torch.long, device=model.device)
    inside = torch.zeros_like(ids, dtype=torch.bool)
    for row, tail in enumerate(question.tails):
        ids[row, : len(tail)] = torch.tensor(tail)
        inside[row, : len(tail)] = True
    logits, computed = _continuations(model, question.prompt, ids)  # (L, width, V)
    nats = -logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    return (nats * inside).sum(1), computed


def _continuations(model: PreTrainedModel, prompt: Sequence[int], ids: Tensor) -> tuple[Tensor, int]:
    """Return (the float32 logits (L, width, V) that predict ``ids`` after a prompt, computed tokens)."""
    first_tokens = torch.tensor([list(prompt)], device=model.device)
    cache = DynamicCache(config=model.config)
    if _is_stateless(model, cache):
        first = model(input_ids=first_tokens, past_key_values=cache, use_cache=True)
        if cache.get_seq_length() == len(prompt):
            cache.batch_repeat_interleave(len(ids))
            rest = model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True).logits
            logits = torch.cat([first.logits[:, -1:].expand(len(ids), -1, -1), rest], dim=1)
            return logits.float(), len(prompt) + ids[:, :-1].numel()
    whole = torch.cat([first_tokens.expand(len(ids), -1), ids[:, :-1]], dim=1)
    logits = model(input_ids=whole, use_cache=False).logits[:, len(prompt) - 1 :]
    return logits.float(), whole.numel()


def supports_trees(model: PreTrainedModel, asked: Sequence[Question]) -> bool:
    """Tell whether the model scores labels in a tree as one by one, tried on a few tokens.

    In 16 bits, rounding would hide a fault. All tokens must be within a sliding window, and attention must
    take its whole mask from outside: GPT-Neo counts columns for its own.
    """
    cache = DynamicCache(config=model.config)
    windows = [layer.sliding_window for layer in cache.layers if isinstance(layer, DynamicSlidingWindowLayer)]
    chunk = attention.chunk_tokens(model)
    longest = max(len(one.prompt) + max(map(len, one.tails)) for one in asked)
    if model.dtype is not torch.float32 or not model._supports_sdpa or not _is_stateless(model, cache):
        return False
    if longest > min([*windows, chunk or longest], default=longest):
        return False
    labels = len(PROBE[0].tails)
    try:
        found = likeliest(TokenRow(model, PROBE[0].prompt[:2]), PROBE, best=labels)
        wanted = [nats_one_by_one(model, question)[0].tolist() for question in PROBE]
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    pairs = [(nats, wanted[i % len(PROBE)][label]) for i, (label, nats) in enumerate(found)]
    return all(abs(nats - alone) <= PROBE_TOLERANCE * abs(alone) for nats, alone in pairs)


def _is_stateless(model: PreTrainedModel, cache: DynamicCache) -> bool:
    """Tell whether the model has no state other than attention's keys and values."""
    if getattr(model, "_is_stateful", False):
        return False
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def _answered(record: Example, text: str) -> Example:
    said = (*record.messages[:-1], Message("assistant", text))
    return msgspec.structs.replace(record, messages=said, tokens=0)
