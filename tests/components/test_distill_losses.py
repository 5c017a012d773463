"""Divergences against torch's own, sampled ones against all that can be drawn, and the frozen teacher."""

import itertools
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcuts.components.distill.losses import (
    DIVERGENCES,
    Cached,
    DistillationLoss,
    Online,
    Teacher,
    TeacherSamples,
    by_key,
    cache,
    draw,
    forward_kl,
    paired_layers,
    relative_distance,
    reverse_kl,
    sampled_kl,
)
from deepcuts.components.training import models
from deepcuts.components.training.batches import IGNORE, collate, pack
from deepcuts.components.training.losses import CompletionLoss
from tests.training import tiny

TEMPERATURES = [0.5, 1.0, 3.0]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def logits(rows: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)).double()


def teacher(**changed: object) -> Teacher:
    return Teacher(tiny.model("llama", seed=7, **changed), tiny.TOKENIZER, lambda tokens: nullcontext())


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_kl_is_torchs_batchmean_times_the_squared_temperature(temperature):
    student, wanted = logits(6, 9), logits(6, 9, seed=1)
    for found, p, q in (
        (forward_kl(student, wanted, temperature), wanted, student),
        (reverse_kl(student, wanted, temperature), student, wanted),
    ):
        p, q = (p / temperature).softmax(-1), (q / temperature).log_softmax(-1)
        assert float(found.mean()) == pytest.approx(
            temperature**2 * float(F.kl_div(q, p, reduction="batchmean")), rel=1e-9
        )


def test_gradient_keeps_its_size_with_the_temperature():
    """At high T it becomes (student - teacher) / V for centred logits (Hinton 2015, eq. 4)."""
    student, wanted = logits(1, 5).requires_grad_(), logits(1, 5, seed=1)
    forward_kl(student, wanted, 1000.0).sum().backward()
    gap = (student - student.mean()) - (wanted - wanted.mean())
    assert torch.allclose(student.grad, gap.detach() / 5, rtol=1e-2, atol=2e-3)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from(TEMPERATURES))
def test_divergences_are_positive_and_zero_for_the_teacher_itself(seed, temperature):
    a, b = logits(3, 7, seed), logits(3, 7, seed + 1)
    for divergence in DIVERGENCES.values():
        assert (divergence(a, b, temperature) > 0).all()
        assert divergence(a, a, temperature).abs().max() < 1e-9


