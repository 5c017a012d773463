"""distill through its argv: every method, every way to a student, and what users get wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from deepcuts.components.core import cli, files
from deepcuts.components.distill import serving
from deepcuts.components.distill.distill_config import DistillConfig, identity, kept_layers
from deepcuts.components.distill.step import distill
from deepcuts.components.distill.student import build
from deepcuts.components.training import scoring
from tests.training import tiny

RECIPE = tiny.RECIPE | {"budget_tokens": 1500}
GIVEN: dict[str, Any] = {
    "layers": "every-2",
    "config": "{}",
    "method": "forward-kl",
    "temperature": 2.0,
    "cross_entropy_weight": 0.5,
    "hidden_weight": 0.0,
    "cached_draws": 0,
    "max_new_tokens": 8,
    "extra_tokens": 0,
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def teacher(tmp_path):
    return tiny.base(tmp_path / "teacher", num_hidden_layers=4)


@pytest.fixture
def go(tmp_path, capsys):
    """Run distill through its argv; returns (exit code, folder of the outputs, facts, stderr)."""
    tiny.write_sums(tmp_path / "train.jsonl", 60)
    tiny.write_sums(tmp_path / "valid.jsonl", 5, seed=1)

    def run(teacher: Path, base: Path | None = None, recipe: Any = RECIPE, **changed: object):
        out = tmp_path / "out"
        files.remove(out)
        flags = {
            "teacher": teacher,
            "base": base or teacher,
            "train": tmp_path / "train.jsonl",
            "valid": tmp_path / "valid.jsonl",
            "model": out / "model",
            "curve": out / "curve.jsonl",
            "worth_tokens": out / "worth_tokens",
            "store": f"file://{tmp_path}/store",
            "recipe": json.dumps(recipe),
            "receipt": out / "receipt.json",
        }
        code = cli.run(distill, tiny.argv(flags | GIVEN | changed))
        return code, out, json.loads((out / "receipt.json").read_text())["facts"], capsys.readouterr().err

    return run


def done(result: Any) -> tuple[Path, dict[str, Any]]:
    code, out, facts, stderr = result
    assert code == 0, stderr
    names = ["curve.jsonl", "model", "receipt.json", "worth_tokens"]
    assert sorted(path.name for path in out.iterdir()) == names
    return out, facts


def refused(result: Any, code: int, *words: str) -> None:
    """The exit code, words of the message, no traceback, and no output but the receipt."""
    found, out, _, stderr = result
    assert (found, [path.name for path in out.iterdir()]) == (code, ["receipt.json"]), stderr
    assert all(word in stderr for word in words), stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_distill_writes_half_the_layers_as_a_model_that_transformers_loads(go, tmp_path, kind):
    layers = {"n_layer": 4} if kind == "gpt2" else {"num_hidden_layers": 4}
    out, facts = done(go(tiny.base(tmp_path / kind, kind, **layers)))
    student = AutoModelForCausalLM.from_pretrained(out / "model")
    assert student.config.num_hidden_layers == 2
    losses = [json.loads(line)["loss"] for line in (out / "curve.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.9 * losses[0]
    assert facts["student_bytes"] < 0.8 * facts["teacher_bytes"]
    assert 0 < facts["teacher_seconds"] < facts["distill_seconds"] and facts["train_cpu_seconds"] > 0
    assert facts["teacher_tokens"] >= facts["computed_tokens"] and facts["tokens"] == facts["total_tokens"]
    assert facts["teacher_precision"] == "float32" and facts["teacher_ms_per_token"] > 0


def test_a_student_is_stored_as_its_base_was(go, teacher):
    out, facts = done(go(tiny.halve(teacher)))
    assert {t.dtype for t in load_file(out / "model" / "model.safetensors").values()} == {torch.float16}
    assert facts["student_bytes"] < 0.8 * facts["teacher_bytes"]


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "reverse-kl"},
        {"method": "on-policy"},
        {"hidden_weight": 1.0},
        {"cached_draws": 20},
        {"layers": "0,3"},
        {"layers": "all", "config": '{"num_hidden_layers": 1, "hidden_size": 16}', "hidden_weight": 1.0},
    ],
    ids=str,
)
def test_every_way_to_teach_lowers_the_completion_loss(go, teacher, changed):
    none = done(go(teacher, recipe=RECIPE | {"budget_tokens": 300}, **changed))[1]["valid_loss"]
    assert done(go(teacher, **changed))[1]["valid_loss"] < none


def wise(folder: Path, **changed: Any) -> Path:
    """A teacher that answers every sum with ``42`` and its end."""
    folder = tiny.base(folder, **changed)
    network = AutoModelForCausalLM.from_pretrained(folder)
    answer = [*tiny.TOKENIZER("42", add_special_tokens=False)["input_ids"], tiny.TOKENIZER.eos_token_id]
    prompts = [rendered.ids[: rendered.mask.index(1)] for rendered in tiny.rendered(60)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for step in range(60):
        losses = []
        for prompt in prompts[step % 6 :: 6]:
            row = torch.tensor([[*prompt, *answer]])
            labels = torch.where(torch.arange(row.shape[1]) < len(prompt), -100, row)
            losses.append(network(input_ids=row, labels=labels).loss)
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    network.save_pretrained(folder)
    return folder


def test_sequence_learns_the_answers_the_teacher_writes(go, tmp_path):
    folder = wise(tmp_path / "teacher", num_hidden_layers=2)
    out, facts = done(go(folder, method="sequence", layers="0", recipe=RECIPE | {"budget_tokens": 6000}))
    assert facts["teacher_answers"] + facts["dropped_answers"] == 60 and facts["teacher_answers"] > 50
    student = AutoModelForCausalLM.from_pretrained(out / "model")
    answers = scoring.greedy_answers(student, tiny.TOKENIZER, tiny.sums(10, seed=5), 8)
    assert answers.count("42") >= 8
    assert facts["teacher_seconds"] > 0 and facts["teacher_tokens"] > 0


def test_sequence_refuses_a_teacher_that_never_ends(go, teacher):
    refused(go(teacher, method="sequence", max_new_tokens=2), 3, "finished none of 60 answers within 2")


def test_sequence_refuses_answers_that_fit_into_no_block(go, tmp_path):
    folder = wise(tmp_path / "teacher")
    recipe = RECIPE | {"seq_len": 8, "tokens_per_step": 64}
    refused(go(folder, method="sequence", layers="0", recipe=recipe), 3, "answers fits into a row of 8")


def test_control_trains_without_a_teacher_for_as_long_as_the_teacher_was_worth(go, teacher):
    out, facts = done(go(teacher))
    worth = int((out / "worth_tokens").read_text())
    alone = facts["distill_seconds"] - facts["teacher_seconds"]
    share = facts["teacher_seconds"] / alone
    rounded = (0.0005 + share * 0.001) / alone  # seconds are told in milliseconds, and these are few
    tolerance = facts["total_tokens"] * (0.01 * share + rounded)
    assert worth == facts["worth_tokens"] == pytest.approx(share * facts["total_tokens"], abs=tolerance)
    out, control = done(go(teacher, method="none", extra_tokens=1000))
    assert control["total_tokens"] > facts["total_tokens"] + 500
    assert (control["teacher_seconds"], control["teacher_tokens"], control["worth_tokens"]) == (0, 0, 0)
    assert control["cut_distill"] == "off: no teacher" and control["training_id"] != facts["training_id"]
    rates = [json.loads(line)["learning_rate"] for line in (out / "curve.jsonl").read_text().splitlines()]
    assert rates[-1] < 0.2 * max(rates)  # annealed to the end of the longer budget


def test_what_a_control_does_not_use_does_not_name_it(go, teacher):
    first = done(go(teacher, method="none"))[1]
    again = done(go(teacher, method="none", temperature=1.0, cached_draws=3, max_new_tokens=2))[1]
    assert again["training_id"] == first["training_id"] and again["tokens"] == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 1.0},
        {"cross_entropy_weight": 0.1},
        {"hidden_weight": 0.1},
        {"cached_draws": 4},
        {"method": "reverse-kl"},
        {"method": "on-policy"},
        {"layers": "0,1"},
        {"layers": "all", "config": '{"num_hidden_layers": 1}'},
    ],
    ids=str,
)
def test_whatever_changes_the_student_names_another_run(tmp_path, teacher, changed):
    train = tiny.write_sums(tmp_path / "train.jsonl", 3)

    def name(given: dict[str, Any], teacher: Path) -> str:
        start = ("config", "layers", "extra_tokens")
        lesson = DistillConfig(**{key: value for key, value in given.items() if key not in start})
        base, config = tmp_path / "teacher", json.loads(given["config"])
        return identity(tiny.recipe(), lesson, teacher, base, train, given["layers"], config)

    assert name(GIVEN, teacher) != name(GIVEN | changed, teacher)
    assert name(GIVEN, teacher) != name(GIVEN, tiny.base(tmp_path / "other", seed=9))


@pytest.mark.parametrize(
    "changed", [{}, {"cached_draws": 8}, {"hidden_weight": 1.0}, {"method": "on-policy"}], ids=str
)
def test_a_run_cut_short_goes_on_to_the_same_weights(go, teacher, tmp_path, changed):
    """A smaller budget under the same horizon is a run that stopped early; it leaves its checkpoint."""
    whole = RECIPE | {"schedule_tokens": RECIPE["budget_tokens"]}
    out, facts = done(go(teacher, recipe=whole, **changed))
    wanted = load_file(out / "model/model.safetensors")
    files.remove(tmp_path / "store")
    _, half = done(go(teacher, recipe=whole | {"budget_tokens": 700}, **changed))
    out, rest = done(go(teacher, recipe=whole, **changed))
    assert rest["resumed_at_step"] == half["steps"] and rest["training_id"] == facts["training_id"]
    assert rest["distill_seconds"] > half["distill_seconds"]  # the whole life is charged
    assert rest["teacher_seconds"] > half["teacher_seconds"]
    found = load_file(out / "model/model.safetensors")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_same_command_again_trains_nothing_and_says_the_same_of_the_teacher(go, teacher):
    out, facts = done(go(teacher))
    before = files.digest(out / "model")
    out, again = done(go(teacher))
    same = ("worth_tokens", "teacher_seconds", "teacher_tokens", "distill_seconds")
    assert again["tokens"] == 0 and [again[name] for name in same] == [facts[name] for name in same]
    assert files.digest(out / "model") == before


def test_cached_draws_are_made_once_and_cost_less_than_asking_at_every_step(go, teacher):
    recipe = RECIPE | {"budget_tokens": 6000, "share_prefixes": "off"}  # several epochs
    online = done(go(teacher, recipe=recipe))[1]
    cached = done(go(teacher, recipe=recipe, cached_draws=8))[1]
    assert cached["teacher_tokens"] < online["teacher_tokens"] / 2
    assert 0 < cached["cache_bytes"] < 4 * 10 * cached["answer_tokens"]


def test_lora_heals_a_student_and_leaves_a_whole_model(go, teacher):
    out, facts = done(go(teacher, recipe=RECIPE | {"method": "lora"}))
    assert facts["trained_share"] < 1 and not (out / "model/adapter_config.json").exists()
    assert AutoModelForCausalLM.from_pretrained(out / "model").config.num_hidden_layers == 2


def test_random_initial_weights_forget_the_base(go, teacher):
    kept = done(go(teacher))[1]
    fresh = done(go(teacher, recipe=RECIPE | {"initial": "random"}))[1]
    assert fresh["training_id"] != kept["training_id"] and fresh["valid_loss"] != kept["valid_loss"]


def test_a_smaller_model_of_another_folder_is_a_student(go, teacher, tmp_path):
    small = tiny.base(tmp_path / "small", seed=3, num_hidden_layers=1, hidden_size=16)
    out, _ = done(go(teacher, base=small, layers="all", hidden_weight=0.5))
    config = AutoModelForCausalLM.from_pretrained(out / "model").config
    assert (config.hidden_size, config.num_hidden_layers) == (16, 1)


def test_rows_padded_to_another_count_are_no_other_vocabulary(go, teacher, tmp_path):
    done(go(teacher, base=tiny.base(tmp_path / "wide", vocab_size=300), layers="0"))


def test_another_vocabulary_is_refused_but_may_learn_written_answers(go, teacher, tmp_path):
    other = tiny.base(tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["sum"])
    tokenizer.save_pretrained(other)
    words = ("different vocabularies", "'sum'", "missing", "method sequence")
    refused(go(teacher, base=other, layers="0"), 2, *words)
    folder = wise(tmp_path / "wise")
    done(go(folder, base=other, layers="0", method="sequence"))


@pytest.mark.parametrize("layers", ["all", "every-1", "every-2", "every-9", "3", "0,2,3"])
def test_kept_layers_are_the_base_models_in_order(layers):
    base = tiny.model("llama", num_hidden_layers=4)
    kept = kept_layers(layers, 4)
    weights = build(base, layers, {}, seed=0).state_dict()
    assert sum(name.endswith("up_proj.weight") for name in weights) == len(kept)
    for place, layer in enumerate(kept):
        name = "model.layers.{}.mlp.up_proj.weight"
        assert torch.equal(weights[name.format(place)], base.state_dict()[name.format(layer)])


def test_kept_layers_keep_their_kind_of_attention():
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    base = tiny.model("qwen2", num_hidden_layers=4, layer_types=kinds, use_sliding_window=True)
    assert build(base, "1,2", {}, seed=0).config.layer_types == kinds[1:3]


@pytest.mark.parametrize(
    "layers, words",
    [
        ("every-0", "every-2"),
        ("0,4", "0 to 3"),
        ("2,1", "rising order"),
        ("1,1", "each once"),
        ("", "give all"),
        ("half", "give all"),
    ],
)
def test_layers_that_cannot_be_kept_are_refused(go, teacher, layers, words):
    refused(go(teacher, layers=layers), 2, words)


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"method": "forward_kl"}, ["method 'forward_kl'", "forward-kl"]),
        ({"temperature": 0}, ["temperature", "> 0"]),
        ({"cross_entropy_weight": 1}, ["ignores the teacher", "method to none"]),
        ({"cached_draws": 5, "method": "reverse-kl"}, ["cached_draws 5", "forward KL only"]),
        ({"cached_draws": 5, "hidden_weight": 1}, ["cached_draws 5", "forward KL only"]),
        ({"cached_draws": 5, "method": "on-policy"}, ["cached_draws 5", "forward KL only"]),
        ({"config": '{"num_hidden_layers": 1}'}, ["layers 'every-2' with a config"]),
        ({"layers": "all", "config": '{"hidden": 1}'}, ["config.hidden", "no such setting"]),
        ({"layers": "all", "config": '{"vocab_size": 1000}'}, ["vocab_size", "keep the vocabulary"]),
        ({"layers": "all", "config": '{"num_key_value_heads": 3}'}, ["is not valid"]),
        ({"layers": "all", "config": '{"num_hidden_layers": 0}'}, ["num_hidden_layers"]),
        ({"layers": "all", "config": '{"hidden_size": "x"}'}, ["is not valid"]),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(go, teacher, changed, words):
    refused(go(teacher, **changed), 2, *words)


def test_lora_over_random_weights_is_refused(go, teacher):
    recipe = RECIPE | {"method": "lora"}
    refused(go(teacher, recipe=recipe, layers="all", config='{"hidden_size": 16}'), 2, "lora", "full")


@pytest.mark.parametrize("fields", [{"strategy": "fsdp"}, {"method": "lora", "base_precision": "nf4"}])
def test_a_student_is_neither_sharded_nor_put_into_4_bits(go, teacher, fields):
    refused(go(teacher, recipe=RECIPE | fields), 2, "leave them out")


def test_a_bound_in_seconds_that_would_not_be_kept_is_refused(go, teacher):
    refused(go(teacher, recipe=RECIPE | {"budget_seconds": 9.0}), 2, "budget_seconds 9.0", "budget_tokens")


def test_a_teacher_that_is_not_there_or_has_no_weights_is_refused(go, teacher, tmp_path):
    refused(go(tmp_path / "nowhere", base=teacher), 3, "nowhere does not exist")
    torn = tiny.base(tmp_path / "torn")
    (torn / "model.safetensors").unlink()
    refused(go(torn, base=teacher), 3, "no weights")


@pytest.mark.parametrize("draws", [0, 4])
def test_a_teacher_whose_weights_overflow_ends_as_a_data_error_and_leaves_no_checkpoint(go, tmp_path, draws):
    teacher, base = tiny.base(tmp_path / "broken"), tiny.base(tmp_path / "base")
    weights = load_file(teacher / "model.safetensors")
    weights["model.norm.weight"][:] = tiny.TOO_LARGE
    save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})
    refused(go(teacher, base=base, layers="0", cached_draws=draws), 3, "teacher", "not finite")
    assert not list(tmp_path.glob("store/**/manifest.json"))


def test_a_teacher_with_a_shorter_context_is_refused(go, teacher, tmp_path):
    short = tiny.base(tmp_path / "short", max_position_embeddings=32)
    refused(go(short, base=teacher), 2, "seq_len 64", "context 32")


def test_break_even_is_when_the_seconds_saved_are_those_of_the_training():
    assert serving.break_even_tokens(60.0, teacher_ms=5.0, student_ms=2.0) == 20_000
    assert serving.break_even_tokens(60.0, teacher_ms=2.0, student_ms=2.0) is None
    assert serving.break_even_tokens(60.0, teacher_ms=2.0, student_ms=3.0) is None


def test_fewer_layers_are_sooner_done_with_a_token():
    """Alternated, so that a busy machine slows both; 8 layers against 1 is far from noise."""
    deep, flat = (tiny.model("llama", num_hidden_layers=count) for count in (8, 1))
    slow, fast = serving.ms_per_token([deep, flat], [1, 2, 3], tiny.TOKENIZER.eos_token_id)
    assert slow > 1.5 * fast
