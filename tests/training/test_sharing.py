"""Where prefixes are shared, where not, and that a run is the same either way."""

import pytest
import torch
from accelerate import Accelerator

from deepcuts.components.core.store import FileStore
from deepcuts.components.training import adapters, loop, models, scoring, sharing
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.documents import examples_of
from deepcuts.components.training.losses import CompletionLoss
from tests.training import tiny, zoo
from tests.training.test_prefixes import conversations

DATA = conversations(60)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


class Interrupted(Exception):
    """What ends a run in the middle."""


def train(folder, kind, say=lambda text: None, **changed):
    recipe = tiny.recipe(learning_rate=1e-3, **changed)
    loss = CompletionLoss(adapters.adapt(tiny.model(kind), recipe, torch.device("cpu")))
    checkpoints = Checkpoints(FileStore(folder), "run", 2)
    outcome = loop.train(loss, DATA, recipe, Accelerator(cpu=True), checkpoints, say=say)
    return models.trainable(loss), outcome


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_learns_the_same_from_fewer_computed_tokens(tmp_path, kind, method):
    alone, plain = train(tmp_path / "alone", kind, method=method, share_prefixes="off")
    shared, outcome = train(tmp_path / "shared", kind, method=method)
    assert outcome.sharing.shared and not plain.sharing.shared
    for one, other in zip(outcome.progress.curve, plain.progress.curve, strict=True):
        assert one["tokens"] == other["tokens"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    assert all(torch.allclose(shared[name], alone[name], atol=1e-4) for name in alone)
    assert plain.progress.shared_tokens == 0
    assert 0.2 * outcome.progress.tokens < outcome.progress.shared_tokens < outcome.progress.tokens


def test_a_cut_run_goes_on_bit_identical_with_prefixes_shared(tmp_path):
    uncut, whole = train(tmp_path / "uncut", "llama", save_every_seconds=1e-6)
    lines = []

    def cut(text):
        lines.append(text)
        if len(lines) == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(tmp_path / "cut", "llama", say=cut, save_every_seconds=1e-6)
    resumed, outcome = train(tmp_path / "cut", "llama", save_every_seconds=1e-6)
    assert outcome.resumed_at_step == 3 and outcome.sharing.shared
    assert all(torch.equal(resumed[name], uncut[name]) for name in uncut)
    assert outcome.progress == whole.progress


@pytest.mark.parametrize("kind", ["bloom", "lfm2", "llama4_text", "qwen3_next"])
def test_a_model_that_cannot_do_it_trains_each_example_by_itself(kind):
    loss = CompletionLoss(zoo.model_of(kind))
    found = sharing.settle(loss, DATA, tiny.recipe(), Accelerator(cpu=True))
    assert not found.shared and "this model" in found.words


def test_a_model_that_counts_keys_and_not_positions_is_found_out():
    loss = CompletionLoss(zoo.model_of("bloom"))
    loss.layout = "documents"
    assert not sharing.prove(loss, DATA).shared


class Deaf(CompletionLoss):
    """Sees of each branch only its own tokens."""

    def at_targets(self, ids, positions, targets, states=False):
        restarted = positions.clone()
        for tokens, shared in examples_of(positions):
            restarted[0, tokens[shared:]] -= shared
        return super().at_targets(ids, restarted, targets, states)


def test_a_branch_that_does_not_see_its_prefix_is_found_out():
    found = sharing.prove(Deaf(tiny.model("llama")), DATA)
    assert not found.shared and found.difference_nats > 1e-2


def test_dropout_which_each_example_draws_for_itself_shares_nothing():
    loss = CompletionLoss(tiny.model("gpt2", resid_pdrop=0.2))
    state = torch.random.get_rng_state()
    found = sharing.settle(loss, DATA, tiny.recipe(), Accelerator(cpu=True))
    assert not found.shared and "dropout" in found.words
    assert torch.equal(torch.random.get_rng_state(), state)


def test_nothing_is_shared_where_little_would_be_saved_or_the_recipe_says_so():
    loss, accelerator = CompletionLoss(tiny.model("llama")), Accelerator(cpu=True)
    alone = [rendered for rendered in DATA if rendered.ids[:20] != DATA[0].ids[:20]]
    found = sharing.settle(loss, alone, tiny.recipe(), accelerator)
    assert not found.shared and "only 0.0%" in found.words
    for changed in ({"share_prefixes": "off"}, {"packing": False}):
        assert not sharing.settle(loss, DATA, tiny.recipe(**changed), accelerator).shared
    assert sharing.settle(loss, DATA, tiny.recipe(), accelerator).shared


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "bloom"])
def test_a_split_is_scored_alike_with_prefixes_shared_and_each_example_alone(kind, monkeypatch):
    loss = CompletionLoss(zoo.model_of(kind))
    computed = []
    loss.model.get_input_embeddings().register_forward_hook(
        lambda *given: computed.append(given[1][0].numel())
    )
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 300)
    shared = scoring.answer_nats(loss, DATA)
    tokens = sum(computed)
    monkeypatch.setattr(sharing, "MIN_SAVED", 1.0)
    alone = scoring.answer_nats(loss, DATA)
    assert [count for _, count in shared] == [count for _, count in alone]
    assert [nats for nats, _ in shared] == pytest.approx([nats for nats, _ in alone], rel=1e-4)
    assert (tokens < 0.8 * sum(len(rendered.ids) for rendered in DATA)) is (kind != "bloom")
