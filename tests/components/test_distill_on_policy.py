"""On-policy distillation: what the student writes, what it learns of it, and what that costs."""

import json
from contextlib import nullcontext

import pytest
import torch
from transformers import AutoModelForCausalLM

from deepcuts.components.core import examples
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.distill.losses import Online, Teacher, reverse_kl
from deepcuts.components.distill.on_policy import Drawn, OnPolicyLoss, turns_of
from deepcuts.components.training import scoring
from deepcuts.components.training.batches import IGNORE, collate
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import render
from tests.components.test_distill import RECIPE, done, go, one_thread, refused, teacher, wise
from tests.training import tiny

__all__ = ["go", "one_thread", "teacher"]  # fixtures
ON_POLICY = {"method": "on-policy", "cross_entropy_weight": 0.0}


def loss_of(weight: float = 0.0, most: int = 8, **changed: object) -> OnPolicyLoss:
    """A loss over two tiny models; ``changed`` goes to the student's config."""
    student = CompletionLoss(tiny.model("llama", **changed))
    model = tiny.model("llama", seed=5)
    for one in (student.model, model):
        one.generation_config.eos_token_id = tiny.TOKENIZER.eos_token_id
    kd_loss = Online(
        Teacher(model, tiny.TOKENIZER, lambda n: nullcontext()), student.model, reverse_kl, 1.0, 0.0
    )
    return OnPolicyLoss(student, kd_loss, tiny.TOKENIZER, weight, most, nullcontext)


def nats(loss: OnPolicyLoss, rows: list[list[int]], seed: int = 3) -> float:
    data = tiny.rendered(6)
    width = max(sum(len(data[i].ids) for i in row) for row in rows)
    torch.manual_seed(seed)
    return float(loss(*collate(rows, data, width)))


def test_a_student_learns_the_teachers_answer_though_the_data_never_says_it(go, tmp_path):
    recipe = RECIPE | {"budget_tokens": 6000}
    out, _ = done(go(wise(tmp_path / "wise"), layers="0", recipe=recipe, **ON_POLICY))
    student = AutoModelForCausalLM.from_pretrained(out / "model")
    answers = scoring.greedy_answers(student, tiny.TOKENIZER, tiny.sums(20, seed=3), 4)
    assert answers.count("42") >= 18, answers
    assert [examples.answer(record) for record in tiny.sums(20, seed=3)].count("42") < 3


def test_an_answer_is_drawn_by_step_and_example_however_a_step_is_cut_into_passes():
    loss = loss_of()
    together = nats(loss, [[0, 1], [2], [3, 4, 5]])
    apart = sum(nats(loss, [[i]]) for i in range(6))
    assert apart == pytest.approx(together, rel=1e-4)
    assert nats(loss, [[0, 1], [2], [3, 4, 5]]) == together
    assert nats(loss, [[0, 1], [2], [3, 4, 5]], seed=4) != pytest.approx(together, rel=1e-3)


def test_share_of_examples_that_keep_their_answer_is_the_weight():
    only_data = loss_of(weight=1.0)
    rows = [[0, 1], [2], [3, 4, 5]]
    data = tiny.rendered(6)
    alone = float(
        only_data.student(*collate(rows, data, max(sum(len(data[i].ids) for i in r) for r in rows)))
    )
    assert nats(only_data, rows) == pytest.approx(alone, rel=1e-5)
    kept = [
        nats(loss_of(weight=0.5), [[0]], seed) == pytest.approx(nats(only_data, [[0]]), rel=1e-6)
        for seed in range(40)
    ]
    assert 10 <= sum(kept) <= 30


