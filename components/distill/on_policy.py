"""On-policy distillation: train a student on its own answers, scored by the teacher.

A student trained only on good answers never learns to recover from its own mistakes (generalized knowledge
distillation, Agarwal et al. 2024). As there, no gradient flows through the sampling.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LogitsProcessor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.distill.losses import Online
from deepcuts.components.training import generation, scoring
from deepcuts.components.training.batches import IGNORE, MicroBatch
from deepcuts.components.training.documents import examples_of
from deepcuts.components.training.losses import CompletionLoss


class Turn(NamedTuple):
    """The last answer of an example in a micro-batch, by flat token numbers."""

    example: Tensor
    """All of the example's tokens."""
    first: int
    """Place in ``example`` before the answer: what it says is the answer's first token."""
    tokens: int
    """Of the answer."""
    random: torch.Generator


class OnPolicyLoss(nn.Module):
    """(1 - w) x what the student lacks on answers of its own + w x its completion loss on the data's.

    In expectation: of each example one or the other is learned, drawn with probability w, so both models read
    an example once. The student's answer stands where the data's stood and is as long at most: a pass takes
    what it was planned for. It weighs as much as the one that it replaces. Turns before the last keep theirs.
    """

    def __init__(
        self,
        student: CompletionLoss,
        kd_loss: Online,
        tokenizer: PreTrainedTokenizerBase,
        cross_entropy_weight: float,
        max_new_tokens: int,
        charged: Callable[[], AbstractContextManager[object]],
    ) -> None:
        super().__init__()
        self.student, self.kd_loss = student, kd_loss
        self._tokenizer, self._weight, self._most = tokenizer, cross_entropy_weight, max_new_tokens
        self._charged = charged
        """Entered while the student writes."""

    def forward(self, ids: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """Return (B, T) each; a scalar."""
        turns = [turn for turn in turns_of(MicroBatch(ids, positions, targets)) if self._writes(turn)]
        ids, targets = ids.clone(), targets.clone()
        share = torch.zeros(targets.numel(), device=ids.device)  # what a target of a written answer weighs
        for turn, said in zip(turns, self._written(ids, turns), strict=True):
            place = turn.example[turn.first : turn.first + turn.tokens].to(ids.device)
            targets.view(-1)[place] = IGNORE
            targets.view(-1)[place[: len(said)]] = said
            ids.view(-1)[place[: len(said)] + 1] = said
            share[place[: len(said)]] = turn.tokens / len(said)
        batch = MicroBatch(ids, positions, targets)
        logits, states = self.student.at_targets(*batch, states=self.kd_loss.states)
        share = share[targets.flatten() != IGNORE]
        own = share == 0
        loss = F.cross_entropy(logits[own], targets[targets != IGNORE][own], reduction="sum")
        if turns:
            mine = logits[~own][:, : len(self._tokenizer)]
            lacks = self.kd_loss(mine, [state[~own] for state in states], alone(batch, turns))
            loss = loss + (lacks * share[~own]).sum()
        return loss

    def _writes(self, turn: Turn) -> bool:
        return bool(torch.rand((), generator=turn.random) >= self._weight)

    @torch.no_grad()
    def _written(self, ids: Tensor, turns: Sequence[Turn]) -> list[Tensor]:
        """Draw the student's answer to each turn, up to its end token or the room there is."""
        if not turns:
            return []
        model, training = self.student.model, self.student.model.training
        prompts = [ids.view(-1)[turn.example[: turn.first + 1]].tolist() for turn in turns]
        rooms = [min(turn.tokens, self._most) for turn in turns]
        settings = generation.decoding(model, self._tokenizer, max_new_tokens=max(rooms))
        model.eval()  # no dropout
        try:
            with self._charged():
                rows = scoring.continued(model, prompts, settings, [Drawn([t.random for t in turns])])
        finally:
            model.train(training)
        ends = set(settings.eos_token_id)
        return [_until(row[:room], ends, ids.device) for row, room in zip(rows.tolist(), rooms, strict=True)]


class Drawn(LogitsProcessor):  # type: ignore[misc]
    """Draw each row's next token by a generator of its own, so that no batching changes what a row says."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self._generators = generators

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Leave one token possible of each row of ``scores`` (N, V), drawn at temperature 1."""
        shares = scores.float().softmax(-1).cumsum(-1)
        drawn = torch.stack([torch.rand(1, generator=generator) for generator in self._generators])
        at = torch.searchsorted(shares, drawn.to(shares.device) * shares[:, -1:], right=True)
        chosen = at.clamp_max(scores.shape[-1] - 1)
        return torch.full_like(scores, float("-inf")).scatter(1, chosen, 0.0)


def turns_of(batch: MicroBatch) -> list[Turn]:
    """Return the last answer of each example with one, its generator seeded by step and example.

    The step's seed is what the loop gave torch before its passes (``forward_backward.py``).
    """
    ids, positions, targets = (tensor.flatten().cpu() for tensor in batch)
    found = []
    for example, _ in examples_of(positions):
        learned = (targets[example] != IGNORE).nonzero()[:, 0]
        if len(learned):
            breaks = (learned.diff() != 1).nonzero()[:, 0]
            first = int(learned[breaks[-1] + 1] if len(breaks) else learned[0])
            name = hashlib.sha256(f"{torch.initial_seed()} {ids[example].tolist()}".encode()).digest()
            random = torch.Generator().manual_seed(int.from_bytes(name[:7]))
            found.append(Turn(example, first, int(learned[-1]) + 1 - first, random))
    return found


def alone(batch: MicroBatch, turns: Sequence[Turn]) -> MicroBatch:
    """Return the written answers, one a row, with no other targets: what the teacher reads."""
    width = max(turn.first + turn.tokens for turn in turns)
    device = batch.ids.device
    ids = torch.zeros(len(turns), width, dtype=torch.long, device=device)
    targets = torch.full_like(ids, IGNORE)
    for row, turn in enumerate(turns):
        place = turn.example[: turn.first + turn.tokens].to(device)
        ids[row, : len(place)] = batch.ids.view(-1)[place]
        targets[row, turn.first : len(place)] = batch.targets.view(-1)[place[turn.first :]]
    return MicroBatch(ids, torch.arange(width, device=device).expand(len(turns), -1), targets)


def _until(row: list[int], ends: set[int], device: torch.device) -> Tensor:
    """Return the tokens up to the first end token, which is said as well."""
    stop = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
    return torch.tensor(row[: stop + 1], device=device)
