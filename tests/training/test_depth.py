"""Training of the upper blocks only: what moves, what a gradient costs below, what plan and recipe say."""

import copy

import pytest
import torch
from accelerate import Accelerator

from deepcuts.components.core.recipe import parse, training_id
from deepcuts.components.core.store import FileStore
from deepcuts.components.plan import speed
from deepcuts.components.training import adapters, depth, loop, models
from deepcuts.components.training.batches import collate
from deepcuts.components.training.blocks import blocks_of, saved_tensor_bytes
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.losses import CompletionLoss
from tests.components.test_plan import shapes
from tests.training import tiny

DATA = tiny.rendered(40)
DEEP = {"llama": {"num_hidden_layers": 4}, "qwen3": {"num_hidden_layers": 4}, "gpt2": {"n_layer": 4}}
TIED = {"tie_word_embeddings": True}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def adapted(kind: str, changed=None, **fields):
    recipe = tiny.recipe(**fields)
    return adapters.adapt(
        tiny.model(kind, **DEEP[kind] | (changed or {})), recipe, torch.device("cpu")
    ), recipe


def numbers_of(names) -> set[int]:
    """Return the blocks that weights lie in; none for those outside."""
    parts = (name.partition(".layers.")[2] or name.partition(".h.")[2] for name in names)
    return {int(part.partition(".")[0]) for part in parts if part}


@pytest.mark.parametrize("setting", [1, 3, 0.5, 0.01])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", DEEP)
def test_only_the_upper_blocks_have_trained_weights(kind, method, setting):
    model, recipe = adapted(kind, method=method, trained_layers=setting)
    count = {1: 1, 3: 3, 0.5: 2, 0.01: 1}[setting]
    trained = models.trainable(model)
    assert numbers_of(trained) == set(range(4 - count, 4))
    embeddings = [name for name in trained if "embed" in name or "wte" in name or "wpe" in name]
    assert embeddings == []
    outside = {name for name in trained if not numbers_of([name])}
    if method == "lora":
        assert outside == set()
    else:
        norm = {"gpt2": {"transformer.ln_f.weight", "transformer.ln_f.bias"}}.get(kind, {"model.norm.weight"})
        assert outside == norm | (set() if kind == "gpt2" else {"lm_head.weight"})  # GPT-2's is tied


def test_a_tied_head_stays_as_it_is_and_the_receipt_says_so():
    model, recipe = adapted("llama", TIED, trained_layers=2)
    assert "lm_head.weight" not in models.trainable(model)
    assert depth.describe(model, recipe) == (
        "the top 2 of 4 blocks; embeddings are frozen, and so is the head, which is tied to them"
    )
    assert depth.describe(model, tiny.recipe()) == "all"


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", DEEP)
def test_gradients_are_those_of_training_everything_and_nothing_is_kept_below(kind, method):
    fields = {"method": method, "trainable_embeddings": "no"}
    batch, kept, found = collate([[0, 1, 2]], DATA, 90), {}, {}
    for setting in ("all", 3, 2, 1):
        model, _ = adapted(kind, trained_layers=setting, **fields)
        for name, weight in models.trainable(
            model
        ).items():  # lora_B starts as nothing, and passes nothing on
            if "lora_" in name:
                torch.manual_seed(sum(map(ord, name)))
                weight.data.normal_(std=0.1)
        loss = CompletionLoss(model).train()
        if method == "lora":  # adapters below count in the forward pass: compare what trains alike
            for name, weight in loss.named_parameters():
                if "lora_B" in name and min(numbers_of([name])) < 3:
                    weight.data.zero_()
        with saved_tensor_bytes(loss) as count:
            nats = loss(*batch)
        kept[setting] = count()
        nats.backward()
        found[setting] = {n: p.grad for n, p in loss.named_parameters() if p.grad is not None}
    for setting in (3, 2, 1):
        same = [n for n in found[setting] if method == "full" or numbers_of([n]) == {3}]
        assert same and all(torch.equal(found[setting][n], found["all"][n]) for n in same)
    # each block less keeps a block's bytes less, to the very end: there is nothing below the lowest
    steps = [kept["all"] - kept[3], kept[3] - kept[2], kept[2] - kept[1]]
    assert steps[1] == steps[2] > 0 and steps[0] >= steps[1]
    assert kept[1] < 0.5 * kept["all"]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_recomputation_is_of_trained_blocks_only_and_asks_for_no_gradient_below(method):
    batch = collate([[0, 1, 2]], DATA, 90)
    kept, gradients = {}, {}
    for every in (False, 1, 2):
        model, _ = adapted("llama", method=method, trained_layers=2, gradient_checkpointing=every)
        on = [bool(one.gradient_checkpointing) for one in blocks_of(model)]
        assert on == [False, False, *{False: [False, False], 1: [True, True], 2: [True, False]}[every]]
        loss = CompletionLoss(model).train()
        with saved_tensor_bytes(loss) as count:
            nats = loss(*batch)
        kept[every] = count()
        nats.backward()
        gradients[every] = {n: p.grad for n, p in loss.named_parameters() if p.grad is not None}
        assert not model.get_input_embeddings()._forward_hooks
    assert kept[1] < kept[2] < kept[False]
    assert all(torch.equal(gradients[1][n], gradients[False][n]) for n in gradients[False])


