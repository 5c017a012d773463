"""Distillation losses: compare a student's next-token distribution with a frozen teacher's.

The teacher is run on each micro-batch (``Online``), or once before training (``Cached``). The cache holds
tokens sampled from the teacher, not its largest probabilities: the mean over samples is an unbiased estimate
of the divergence and its gradient, whereas top-k, renormalised or not, teaches a distribution without its
tail (Sparse Logit Sampling, ACL 2025).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.progress import ProgressLog
from deepcuts.components.training import scoring
from deepcuts.components.training.batches import IGNORE, MicroBatch, collate
from deepcuts.components.training.documents import examples_of
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered

Divergence = Callable[[Tensor, Tensor, float], Tensor]


def forward_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute T² KL(teacher ‖ student) at temperature T, from logits (N, V) each: (N,) nats.

    T² keeps the gradient's size, as soft gradients fall as 1/T² (Hinton 2015). The student learns to cover
    everything the teacher considers likely.
    """
    return _kl(teacher, student, temperature)


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute T² KL(student ‖ teacher), as ``forward_kl``; the student follows the teacher's main mode."""
    return _kl(student, teacher, temperature)


def _kl(p: Tensor, q: Tensor, temperature: float) -> Tensor:
    log_p, log_q = ((logits / temperature).log_softmax(-1) for logits in (p, q))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)


DIVERGENCES: dict[str, Divergence] = {
    "forward-kl": forward_kl,
    "reverse-kl": reverse_kl,
    "on-policy": reverse_kl,
}


class TeacherSamples(NamedTuple):
    """Samples of a teacher's next-token distribution at N positions."""

    tokens: Tensor
    """(N, draws), int32."""
    entropy: Tensor
    """(N,) nats, exact; makes the loss a divergence, but does not affect the gradient."""


def draw(teacher: Tensor, temperature: float, count: int, generator: torch.Generator) -> TeacherSamples:
    """Sample ``count`` tokens for each row of logits (N, V), with replacement, at the loss's temperature."""
    log_p = (teacher / temperature).log_softmax(-1)
    p = log_p.exp()
    tokens = torch.multinomial(p.cpu(), count, replacement=True, generator=generator)
    return TeacherSamples(tokens.int(), -(p * log_p).sum(-1).cpu())


def sampled_kl(student: Tensor, draws: TeacherSamples, temperature: float) -> Tensor:
    """Estimate ``forward_kl`` and its gradient from samples, without bias: (N,) nats."""
    log_q = (student / temperature).log_softmax(-1).gather(-1, draws.tokens.long())
    return temperature**2 * (-log_q.mean(-1) - draws.entropy)


