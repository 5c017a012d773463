"""Shared prefixes: each token of a tree is computed as if alone, so loss and gradient are the same."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.training import adapters, blocks, prefixes
from deepcuts.components.training.batches import IGNORE, collate
from deepcuts.components.training.documents import examples_of, find_documents
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered
from tests.training import tiny

WINDOWED = {"use_sliding_window": True, "max_window_layers": 0}
MODELS = {
    **{kind: (kind, {}) for kind in tiny.KINDS},
    "window shorter than a prefix": ("qwen2", WINDOWED | {"sliding_window": 7}),
    "window shorter than an example": ("qwen2", WINDOWED | {"sliding_window": 24}),
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def conversations(count: int = 14) -> list[Rendered]:
    """Return examples of a long beginning, of one that goes further, and of neither; one of two turns."""
    draw = random.Random(0)

    def words(length: int) -> list[int]:
        return [draw.randrange(3, 250) for _ in range(length)]

    system, branch = words(20), words(12)
    found = []
    for number in range(count):
        start = [system, system + branch, []][number % 3]
        prompt, answer = start + words(2 + number % 5), words(1 + number % 4)
        found.append(Rendered(prompt + answer, [0] * len(prompt) + [1] * len(answer)))
    ids, mask = found[0]
    again = Rendered([*ids, *branch, 5, 6], [*mask, *[0] * len(branch), 1, 1])  # begins like all of found[0]
    return [*found, again]


def gradients(loss: CompletionLoss) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in loss.model.named_parameters() if weight.grad is not None}


def of_tree(loss: CompletionLoss, data: list[Rendered], most_tokens: int = 10_000) -> float:
    """Pass all of ``data`` through ``loss`` with prefixes shared; returns the nats."""
    nats = 0.0
    for tree in prefixes.split(range(len(data)), data, most_tokens, world=1):
        found = loss(*prefixes.lay(tree, data))
        found.backward()
        nats += float(found.detach())
    return nats


def alone(kind: str, changed: dict, data: list[Rendered]) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the nats and the summed gradient with nothing but transformers, in float64."""
    model, nats = tiny.model(kind, **changed).double(), 0.0
    for rendered in data:
        ids = torch.tensor([rendered.ids])
        labels = torch.where(torch.tensor([rendered.mask]) == 1, ids, -100)
        loss = model(input_ids=ids, labels=labels).loss * sum(rendered.mask[1:])
        loss.backward()
        nats += float(loss.detach())
    return nats, {name: weight.grad for name, weight in model.named_parameters()}


def assert_same(loss: CompletionLoss, wanted: dict[str, torch.Tensor]) -> None:
    found = gradients(loss)
    assert set(found) == set(wanted)
    error = sum(float((found[name] - wanted[name]).square().sum()) for name in wanted) ** 0.5
    assert error < 1e-5 * sum(float(one.double().square().sum()) for one in wanted.values()) ** 0.5


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient_are_those_of_each_example_alone(name):
    kind, changed = MODELS[name]
    data = conversations()
    nats, wanted = alone(kind, changed, data)
    for most_tokens in (10_000, 90):
        loss = CompletionLoss(tiny.model(kind, **changed))
        assert of_tree(loss, data, most_tokens) == pytest.approx(nats, rel=1e-5)
        assert_same(loss, wanted)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_gradient_checkpointing_changes_no_gradient_of_a_tree(kind, method):
    data = conversations()
    found = []
    for every in (False, 1):
        recipe = tiny.recipe(method=method, gradient_checkpointing=every)
        loss = CompletionLoss(adapters.adapt(tiny.model(kind), recipe, torch.device("cpu"))).train()
        assert bool(blocks.blocks_of(loss)[0].gradient_checkpointing) is bool(every)
        of_tree(loss, data)
        found.append(gradients(loss))
    assert found[0].keys() == found[1].keys() and found[0]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_prefix_is_computed_once_and_a_target_is_never_shared():
    data = conversations()
    (tree,) = prefixes.split(range(len(data)), data, 10_000, world=1)
    batch = prefixes.lay(tree, data)
    trained = sum(len(rendered.ids) for rendered in data)
    assert batch.ids.shape == (1, tree.tokens)
    # two thirds begin with the 20 tokens, a third goes on with the same 12: all but one have them from it
    beginnings = [rendered.ids[:20] for rendered in data].count(data[0].ids[:20])
    goes_on = [rendered.ids[20:32] for rendered in data].count(data[1].ids[20:32])
    assert trained - tree.tokens == (beginnings - 1) * 20 + (goes_on - 1) * 12
    assert int((batch.targets != IGNORE).sum()) == sum(sum(rendered.mask) for rendered in data)


LETTERS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1)), min_size=2, max_size=30)


@given(rows=st.lists(LETTERS, min_size=1, max_size=12), most=st.integers(30, 100), world=st.integers(1, 3))
def test_every_example_is_found_again_in_a_tree_whole_and_with_its_targets(rows, most, world):
    data = [Rendered([token for token, _ in row], [mask for _, mask in row]) for row in rows]
    trees = prefixes.split(range(len(data)), data, most, world)
    assert len(trees) % world == 0 and all(tree.tokens <= most for tree in trees)
    assert sorted(example for tree in trees for example in tree.examples) == list(range(len(data)))
    for tree in trees:
        batch = prefixes.lay(tree, data)
        ids, targets = batch.ids[0], batch.targets[0]
        found = [
            (ids[tokens].tolist(), targets[tokens].tolist()) for tokens, _ in examples_of(batch.positions)
        ]
        alone = [collate([[e]], data, len(data[e].ids)) for e in tree.examples]
        assert found == [(one.ids[0].tolist(), one.targets[0].tolist()) for one in alone] or not tree.examples


@given(rows=st.lists(LETTERS, min_size=1, max_size=12))
def test_each_query_sees_its_example_up_to_itself_and_nothing_else(rows):
    data = [Rendered([token for token, _ in row], [mask for _, mask in row]) for row in rows]
    (tree,) = prefixes.split(range(len(data)), data, 10_000, world=1)
    batch = prefixes.lay(tree, data)
    documents = find_documents(batch.positions)
    wanted = {}
    for tokens, _ in examples_of(batch.positions):
        wanted |= {int(token): tokens[: place + 1].tolist() for place, token in enumerate(tokens)}
    laid = torch.cat([group.queries.flatten() for group in documents.groups])
    assert torch.equal(laid[documents.places], torch.arange(tree.tokens))
    for queries, keys, mask in documents.groups:
        if mask is None:
            mask = torch.ones(len(keys), 1, queries.shape[1], keys.shape[1], dtype=torch.bool).tril()
        mask = mask.expand(len(keys), -1, -1, -1)
        for row, column in (queries >= 0).nonzero().tolist():
            query = int(queries[row, column])
            seen = keys[row][mask[row, 0, column]].tolist()
            if int(documents.places[query]) == 0 or queries[row, :column].tolist().count(query) == 0:
                assert sorted(seen) == sorted(wanted[query])


def test_passes_are_as_full_as_they_can_be_and_even_over_ranks():
    data = [Rendered([1] * 50 + [10 + n] * 10, [0] * 55 + [1] * 5) for n in range(40)]
    alone = prefixes.split(range(40), data, 100, world=1)
    assert [tree.tokens for tree in alone] == [100] * 8  # 50 and five times 10
    two = prefixes.split(range(40), data, 350, world=2)
    assert [len(tree.examples) for tree in two] in ([20, 20], [21, 19])
    assert [len(tree.examples) for tree in prefixes.split(range(2), data, 350, world=4)].count(0) >= 2