def test_a_run_moves_the_upper_blocks_and_nothing_else(tmp_path):
    model, recipe = adapted("qwen3", trained_layers=1, learning_rate=1e-2)
    before = copy.deepcopy(model.state_dict())
    checkpoints = Checkpoints(FileStore(tmp_path), "run", 2)
    loop.train(CompletionLoss(model), DATA, recipe, Accelerator(cpu=True), checkpoints)
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == set(models.trainable(model)) and numbers_of(moved) == {3}


def test_what_is_no_depth_of_this_model_is_refused():
    with pytest.raises(ValueError, match="trained_layers 5: this model has 4 blocks"):
        adapted("llama", trained_layers=5)
    with pytest.raises(ValueError, match="trained_layers 5: this model has 4 blocks"):
        adapted("llama", method="lora", trained_layers=5)
    for fields in ({"frozen": ["embeddings"]}, {"initial": "random"}):
        with pytest.raises(ValueError, match="freezes the embeddings"):
            tiny.recipe(trained_layers=1, **fields)
    for fields in ({"new_token_ids": [3]}, {"trainable_embeddings": "yes"}):
        with pytest.raises(ValueError, match="freezes the embeddings"):
            tiny.recipe(method="lora", trained_layers=1, **fields)
    for value in (0, 1.0, "some"):
        with pytest.raises(ValueError, match="recipe.trained_layers"):
            tiny.recipe(trained_layers=value)


def test_named_targets_are_those_of_the_upper_blocks():
    model, _ = adapted("llama", method="lora", trained_layers=1, lora_targets=["q_proj", "down_proj"])
    trained = models.trainable(model)
    assert numbers_of(trained) == {3}
    assert {name.partition(".lora_")[0].rpartition(".")[2] for name in trained} == {"q_proj", "down_proj"}


def test_the_identity_of_a_run_of_all_blocks_is_what_it_was_and_another_depth_is_another():
    identities = [
        training_id(tiny.recipe(**fields), "base", "data") for fields in ({}, {"trained_layers": 1})
    ]
    assert identities[0] == training_id(tiny.recipe(trained_layers="all"), "base", "data") != identities[1]


CONFIG = {**tiny.model("llama").config.to_dict(), "num_hidden_layers": 9}


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_plan_counts_the_weights_bytes_and_operations_of_the_trained_blocks(method, count):
    fields = {"method": method, "trainable_embeddings": "no", "seq_len": 64, "tokens_per_step": 64}
    recipes = {n: parse(fields | {"trained_layers": n}) for n in (count, count + 1)}
    planned = {n: shapes(CONFIG).profile(recipe) for n, recipe in recipes.items()}
    for n, recipe in recipes.items():
        model = adapters.adapt(tiny.model("llama", num_hidden_layers=9), recipe, torch.device("cpu"))
        assert planned[n].trained_weights == models.count_weights(model)[1]
        assert len(planned[n].blocks) == n
    flops = {n: speed.flops_per_token(shapes(CONFIG), recipe, 0.5) for n, recipe in recipes.items()}
    tree, rank = shapes(CONFIG).tree, planned[count].adapter_weights / count
    attention = 4 * tree.attention_width / tree.layers * 64
    more = tree.matmul_weights / tree.layers * (4 if method == "full" else 2) + attention
    assert flops[count + 1] - flops[count] == pytest.approx(more + (6 * rank if method == "lora" else 0))
