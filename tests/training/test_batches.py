import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.recipe import LengthPhase
from deepcuts.components.training.batches import (
    IGNORE,
    collate,
    count_targets,
    micro_batches,
    pack,
    plan_steps,
)
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered
from tests.training import tiny

SEQ_LEN = 32
LENGTHS = st.lists(st.integers(2, SEQ_LEN), min_size=1, max_size=40)
ORDERS = st.sampled_from(["given", "shuffle"])


def recipe(budget: int, order: str = "given", batch: int = SEQ_LEN, **more):
    return tiny.recipe(budget_tokens=budget, order=order, tokens_per_step=batch, seq_len=SEQ_LEN, **more)


def data_of(lengths: list[int]) -> list[Rendered]:
    """Every token of its own, the second half of each example is answer."""
    ids = itertools.count(1)
    return [Rendered([next(ids) for _ in range(n)], [int(i >= n // 2) for i in range(n)]) for n in lengths]


def test_given_order_goes_through_the_file_again_and_again():
    lengths = [20, 10, 30, 5]
    steps = list(plan_steps(lengths, recipe(200)))
    seen = [example for step in steps for example in step.examples]
    assert seen == [i % 4 for i in range(len(seen))] and len(seen) > 8
    assert [step.examples for step in steps[:3]] == [(0, 1), (2,), (3, 0)]


@given(lengths=LENGTHS, budget=st.integers(SEQ_LEN, 1000), order=ORDERS, batch=st.integers(SEQ_LEN, 100))
def test_steps_never_exceed_budget_or_batch_and_waste_no_room(lengths, budget, order, batch):
    settings = recipe(budget, order, batch)
    try:
        steps = list(plan_steps(lengths, settings))
    except ValueError as error:
        assert "budget_tokens" in str(error)
        return
    done = 0
    for number, step in enumerate(steps):
        tokens = sum(lengths[example] for example in step.examples)
        assert (step.number, step.tokens_before, step.tokens_after) == (number, done, done + tokens)
        assert 0 < tokens <= batch
        done += tokens
    assert done <= budget < done + batch


@given(lengths=LENGTHS, budget=st.integers(100, 500), more=st.integers(0, 500), order=ORDERS)
def test_a_larger_budget_takes_the_same_steps_and_goes_on(lengths, budget, more, order):
    short = list(plan_steps(lengths, recipe(budget, order)))
    long = list(plan_steps(lengths, recipe(budget + more, order)))
    assert long[: len(short)] == short


@given(lengths=LENGTHS, seed=st.integers(0, 5), order=ORDERS)
def test_every_example_comes_once_an_epoch(lengths, seed, order):
    budget = 3 * sum(lengths) + SEQ_LEN
    steps = plan_steps(lengths, recipe(budget, order, seed=seed))
    seen = [example for step in steps for example in step.examples]
    for epoch in range(len(seen) // len(lengths)):
        assert sorted(seen[epoch * len(lengths) :][: len(lengths)]) == list(range(len(lengths)))


SHORT_FIRST = [{"seq_len": 10, "until_ratio": 0.3}, {"seq_len": 20, "until_ratio": 0.6}]


def phased(budget: int, order: str = "given", batch: int = SEQ_LEN):
    return recipe(budget, order, batch, schedule_tokens=1000, length_phases=SHORT_FIRST)


def test_phases_take_what_fits_and_keep_the_order_of_what_waits():
    lengths = [32, 10, 20, 9, 8, 31, 19, 7]
    steps = list(plan_steps(lengths, phased(1000)))
    assert {step.seq_len for step in steps} == {10, 20, 32}
    for step in steps:
        assert step.seq_len == phased(1000).seq_len_at(step.tokens_before)
        assert max(lengths[e] for e in step.examples) <= step.seq_len
    seen = [e for step in steps for e in step.examples]
    ends = [sum(len(s.examples) for s in steps if s.seq_len <= batch) for batch in (10, 20)]
    assert seen[: ends[0]] == ([1, 3, 4, 7] * ends[0])[: ends[0]]
    middling = [e for e in seen[ends[0] :] if e in (2, 6)]
    assert middling[:6] == [2, 6] * 3 and [e for e in seen if e in (0, 5)][:4] == [0, 5, 0, 5]


@given(lengths=LENGTHS, budget=st.integers(SEQ_LEN, 1000), order=ORDERS, batch=st.integers(SEQ_LEN, 100))
def test_phases_change_neither_the_tokens_trained_nor_the_steps_under_a_budget(lengths, budget, order, batch):
    lengths = [2, *lengths]
    steps = list(plan_steps(lengths, phased(1000, order, batch)))
    done = 0
    for number, step in enumerate(steps):
        tokens = sum(lengths[example] for example in step.examples)
        assert (step.number, step.tokens_before, step.tokens_after) == (number, done, done + tokens)
        done += tokens
        assert 0 < tokens <= batch
    assert done <= 1000 < done + batch
    short = itertools.takewhile(lambda step: step.tokens_after <= budget, steps)
    try:
        assert list(plan_steps(lengths, phased(budget, order, batch))) == list(short)
    except ValueError as error:
        assert "budget_tokens" in str(error) and steps[0].tokens_after > budget


def test_a_phase_that_no_example_fits_is_a_data_error():
    with pytest.raises(DataError, match="no example fits into the rows of 10 .* the shortest has 11"):
        list(plan_steps([11, 32], phased(1000)))


def test_passes_of_a_short_phase_have_more_rows_and_no_more_tokens():
    lengths, settings = [8] * 40, phased(1000, batch=200)
    for step in plan_steps(lengths, settings):
        batches = micro_batches(step, data_of(lengths), lengths, settings, 0, 1)
        assert {batch.ids.shape[1] for batch in batches} <= {8, 16, 32}
        rows = settings.micro_batch_size * SEQ_LEN // step.seq_len
        assert max(len(batch.ids) for batch in batches) <= rows
        assert sum(batch.ids.numel() for batch in batches) >= step.tokens_after - step.tokens_before


def test_shuffle_differs_by_epoch_and_by_seed():
    lengths = [8] * 20

    def epochs(seed: int) -> list[tuple[int, ...]]:
        steps = plan_steps(lengths, recipe(400, "shuffle", seed=seed))
        seen = tuple(example for step in steps for example in step.examples)
        return [seen[:20], seen[20:40]]

    assert epochs(0) == epochs(0)
    assert len({*epochs(0), *epochs(1), tuple(range(20))}) == 5


def test_an_example_longer_than_a_block_is_a_data_error():
    with pytest.raises(DataError, match="example 1 has 33 tokens, a row 32"):
        list(plan_steps([10, 33], recipe(100)))


def test_a_budget_below_the_first_step_is_refused():
    with pytest.raises(ValueError, match="budget_tokens 20 is less than the first step's tokens"):
        list(plan_steps([15, 15], recipe(20)))


@given(lengths=LENGTHS)
def test_pack_loses_nothing_and_never_overfills(lengths):
    rows = pack(range(len(lengths)), lengths, SEQ_LEN)
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[example] for example in row) <= SEQ_LEN for row in rows)
    fewest = -(-sum(lengths) // SEQ_LEN)
    assert len(rows) <= max(fewest, 2 * fewest - 1)  # no two rows would fit into one


def test_collate_places_tokens_restarts_positions_and_never_learns_across_examples():
    data = data_of([3, 4, 2])
    batch = collate([[0, 1], [2]], data, width=8)
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 0], [8, 9, 0, 0, 0, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 2, 3, 0], [0, 1, 0, 0, 0, 0, 0, 0]]
    x = IGNORE
    assert batch.targets.tolist() == [[2, 3, x, x, 6, 7, x, x], [9, x, x, x, x, x, x, x]]


@given(lengths=LENGTHS, world=st.integers(1, 4), size=st.integers(1, 3))
def test_ranks_share_a_step_without_loss_in_equally_many_passes(lengths, world, size):
    settings = recipe(10_000, batch=2000, micro_batch_size=size)
    data = data_of(lengths)
    step = next(iter(plan_steps(lengths, settings)))
    shares = [micro_batches(step, data, lengths, settings, rank, world) for rank in range(world)]
    assert len({len(batches) for batches in shares}) == 1
    batches = [batch for share in shares for batch in share]
    assert all(batch.ids.shape[0] <= size and batch.ids.shape[1] <= SEQ_LEN for batch in batches)
    found = sorted(token for batch in batches for token in batch.ids.flatten().tolist() if token)
    assert found == sorted(token for example in step.examples for token in data[example].ids)
    targets = sum(int((batch.targets != IGNORE).sum()) for batch in batches)
    assert targets == count_targets(step, data)


def test_a_pass_holds_as_many_tokens_in_shorter_blocks():
    lengths = [SEQ_LEN // 2] * 12
    phases = [LengthPhase(seq_len=SEQ_LEN // 2, until_ratio=0.5)]
    settings = recipe(6 * SEQ_LEN, batch=3 * SEQ_LEN, micro_batch_size=3, length_phases=phases)
    data = data_of(lengths)
    first, *_, last = plan_steps(lengths, settings)
    shapes = [
        [tuple(b.ids.shape) for b in micro_batches(s, data, lengths, settings, 0, 1)] for s in (first, last)
    ]
    assert shapes == [[(6, SEQ_LEN // 2)], [(3, SEQ_LEN)]]


def test_count_targets_leaves_out_a_first_token_that_nothing_predicts():
    data = [Rendered([1, 2], [1, 1])]
    step = next(iter(plan_steps([2], recipe(100))))
    assert count_targets(step, data) == len(step.examples)
    assert torch.equal(collate([[0]], data, 2).targets, torch.tensor([[2, IGNORE]]))


def test_without_packing_each_example_has_a_row_and_the_sum_is_the_same():
    data = tiny.rendered(30)
    lengths = [len(example.ids) for example in data]
    packed, padded = tiny.recipe(), tiny.recipe(packing=False)
    step = next(iter(plan_steps(lengths, packed)))
    rows = micro_batches(step, data, lengths, padded, 0, 1)
    assert sum(len(batch.ids) for batch in rows) == len(step.examples)
    loss = CompletionLoss(tiny.model("llama"))
    sums = [
        sum(loss(*batch) for batch in micro_batches(step, data, lengths, recipe, 0, 1)).item()
        for recipe in (packed, padded)
    ]
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