def expected(wanted: torch.Tensor, student: torch.Tensor, count: int, temperature: float):
    """Mean of (loss, gradient) over every sequence of ``count`` draws, each by its probability: exact."""
    p = (wanted / temperature).softmax(-1)[0]
    entropy = -(p * p.log()).sum()[None]
    loss, gradient = 0.0, torch.zeros_like(student)
    for sequence in itertools.product(range(len(p)), repeat=count):
        weight = float(p[list(sequence)].prod())
        leaf = student.clone().requires_grad_()
        value = sampled_kl(leaf, TeacherSamples(torch.tensor([sequence]).int(), entropy), temperature).sum()
        value.backward()
        loss, gradient = loss + weight * float(value.detach()), gradient + weight * leaf.grad
    return loss, gradient


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_sampled_loss_and_gradient_are_unbiased_over_all_draws(count, temperature):
    wanted, student = logits(1, 5), logits(1, 5, seed=1).requires_grad_()
    exact = forward_kl(student, wanted, temperature).sum()
    exact.backward()
    loss, gradient = expected(wanted, student.detach(), count, temperature)
    assert loss == pytest.approx(float(exact.detach()), rel=1e-9)
    assert torch.allclose(gradient, student.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("renormalised", [True, False])
def test_top_k_in_place_of_draws_is_biased(renormalised):
    """Trained to the end on it, a student gives the tail nothing; the draws' minimum is the teacher."""
    wanted = logits(1, 5)
    p = wanted.softmax(-1)
    top = torch.where(p >= p.topk(2).values.min(), p, 0.0)
    target = top / top.sum() if renormalised else top
    at_teacher = wanted.clone().requires_grad_()
    (-(target * at_teacher.log_softmax(-1)).sum()).backward()
    assert float(at_teacher.grad.abs().max()) > 0.01
    _, gradient = expected(wanted, wanted, 2, 1.0)
    assert gradient.abs().max() < 1e-12


def test_draws_follow_the_distribution_at_the_temperature():
    wanted, count = logits(2, 4), 40_000
    drawn = draw(wanted, 2.0, count, torch.Generator().manual_seed(0))
    p = (wanted / 2).softmax(-1)
    shares = F.one_hot(drawn.tokens.long(), 4).double().mean(1)
    assert ((shares - p).abs() < 5 * (p * (1 - p) / count).sqrt()).all()
    assert torch.allclose(drawn.entropy, -(p * p.log()).sum(-1))


@pytest.mark.parametrize("student, wanted", [(2, [2, 4]), (3, [1, 3, 4]), (4, [1, 2, 3, 4]), (1, [4])])
def test_layers_are_compared_at_equal_depth(student, wanted):
    assert paired_layers(student, 4) == wanted


def test_relative_distance_is_one_for_a_silent_student_whatever_the_scale():
    shown = [torch.randn(3, 8), 1000 * torch.randn(3, 8)]
    silent = [torch.zeros(3, 8)] * 2
    assert torch.allclose(relative_distance(silent, shown), torch.ones(3))
    assert relative_distance(shown, shown).abs().max() == 0


def test_only_answer_tokens_count_and_the_mix_is_by_weight():
    """Against a plain forward of each example alone, prompt tokens left out by hand."""
    data, guide = tiny.rendered(5), teacher()
    batch = collate(pack(range(5), [len(r.ids) for r in data], 64), data, 70)
    student = tiny.model("llama")
    wanted = {"kl": 0.0, "own": 0.0}
    for rendered in data:
        ids, mask = torch.tensor([rendered.ids]), torch.tensor(rendered.mask[1:]).bool()
        with torch.no_grad():
            mine, theirs = (
                m(input_ids=ids).logits[0, :-1][mask] for m in (student, tiny.model("llama", seed=7))
            )
        words = len(tiny.TOKENIZER)
        wanted["kl"] += float(forward_kl(mine[:, :words], theirs[:, :words], 2.0).sum())
        wanted["own"] += float(F.cross_entropy(mine, ids[0, 1:][mask], reduction="sum"))
    kd_loss = Online(guide, student, forward_kl, 2.0, 0.0)
    loss = DistillationLoss(CompletionLoss(student), kd_loss, len(tiny.TOKENIZER), 0.25)
    assert float(loss(*batch).detach()) == pytest.approx(0.75 * wanted["kl"] + 0.25 * wanted["own"], rel=1e-4)


def test_teacher_stays_frozen_and_in_eval_mode_while_the_student_trains():
    guide, student = teacher(attention_dropout=0.5), tiny.model("llama")
    before = {name: p.clone() for name, p in guide.model.named_parameters()}
    loss = DistillationLoss(
        CompletionLoss(student), Online(guide, student, forward_kl, 1.0, 1.0), len(tiny.TOKENIZER), 0.0
    ).train()
    optimizer = torch.optim.AdamW(models.trainable(loss).values(), lr=0.1)
    batch = collate([[0, 1]], tiny.rendered(2), 64)
    loss(*batch).backward()
    optimizer.step()
    assert not guide.model.training and all(p.grad is None for p in guide.model.parameters())
    assert all(torch.equal(before[name], p) for name, p in guide.model.named_parameters())
    assert not any("teacher" in name for name in models.trainable(loss))
    assert torch.equal(guide.at_targets(*batch)[0], guide.at_targets(*batch)[0])


def test_a_narrower_student_learns_the_projection_to_the_teachers_width():
    guide, student = teacher(), tiny.model("llama", hidden_size=16, num_hidden_layers=1)
    kd_loss = Online(guide, student, forward_kl, 1.0, 1.0)
    loss = DistillationLoss(CompletionLoss(student), kd_loss, len(tiny.TOKENIZER), 0.0)
    assert kd_loss.projection.weight.shape == (32, 16) and "kd_loss.projection.weight" in models.trainable(
        loss
    )
    loss(*collate([[0, 1]], tiny.rendered(2), 64)).backward()
    assert kd_loss.projection.weight.grad.abs().sum() > 0


def test_cached_draws_reach_their_targets_wherever_examples_lie():
    """As if the draws of each example were taken on its own, in packed rows with fillers."""
    data, guide, student = tiny.rendered(9), teacher(), tiny.model("llama")
    draws = list(cache(guide, data, 2.0, 5, range(9)))
    kd_loss = Cached(by_key(data, draws), 2.0)
    loss = DistillationLoss(CompletionLoss(student), kd_loss, len(tiny.TOKENIZER), 0.0)
    wanted = 0.0
    for rendered, drawn in zip(data, draws, strict=True):
        ids, mask = torch.tensor([rendered.ids]), torch.tensor(rendered.mask[1:]).bool()
        with torch.no_grad():
            mine = student(input_ids=ids).logits[0, :-1][mask][:, : len(tiny.TOKENIZER)]
        wanted += float(sampled_kl(mine, drawn, 2.0).sum())
    batch = collate(pack(range(9), [len(r.ids) for r in data], 64), data, 70)
    assert float(loss(*batch).detach()) == pytest.approx(wanted, rel=1e-4)


def test_cached_loss_approaches_the_online_one_with_many_draws():
    data, guide, student = tiny.rendered(4), teacher(), tiny.model("llama")
    batch = collate([[0, 1], [2, 3]], data, 64)
    kd_losses = (
        Online(guide, student, forward_kl, 2.0, 0.0),
        Cached(by_key(data, cache(guide, data, 2.0, 4000, range(4))), 2.0),
    )
    student_loss = CompletionLoss(student)
    online, cached = (
        float(DistillationLoss(student_loss, kd_loss, len(tiny.TOKENIZER), 0.0)(*batch).detach())
        for kd_loss in kd_losses
    )
    assert cached == pytest.approx(online, rel=0.05)


@pytest.mark.parametrize("kd_loss", ["online", "cached"])
def test_a_block_without_targets_costs_nothing_and_has_a_gradient_of_zero(kd_loss):
    guide, student = teacher(), tiny.model("llama")
    kd_losses = {"online": Online(guide, student, reverse_kl, 1.0, 1.0), "cached": Cached({}, 1.0)}
    loss = DistillationLoss(CompletionLoss(student), kd_losses[kd_loss], len(tiny.TOKENIZER), 0.5)
    batch = collate([[]], [], 1)
    assert (batch.targets == IGNORE).all()
    value = loss(*batch)
    value.backward()
    assert float(value.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in student.parameters())
