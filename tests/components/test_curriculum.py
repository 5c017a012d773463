"""Curriculum: what is hard, when it comes, and that the loop's steps follow."""

import itertools
import random
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcuts.components.core import examples
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.curriculum import difficulty
from deepcuts.components.curriculum.pacing import draw, share
from deepcuts.components.curriculum.step import DIFFICULTY_SIGNALS, curriculum
from deepcuts.components.training import scoring
from deepcuts.components.training.batches import plan_steps
from deepcuts.components.training.losses import CompletionLoss
from tests.training import tiny

torch.set_num_threads(1)
RECORDS = [
    Example(
        id=f"q{number}",
        messages=(Message("user", "a b c d e f g h"[: 1 + number % 15]), Message("assistant", str(number))),
        difficulty=float(number),
    )
    for number in range(30)
]


GIVEN = Recipe(order="given", budget_tokens=900)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny.model("llama").save_pretrained(folder)
    tiny.TOKENIZER.save_pretrained(folder)
    return folder


def run(tmp_path, base, records=RECORDS, **changed):
    """The facts, the ordered examples and the report."""
    examples.write(tmp_path / "cut", records)
    values = {"difficulty_signal": "column", "pacing": "linear", "phases": 3, "recipe": GIVEN, "seed": 0}
    out, report = tmp_path / "curriculum", tmp_path / "report.md"
    facts = curriculum(base=base, cut=tmp_path / "cut", curriculum=out, report=report, **values | changed)
    return facts, examples.read(out), report.read_text()


@pytest.mark.parametrize(
    "difficulty_signal",
    [name for name in DIFFICULTY_SIGNALS if name != "none"],
)
def test_curriculum_opens_the_easiest_first_and_spends_the_budget_evenly(tmp_path, base, difficulty_signal):
    facts, ordered, page = run(tmp_path, base, difficulty_signal=difficulty_signal)
    known = {record.id: record.messages for record in RECORDS}
    assert all(known[record.id] == record.messages for record in ordered)  # nothing invented
    assert [record.phase for record in ordered] == sorted(record.phase for record in ordered)
    lengths = [len(rendered.ids) for rendered in scoring.render_all(ordered, tiny.TOKENIZER)]
    assert 900 <= sum(lengths) == facts["tokens"] < 900 + max(lengths)
    for phase in range(3):
        mine = [n for n, record in zip(lengths, ordered, strict=True) if record.phase == phase]
        assert abs(sum(mine) - 300) <= max(lengths)
    hard = {record.id: record.difficulty for record in ordered}
    assert {record.id for record in ordered if record.phase == 0} <= set(sorted(hard, key=hard.get)[:15])
    assert "| 2 | 100% |" in page


def test_curriculum_none_hands_the_cut_on(tmp_path, base):
    facts, ordered, _ = run(tmp_path, base, difficulty_signal="none", recipe=Recipe())
    assert ordered == RECORDS and "cut_curriculum" not in facts


def test_curriculum_is_the_same_again_and_another_with_another_seed(tmp_path, base):
    once, again, other = (run(tmp_path, base, seed=seed)[1] for seed in (0, 0, 1))
    assert once == again != other


def test_curriculum_random_ranks_by_chance_with_the_same_pacing(tmp_path, base):
    _, ordered, _ = run(tmp_path, base, difficulty_signal="random")
    assert (
        len({record.id for record in ordered if record.phase == 0}) == 10
    )  # a third is open, as for the others
    numbers = [int(record.id[1:]) for record in ordered if record.phase == 0]
    assert max(numbers) > 10  # and it is not the first third