def test_loss_is_the_mean_divergence_of_the_students_words_times_the_datas_count(monkeypatch):
    loss = loss_of(most=2)
    (rendered,) = tiny.rendered(1)
    batch = collate([[0]], [rendered], len(rendered.ids))
    seen = []
    kd_loss = loss.kd_loss.forward
    monkeypatch.setattr(
        loss.kd_loss, "forward", lambda *given: seen.append((given, kd_loss(*given))) or seen[-1][1]
    )
    torch.manual_seed(0)
    found = float(loss(*batch))
    ((logits, _, read), lacks) = seen[0]
    answer = rendered.mask.index(1)
    assert read.ids[0, :answer].tolist() == rendered.ids[:answer]  # the data's own question
    said = read.targets[read.targets != IGNORE]
    assert len(said) in (1, 2) and read.ids[0, answer : answer + len(said)].tolist() == said.tolist()
    assert found == pytest.approx(float(lacks.mean()) * sum(rendered.mask), rel=1e-5)
    assert logits.requires_grad and loss.student.model.training


def test_tokens_are_drawn_as_the_student_finds_them_likely():
    logits = torch.tensor([2.0, 0.5, -1.0, float("-inf")])
    drawn = Drawn([torch.Generator().manual_seed(seed) for seed in range(8000)])
    chosen = drawn(torch.zeros(8000, 1, dtype=torch.long), logits.expand(8000, -1)).argmax(-1)
    shares = torch.bincount(chosen, minlength=4) / 8000
    assert shares.tolist() == pytest.approx(logits.softmax(-1).tolist(), abs=0.02)
    assert shares[3] == 0


def test_only_the_last_of_several_answers_is_written_anew():
    turns = ("hi", "yes"), ("and", "no more")
    said = [
        Message(role, text) for pair in turns for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    rendered = render(Example("x", tuple(said)), tiny.TOKENIZER)
    batch = collate([[0]], [rendered], len(rendered.ids))
    (turn,) = turns_of(batch)
    answer = rendered.ids[turn.first + 1 : turn.first + 1 + turn.tokens]
    assert tiny.TOKENIZER.decode(answer, skip_special_tokens=True) == "no more"


@pytest.mark.parametrize(
    "changed",
    [
        {"recipe": RECIPE | {"method": "lora"}},
        {"recipe": RECIPE | {"gradient_checkpointing": True}},
        {"hidden_weight": 1.0},
    ],
    ids=str,
)
def test_whatever_else_is_set_the_student_comes_closer(go, teacher, changed):
    few = changed | {"recipe": changed.get("recipe", RECIPE) | {"budget_tokens": 300}}
    given = {"method": "on-policy", "cross_entropy_weight": 0.5}
    before = done(go(teacher, **given | few))[1]["valid_loss"]
    assert done(go(teacher, **given | changed))[1]["valid_loss"] < before


def test_writing_is_charged_and_its_seconds_are_worth_tokens_to_the_control(go, teacher):
    out, facts = done(go(teacher, **ON_POLICY))
    lesson = facts["teacher_seconds"] + facts["writing_seconds"]
    alone = facts["distill_seconds"] - lesson
    assert facts["writing_seconds"] > 0 and alone > 0
    worth = facts["total_tokens"] * lesson / alone
    assert json.loads((out / "worth_tokens").read_text()) == pytest.approx(worth, rel=0.02)
    again = done(go(teacher, **ON_POLICY))[1]
    assert again["tokens"] == 0 and again["writing_seconds"] == facts["writing_seconds"]


def test_text_without_a_question_is_refused_before_the_teacher_is_loaded(go, tmp_path):
    text = Example("page", (Message("assistant", "once upon a time"),), form="text")
    examples.write(tmp_path / "train.jsonl", [*tiny.sums(3), text])
    refused(
        go(tmp_path / "none", tiny.base(tmp_path / "b"), **ON_POLICY), 3, "'page'", "method to forward-kl"
    )


def test_a_compiled_student_that_writes_is_refused(go, teacher):
    refused(
        go(teacher, recipe=RECIPE | {"compile": "on"}, **ON_POLICY), 2, "recipe.compile on", "leave it out"
    )
