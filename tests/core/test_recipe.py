import json
import math
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.core import epochs, recipe
from deepcuts.components.core.recipe import EXECUTION, Recipe, training_id
from deepcuts.components.training import batches

OTHER: dict[str, Any] = {
    "method": "full",
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "warmup_ratio": 0.1,
    "budget_tokens": 500_000,
    "epochs": 2.5,
    "budget_seconds": 60.0,
    "schedule_tokens": 3_000_000,
    "tokens_per_step": 4096,
    "seq_len": 256,
    "length_phases": [{"seq_len": 64, "until_ratio": 0.5}],
    "micro_batch_size": 2,
    "packing": False,
    "share_prefixes": "off",
    "trained_layers": 2,
    "scoring_share": 0.2,
    "order": "given",
    "weight_decay": 0.1,
    "beta1": 0.8,
    "beta2": 0.99,
    "max_grad_norm": 0.5,
    "lora_rank": 8,
    "lora_alpha": 16.0,
    "lora_dropout": 0.1,
    "lora_targets": ["q_proj"],
    "lora_rslora": True,
    "lora_dora": True,
    "trainable_embeddings": "no",
    "precision": "bf16",
    "gradient_checkpointing": 2,
    "compile": "off",
    "evaluations_in_loop": 11,
    "save_every_seconds": 10.0,
    "keep_checkpoints": 3,
    "seed": 1,
    "initial": "random",
    "frozen": ["layers"],
    "frozen_until_ratio": 0.5,
    "base_precision": "nf4",
    "new_token_ids": [32_000],
    "strategy": "fsdp",
}
"""For every field a value that is not its default."""


def phases(*lengths_and_ends: tuple[int, float]) -> dict[str, Any]:
    return {"length_phases": [{"seq_len": b, "until_ratio": e} for b, e in lengths_and_ends]}


def test_recipe_other_values_cover_every_field():
    assert set(OTHER) == set(Recipe.__struct_fields__)
    assert all(OTHER[name] != value for name, value in msgspec.structs.asdict(Recipe()).items())


def test_recipe_reads_what_it_writes(tmp_path):
    path = tmp_path / "recipe.json"
    for_lora: dict[str, Any] = {"base_precision": "as-stored", "new_token_ids": [], "trained_layers": "all"}
    wanted = recipe.parse(OTHER | for_lora | {"learning_rate": 1e-7, "epochs": None})
    path.write_bytes(msgspec.json.encode(wanted))
    assert recipe.read(path) == wanted