def test_curriculum_loss_is_the_base_models_and_is_charged(tmp_path, base):
    facts, ordered, _ = run(tmp_path, base, difficulty_signal="loss")
    (total, tokens), *_ = scoring.answer_nats(
        CompletionLoss(tiny.model("llama")), scoring.render_all(ordered[:1], tiny.TOKENIZER)
    )
    assert ordered[0].difficulty == pytest.approx(total / tokens, abs=1e-4)
    assert facts["scoring_tokens"] > 0


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"recipe": Recipe()}, ValueError, "set recipe.order to given"),
        ({"difficulty_signal": "lenght"}, ValueError, "unknown difficulty_signal: did you mean 'length'"),
        ({"records": []}, DataError, "is empty"),
        ({"records": [msgspec.structs.replace(RECORDS[0], difficulty=None)]}, DataError, "difficulty None"),
    ],
)
def test_curriculum_refuses_bad_input_and_leaves_nothing(tmp_path, base, changed, error, words):
    with pytest.raises(error, match=words):
        run(tmp_path, base, **changed)
    assert not (tmp_path / "curriculum").exists()


def test_curriculum_refuses_a_loss_that_is_not_finite(tmp_path):
    model = tiny.model("llama")
    model.model.norm.weight.data[:] = tiny.TOO_LARGE
    model.save_pretrained(tmp_path / "base")
    tiny.TOKENIZER.save_pretrained(tmp_path / "base")
    with pytest.raises(DataError, match="no finite loss"):
        run(tmp_path, tmp_path / "base", difficulty_signal="loss")


def test_steps_of_a_given_order_walk_through_the_curriculum_once(tmp_path, base):
    _, ordered, _ = run(tmp_path, base, recipe=Recipe(order="given", budget_tokens=2000))
    lengths = [len(rendered.ids) for rendered in scoring.render_all(ordered, tiny.TOKENIZER)]
    recipe = tiny.Recipe(**tiny.RECIPE | {"order": "given", "budget_tokens": 2000})
    taken = list(itertools.chain(*(step.examples for step in plan_steps(lengths, recipe))))
    assert taken == list(range(len(taken)))
    phases = [ordered[i].phase for i in taken]
    assert phases == sorted(phases) and set(phases) == {0, 1, 2}


def test_share_opens_everything_in_the_last_phase_and_never_closes():
    for pacing in ("linear", "root", "step"):
        for phases in range(1, 9):
            shares = [share(pacing, phase, phases) for phase in range(phases)]
            assert shares == sorted(shares) and shares[-1] == 1 and shares[0] > 0
    assert share("root", 0, 4) == 0.5
    assert [share("step", phase, 4) for phase in range(4)] == [0.5, 0.5, 1, 1]


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=30),
    st.sampled_from(["linear", "root", "step"]),
    st.integers(1, 6),
    st.integers(1, 500),
)
def test_draw_spends_the_budget_and_repeats_none_before_all_open_came(lengths, pacing, phases, budget_tokens):
    order = random.Random(0).sample(range(len(lengths)), len(lengths))
    drawn = draw(order, lengths, pacing, phases, budget_tokens, seed=0)
    assert budget_tokens <= sum(lengths[row] for row, _ in drawn) < budget_tokens + max(lengths)
    for phase in range(phases):
        mine = [row for row, its in drawn if its == phase]
        counts = [mine.count(row) for row in set(mine)]
        assert not mine or max(counts) - min(counts) <= 1


def test_compression_and_diversity_call_repetition_easy():
    dull, varied = "the cat " * 20, " ".join(f"word{i}{i * i}" for i in range(40))
    assert difficulty.compression(dull) < difficulty.compression(varied)
    assert difficulty.diversity(dull) < difficulty.diversity(varied)
    assert difficulty.diversity("a a b b") == pytest.approx(2.0)


def test_curriculum_is_as_long_as_its_epochs_of_the_cut(tmp_path, base):
    tokens = run(tmp_path, base, difficulty_signal="none")[0]["examples"] and sum(
        len(one.ids) for one in scoring.render_all(RECORDS, tiny.TOKENIZER)
    )
    facts, _, _ = run(tmp_path, base, recipe=Recipe(order="given", epochs=1.5))
    assert 1.5 * tokens - 1 <= facts["tokens"] < 1.5 * tokens + 60