def relative_distance(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Compute the squared distance of residual streams, relative to the teacher's squared norm: (N,).

    Each is (N, D). A student that outputs 0 has distance 1, so the weight does not depend on a model's scale.
    """
    shares = [
        (s.float() - t.float()).square().sum(-1) / t.float().square().sum(-1).clamp_min(1e-12)
        for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(shares).mean(0)


def paired_layers(student: int, teacher: int) -> list[int]:
    """Return the teacher's layer (from 1) at the same relative depth for each of the student's layers."""
    return [max(1, round((layer + 1) * teacher / student)) for layer in range(student)]


class Teacher:
    """A frozen model in eval mode; ``charged`` is entered, with the tokens to read, whenever it runs.

    It is not part of the student's module, so ``train()``, gradients and checkpoints ignore it. Its logits
    are cut to the vocabulary, as models pad theirs differently.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        charged: Callable[[int], AbstractContextManager[object]],
    ) -> None:
        self.model, self.tokenizer, self.charged = model.eval().requires_grad_(False), tokenizer, charged
        self._loss = CompletionLoss(model).eval()

    def at_targets(
        self, ids: Tensor, positions: Tensor, targets: Tensor, states: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Run ``CompletionLoss.at_targets`` without a gradient; padding tokens count, as they cost as much.

        Raises:
            DataError: the logits are not finite.
        """
        with self.charged(ids.numel()), torch.no_grad():
            logits, shown = self._loss.at_targets(ids, positions, targets, states)
        if not logits.isfinite().all():
            raise DataError("the teacher's logits are not finite: its weights are broken; fetch it again")
        return logits[:, : len(self.tokenizer)], shown


class Online(nn.Module):
    """Loss with the teacher run on each micro-batch: KL + ``hidden_weight`` x distance of hidden states.

    If the widths differ, one learned projection maps the student's states to the teacher's width.
    """

    def __init__(
        self,
        teacher: Teacher,
        student: PreTrainedModel,
        divergence: Divergence,
        temperature: float,
        hidden_weight: float,
    ) -> None:
        super().__init__()
        self.states = hidden_weight > 0
        self._teacher, self._temperature, self._hidden_weight = teacher, temperature, hidden_weight
        self._divergence = divergence
        narrow, wide = student.config.hidden_size, teacher.model.config.hidden_size
        self._layers = paired_layers(student.config.num_hidden_layers, teacher.model.config.num_hidden_layers)
        differ = self.states and narrow != wide
        self.projection = nn.Linear(narrow, wide, bias=False) if differ else nn.Identity()

    def forward(self, logits: Tensor, states: Sequence[Tensor], batch: MicroBatch) -> Tensor:
        """Return the distillation loss at each target: (N,)."""
        wanted, shown = self._teacher.at_targets(*batch, states=self.states)
        kd_loss: Tensor = self._divergence(logits, wanted, self._temperature)
        if self.states:
            mine = [self.projection(state) for state in states[1:]]
            theirs = [shown[layer] for layer in self._layers]
            kd_loss = kd_loss + self._hidden_weight * relative_distance(mine, theirs)
        return kd_loss


class Cached(nn.Module):
    """Loss from samples drawn beforehand, looked up by an example's content."""

    states = False

    def __init__(self, draws: dict[bytes, TeacherSamples], temperature: float) -> None:
        super().__init__()
        self._draws, self._temperature = draws, temperature

    def forward(self, logits: Tensor, states: Sequence[Tensor], batch: MicroBatch) -> Tensor:
        """Estimate the distillation loss at each target: (N,)."""
        found = [self._draws[key] for key in keys(batch)]
        if not found:
            return logits.sum(-1)  # no targets: shape (0,), with a gradient
        tokens, entropy = (torch.cat(parts).to(logits.device) for parts in zip(*found, strict=True))
        return sampled_kl(logits, TeacherSamples(tokens, entropy), self._temperature)


class DistillationLoss(nn.Module):
    """(1 - w) x distillation loss + w x completion loss, summed over targets."""

    def __init__(
        self, student: CompletionLoss, kd_loss: Online | Cached, vocabulary: int, cross_entropy_weight: float
    ) -> None:
        super().__init__()
        self.student, self.kd_loss = student, kd_loss
        self._vocabulary, self._weight = vocabulary, cross_entropy_weight

    def forward(self, ids: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss; each argument is (B, T)."""
        batch = MicroBatch(ids, positions, targets)
        logits, states = self.student.at_targets(*batch, states=self.kd_loss.states)
        kd_loss = self.kd_loss(logits[:, : self._vocabulary], states, batch).sum()
        own = F.cross_entropy(logits, targets[targets != IGNORE], reduction="sum")
        mixed: Tensor = (1 - self._weight) * kd_loss + self._weight * own
        return mixed


def keys(batch: MicroBatch) -> Iterator[bytes]:
    """Yield the key (tokens and targets) of each example with targets in a micro-batch, in reading order."""
    ids, positions, targets = (tensor.flatten().cpu() for tensor in batch)
    for tokens, shared in examples_of(positions):
        if bool((targets[tokens[shared:]] != IGNORE).any()):
            yield torch.cat([ids[tokens], targets[tokens]]).numpy().tobytes()


def cache(
    teacher: Teacher, data: Sequence[Rendered], temperature: float, count: int, seeds: Sequence[int]
) -> list[TeacherSamples]:
    """Sample the teacher for each example, in order; batched by length, with one seed per example."""
    results: dict[int, TeacherSamples] = {}
    progress = ProgressLog(len(data), "examples read by the teacher", brief=True)
    device = next(teacher.model.parameters()).device
    for batch in scoring.by_length([len(rendered.ids) for rendered in data]):
        width = max(len(data[i].ids) for i in batch)
        ids, _, targets = (tensor.to(device) for tensor in collate([[i] for i in batch], data, width))
        plain = torch.arange(width, device=device).expand(len(batch), -1)  # a row is one document
        logits, _ = teacher.at_targets(ids, plain, targets)
        counts = (targets != IGNORE).sum(1).tolist()
        for i, rows in zip(batch, torch.split(logits, counts), strict=True):
            generator = torch.Generator().manual_seed(seeds[i])
            results[i] = draw(rows, temperature, count, generator)
        progress.add(len(batch))
    return [results[i] for i in range(len(data))]


def by_key(data: Sequence[Rendered], draws: Iterable[TeacherSamples]) -> dict[bytes, TeacherSamples]:
    """Index samples by example, for ``Cached``."""
    found = {}
    for i, drawn in enumerate(draws):
        (key,) = keys(collate([[i]], data, len(data[i].ids)))
        found[key] = drawn
    return found