def test_recipe_reads_yaml_as_people_write_it(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("learning_rate: 1e-4\ntrainable_embeddings: yes\nbudget_tokens: 2_000_000\n")
    read = recipe.read(path)
    assert (read.learning_rate, read.trainable_embeddings, read.budget_tokens) == (1e-4, "yes", 2_000_000)


def test_recipe_read_names_the_file_in_its_errors(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("learning_rat: 1e-4\nseed: -1\n")
    with pytest.raises(ValueError) as error:
        recipe.read(path)
    assert str(error.value).splitlines() == [
        f"{path}.learning_rat: unknown key: did you mean 'learning_rate'?",
        f"{path}.seed: expected a whole number >= 0, got -1",
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", -1e-4),
        ("learning_rate", 0),
        ("learning_rate", math.inf),
        ("learning_rate", "fast"),
        ("method", "qlora"),
        ("schedule", "exponential"),
        ("warmup_ratio", 1.1),
        ("budget_tokens", 0),
        ("epochs", 0),
        ("epochs", -1),
        ("epochs", math.inf),
        ("epochs", "three"),
        ("schedule_tokens", -1),
        ("seq_len", 7),
        ("micro_batch_size", 0),
        ("weight_decay", -0.1),
        ("beta2", 1.5),
        ("max_grad_norm", 0),
        ("lora_rank", 0),
        ("lora_alpha", 0),
        ("lora_dropout", 1),
        ("lora_targets", "some-linear"),
        ("precision", "fp8"),
        ("gradient_checkpointing", -1),
        ("compile", "yes"),
        ("base_precision", "int4"),
        ("strategy", "zero"),
        ("save_every_seconds", 0),
        ("keep_checkpoints", 0),
        ("seed", -1),
        ("seed", 1.5),
    ],
)
def test_recipe_refuses_a_value_that_makes_no_sense(field, value):
    with pytest.raises(ValueError, match=rf"^recipe\.{field}: .*got "):
        recipe.parse({field: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule_tokens": 10, "budget_tokens": 11}, "raise the horizon"),
        ({"epochs": 3, "budget_tokens": 11}, "epochs 3 and budget_tokens 11: .*leave one of them out$"),
        ({"epochs": 3, "budget_tokens": 1_000_000}, "epochs 3 and budget_tokens 1000000: "),
        ({"tokens_per_step": 100, "seq_len": 101}, "raise tokens_per_step or lower seq_len"),
        (phases((600, 0.5)), "seq_len 600 until 0.5 comes before 512"),
        (phases((64, 0.5), (128, 0.4)), "let both rise"),
        ({"initial": "random"}, "set method to full"),
        ({"frozen": ["embeddings"]}, "set method to full"),
        ({"method": "full", "base_precision": "nf4"}, "set method to lora"),
        ({"method": "full", "new_token_ids": [7]}, "set method to lora"),
        ({"strategy": "fsdp", "base_precision": "nf4"}, "set strategy to ddp"),
        ({"strategy": "fsdp", "compile": "on"}, "set strategy to ddp"),
    ],
)
def test_recipe_refuses_fields_that_contradict_each_other(fields, message):
    with pytest.raises(ValueError, match=f"^recipe: .*{message}"):
        recipe.parse(fields)


def test_recipe_horizon_is_the_budget_unless_given():
    assert Recipe(budget_tokens=100).annealed_tokens == 100
    assert Recipe(budget_tokens=100, schedule_tokens=300).annealed_tokens == 300


def test_recipe_seq_len_follows_the_phases_over_the_annealed_tokens():
    run = recipe.parse(phases((64, 0.25), (128, 0.5)) | {"budget_tokens": 500, "schedule_tokens": 1000})
    assert [run.seq_len_at(t) for t in (0, 249, 250, 499, 500, 2000)] == [64, 64, 128, 128, 512, 512]
    assert Recipe().seq_len_at(0) == 512


def test_training_id_is_the_same_everywhere_and_for_ever():
    """A changed id orphans every checkpoint in every store: change it knowingly, never by accident."""
    assert training_id(Recipe(learning_rate=2e-4), "b" * 64, "d" * 64) == (
        "5e1e1d0b6a4d71fa24baa5722a1630d0d29a433f08eaa0fdce7d349e0d93c36b"
    )


@pytest.mark.parametrize("field", sorted(set(OTHER) - EXECUTION))
def test_training_id_changes_with_every_field_that_makes_the_result(field):
    rest: dict[str, Any] = {"method": "full"} if field.startswith(("initial", "frozen")) else {}
    rest |= {"frozen": ["embeddings"]} if field == "frozen_until_ratio" else {}
    changed, plain = recipe.parse(rest | {field: OTHER[field]}), recipe.parse(rest)
    assert training_id(changed, "b", "d") != training_id(plain, "b", "d")


@pytest.mark.parametrize("field", sorted(EXECUTION - {"budget_tokens", "epochs"}))
def test_training_id_ignores_how_the_run_is_executed(field):
    assert training_id(recipe.parse({field: OTHER[field]}), "b", "d") == training_id(Recipe(), "b", "d")


def test_training_id_changes_with_base_and_data_and_does_not_mix_them_up():
    ids = {
        training_id(Recipe(), base, data) for base, data in [("a", "b"), ("b", "a"), ("a", "a"), ("ab", "")]
    }
    assert len(ids) == 4


@given(budget=st.integers(1, 10_000), horizon=st.integers(10_000, 10**9))
def test_training_id_does_not_depend_on_the_budget_under_a_horizon(budget, horizon):
    short = Recipe(budget_tokens=budget, schedule_tokens=horizon)
    whole = Recipe(budget_tokens=horizon, schedule_tokens=0)
    assert training_id(short, "b", "d") == training_id(whole, "b", "d")


def test_epochs_are_budget_tokens_once_the_data_is_counted():
    asked = recipe.parse({"epochs": 2.5})
    assert epochs.settled(asked, 40_000) == Recipe(budget_tokens=100_000)
    assert training_id(epochs.settled(asked, 40_000), "b", "d") == training_id(
        Recipe(budget_tokens=100_000), "b", "d"
    )
    assert epochs.settled(Recipe(budget_tokens=7), 40_000) == Recipe(budget_tokens=7)


def test_epochs_that_were_never_counted_train_nothing():
    """Not a million tokens by default: a step that forgot to count fails before it trains."""
    with pytest.raises(AssertionError, match="epochs become tokens first"):
        training_id(recipe.parse({"epochs": 2.5}), "b", "d")
    with pytest.raises(ValueError, match="budget_tokens 0 is less than the first step's"):
        next(batches.plan_steps([20, 30], recipe.parse({"epochs": 2.5})))


def test_epochs_below_one_token_are_refused():
    with pytest.raises(ValueError, match="raise epochs"):
        epochs.settled(recipe.parse({"epochs": 1e-6}), 1000)


@given(passes=st.floats(0.01, 1000), data_tokens=st.integers(1000, 10**9))
def test_epochs_and_tokens_say_each_other(passes, data_tokens):
    tokens = epochs.settled(Recipe(epochs=passes), data_tokens).budget_tokens
    assert tokens / data_tokens == pytest.approx(passes, abs=0.51 / data_tokens)
    said = re.fullmatch(r"([\d,]+) tokens = ([\d,.]+) epochs?", epochs.in_words(tokens, data_tokens))
    assert said and int(said[1].replace(",", "")) == tokens
    assert float(said[2].replace(",", "")) == pytest.approx(tokens / data_tokens, rel=0.006)


@given(
    length=st.sampled_from([{}, {"epochs": 0.5}, {"budget_tokens": 20_000}, {"budget_tokens": 3_000_000}]),
    step=st.sampled_from([{}, {"tokens_per_step": 512}, {"tokens_per_step": 8192}]),
    rows=st.sampled_from([{}, {"seq_len": 128}]),
)
def test_recipe_is_the_same_after_its_changed_fields_alone_were_handed_on(length, step, rows):
    """A step of 8,192 tokens, given with a budget of 20,000, came out of the plan as one of 512."""
    given_recipe = recipe.parse(length | step | rows)
    assert recipe.parse(recipe.changed(given_recipe)) == given_recipe


def test_training_id_differs_between_two_annealed_lengths():
    assert training_id(Recipe(budget_tokens=100), "b", "d") != training_id(
        Recipe(budget_tokens=200), "b", "d"
    )


def test_training_id_does_not_depend_on_how_the_recipe_was_written(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 3\nlora_alpha: 16\n")
    (tmp_path / "b.json").write_text(json.dumps({"lora_alpha": 16.0, "seed": 3, "beta1": 0.9}))
    ids = {training_id(recipe.read(path), "b", "d") for path in tmp_path.iterdir()}
    assert len(ids) == 1


def test_recipe_refuses_a_unfreeze_of_nothing():
    with pytest.raises(ValueError, match="name the parts in frozen"):
        recipe.parse({"method": "full", "frozen_until_ratio": 0.5})
