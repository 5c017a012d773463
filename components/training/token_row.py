"""A row of tokens with a key-value cache, in which each branch of a tree sees only what it continues."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

PASS_TOKENS = 512
"""Tokens computed together. Attention compares each with all: a sixth of SmolLM2's operations at 512."""


class Branch(NamedTuple):
    """Tokens to compute, and what to read after them."""

    tokens: Sequence[int]
    start: int
    """Position of the first one."""
    seen: Sequence[int]
    """Columns of the tokens that they continue."""
    read_at: Sequence[tuple[int, int]]
    """As (index of a token, -1 for the last; a token that follows it)."""


class TokenRow:
    """One row of ``model``, which begins with ``prefix``; each token is a column of it."""

    def __init__(self, model: PreTrainedModel, prefix: Sequence[int]) -> None:
        self._model, self._cache, self._columns = model, DynamicCache(), 0
        self.computed = 0
        """Tokens computed so far."""
        self.prefix = self.extend(prefix, 0, [])

    def extend(self, tokens: Sequence[int], start: int, seen: list[int]) -> list[int]:
        """Compute tokens of which nothing is read; return the columns up to the last."""
        for first in range(0, len(tokens), PASS_TOKENS):
            piece = tokens[first : first + PASS_TOKENS]
            ((seen, _),) = self.add([Branch(piece, start + first, seen, [])])
        return seen

    def add(self, branches: Sequence[Branch]) -> list[tuple[list[int], list[float]]]:
        """Compute branches; return for each (the columns up to its end, the nats of what it reads)."""
        count = sum(len(branch.tokens) for branch in branches)
        visible = torch.zeros(count, self._columns + count, dtype=torch.bool)
        ids: list[int] = []
        positions: list[int] = []
        columns: list[list[int]] = []
        reads: list[tuple[int, int]] = []
        for branch in branches:
            begin, end = len(ids), len(ids) + len(branch.tokens)
            ids += branch.tokens
            positions += range(branch.start, branch.start + len(branch.tokens))
            reads += [(begin + place if place >= 0 else end - 1, token) for place, token in branch.read_at]
            visible[begin:end, list(branch.seen)] = True
            visible[begin:end, self._columns + begin : self._columns + end] = torch.ones(
                end - begin, end - begin, dtype=torch.bool
            ).tril()
            columns.append([*branch.seen, *range(self._columns + begin, self._columns + end)])
        nats = iter(self._nats(ids, positions, visible, reads))
        self._columns += count
        self.computed += count
        return [
            (found, [next(nats) for _ in branch.read_at])
            for branch, found in zip(branches, columns, strict=True)
        ]

    def forget(self) -> None:
        """Drop all tokens but the prefix."""
        if self._columns > len(self.prefix):
            self._cache.crop(len(self.prefix) - self._columns)
        self._columns = len(self.prefix)

    def _nats(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        visible: Tensor,
        reads: Sequence[tuple[int, int]],
    ) -> list[float]:
        """Return the nats of each (index, token that follows); the output layer sees only those indices."""
        device, dtype = self._model.device, self._model.dtype
        indices, tokens = torch.tensor(reads, dtype=torch.long, device=device).reshape(-1, 2).unbind(1)
        places, place_of = torch.unique(indices, return_inverse=True)
        mask = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)
        hook = self._model.get_output_embeddings().register_forward_pre_hook(
            lambda _, args: (args[0][:, places],)
        )
        try:
            output = self._model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                attention_mask=mask[None, None].to(device),
                past_key_values=self._cache,
                use_cache=True,
            )
        finally:
            hook.remove()
        logits = output.logits[0].float()
        nats: list[float] = (logits.logsumexp(-1)[place_of] - logits[place_of, tokens]).tolist()
        return nats
