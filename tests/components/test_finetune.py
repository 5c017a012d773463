"""finetune through its argv: tiny models of four architectures, and what users get wrong."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from deepcuts.components.core import cli, examples, files
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.finetune import budget
from deepcuts.components.finetune.step import finetune
from deepcuts.components.training import models, scoring
from deepcuts.components.training.losses import CompletionLoss
from tests.conftest import ROOT
from tests.training import tiny

METHODS = ["full", "lora"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def base(tmp_path):
    return tiny.base(tmp_path / "base")


@pytest.fixture
def go(tmp_path, capsys):
    """Run finetune through its argv; returns (exit code, folder of the outputs, facts, stderr)."""
    tiny.write_sums(tmp_path / "train.jsonl", 60)
    tiny.write_sums(tmp_path / "valid.jsonl", 5, seed=1)

    def run(base: Path, recipe: Any = tiny.RECIPE, **changed: object):
        out = tmp_path / "out"
        files.remove(out)
        flags = {
            "base": base,
            "train": tmp_path / "train.jsonl",
            "valid": tmp_path / "valid.jsonl",
            "model": out / "model",
            "curve": out / "curve.jsonl",
            "store": f"file://{tmp_path}/store",
            "recipe": json.dumps(recipe),
            "receipt": out / "receipt.json",
        }
        code = cli.run(finetune, tiny.argv(flags | changed))
        return code, out, json.loads((out / "receipt.json").read_text())["facts"], capsys.readouterr().err

    return run


def curve(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]


def written(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_finetune_writes_a_model_that_plain_libraries_load_and_the_loss_falls(go, tmp_path, kind, method):
    base = tiny.base(tmp_path / "base", kind)
    code, out, facts, _ = go(base, tiny.RECIPE | {"method": method})
    assert code == 0 and written(out) == ["curve.jsonl", "model", "receipt.json"]
    losses = [record["loss"] for record in curve(out)]
    assert len(losses) == facts["steps"] and losses[-1] == facts["last_loss"] < 0.85 * losses[0]
    model = AutoModelForCausalLM.from_pretrained(base if method == "lora" else out / "model")
    if method == "lora":
        assert facts["trained_share"] < 1 and not list((out / "model").glob("model*.safetensors"))
        model = PeftModel.from_pretrained(model, str(out / "model"))
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert plain_loss(model.eval(), tokenizer, tmp_path / "valid.jsonl") == pytest.approx(
        facts["valid_loss"], rel=1e-4
    )


def plain_loss(model: Any, tokenizer: Any, path: Path) -> float:
    """Nats per answer token with nothing but transformers: one example at a time, no packing."""
    nats = count = 0
    for example in examples.read(path):
        question, answer = (message.content for message in example.messages)
        prompt = [tokenizer.bos_token_id, *tokenizer(question + "\n", add_special_tokens=False)["input_ids"]]
        tail = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        labels = torch.tensor([[-100] * len(prompt) + tail])
        with torch.inference_mode():
            nats += float(model(input_ids=torch.tensor([prompt + tail]), labels=labels).loss) * len(tail)
        count += len(tail)
    return nats / count


def test_finetune_keeps_the_precision_of_the_base(go, tmp_path):
    base = tiny.base(tmp_path / "base")
    half = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    half.save_pretrained(base)
    code, out, facts, _ = go(base)
    assert code == 0
    assert {t.dtype for t in load_file(out / "model/model.safetensors").values()} == {torch.bfloat16}
    assert facts["model_bytes"] == pytest.approx(files.size_bytes(base), rel=0.05)


def test_weights_in_half_precision_under_a_config_that_says_float32_do_not_grow(go, tmp_path):
    base = tiny.halve(tiny.base(tmp_path / "base"))
    code, out, facts, _ = go(base)
    assert code == 0
    assert {t.dtype for t in load_file(out / "model/model.safetensors").values()} == {torch.float16}
    assert facts["model_bytes"] == pytest.approx(files.size_bytes(base), rel=0.05)


def test_a_run_ends_before_its_budget_of_seconds_and_a_larger_one_goes_on_from_there(go, base, monkeypatch):
    monkeypatch.setattr(budget, "process_start", time.time)  # not that of all tests
    long = tiny.RECIPE | {"budget_tokens": 500_000}
    code, out, facts, _ = go(base, long | {"budget_seconds": 1.5})
    assert code == 0 and facts["ended_by_budget"] and facts["stopped_early"]
    assert 0 < facts["total_tokens"] < 400_000 and "best_step" not in facts
    assert (out / "model" / "model.safetensors").exists()
    assert facts["valid_loss"] > 0 and facts["paid_seconds"] > 1 and facts["recipe_budget_seconds"] == 1.5

    code, _, more, _ = go(base, long | {"budget_seconds": facts["paid_seconds"] + 1.5})
    assert code == 0 and more["ended_by_budget"]
    assert more["resumed_at_step"] == facts["steps"] < more["steps"]
    assert more["paid_seconds"] > facts["paid_seconds"]  # earlier attempts count


def test_a_budget_of_seconds_that_suffices_changes_nothing(go, base):
    _, out, facts, _ = go(base, tiny.RECIPE | {"budget_seconds": 1e6})
    first = curve(out)
    files.remove(out.parent / "store")
    _, out, other, _ = go(base)
    assert curve(out) == first and not facts["ended_by_budget"] and not facts["stopped_early"]
    assert facts["training_id"] == other["training_id"]


def test_the_best_of_what_was_scored_is_kept_and_not_the_last(go, base, tmp_path):
    tiny.write_sums(tmp_path / "train.jsonl", 4)
    tiny.write_sums(tmp_path / "valid.jsonl", 4, seed=1)
    code, out, facts, _ = go(base, tiny.RECIPE | {"budget_tokens": 40_000, "tokens_per_step": 1024})
    scored = {step: line["valid_loss"] for step, line in enumerate(curve(out), 1) if "valid_loss" in line}
    assert code == 0 and len(scored) == 8  # four rows again and again: learned by heart, worse elsewhere
    assert facts["valid_loss"] == min(scored.values()) < facts["last_valid_loss"] == scored[facts["steps"]]
    assert scored[facts["best_step"]] == facts["valid_loss"] and facts["best_step"] < facts["steps"]
    network, tokenizer = models.load(out / "model", base)
    data = scoring.render_all(examples.read(tmp_path / "valid.jsonl"), tokenizer)
    assert scoring.mean_nats(CompletionLoss(network), data) == pytest.approx(facts["valid_loss"], rel=1e-4)
    before = files.digest(out / "model")
    _, out, again, _ = go(base, tiny.RECIPE | {"budget_tokens": 40_000, "tokens_per_step": 1024})
    assert files.digest(out / "model") == before and again["best_step"] == facts["best_step"]


def test_scoring_that_would_cost_more_than_a_hundredth_stays_out_of_the_loop(go, base):
    code, out, facts, _ = go(base)  # 2,000 tokens trained, five rows to score
    assert code == 0 and "best_step" not in facts and not any("valid_loss" in line for line in curve(out))


def test_the_same_command_again_trains_nothing_and_writes_the_same_model(go, base):
    code, out, facts, _ = go(base)
    before = files.digest(out / "model")
    code, out, again, _ = go(base)
    assert code == 0 and files.digest(out / "model") == before
    assert again["tokens"] == 0 and again["resumed_at_step"] == facts["steps"]
    assert again["last_loss"] == facts["last_loss"] and again["training_id"] == facts["training_id"]


def test_the_receipt_says_what_each_cut_did(go, base):
    recipe = tiny.RECIPE | {"method": "lora", "compile": "off"}
    _, _, plain, _ = go(base, recipe | {"seed": 1})
    code, _, facts, _ = go(base, recipe | {"gradient_checkpointing": 2})
    assert code == 0 and facts["cut_checkpointing"] == "applied: one block in 2"
    assert plain["cut_checkpointing"] == "off: all activations are kept"
    assert 0 < facts["saved_tensor_bytes"] < 0.8 * plain["saved_tensor_bytes"]
    assert facts["saved_tensor_bytes_if_kept"] == pytest.approx(plain["saved_tensor_bytes"], rel=0.1)
    assert abs(facts["recompute_seconds"]) < facts["train_seconds"] and "recompute_seconds" not in plain
    assert facts["cut_compile"] == "off: recipe.compile is off" and not facts["compiled"]
    assert f"{facts['trained_share']:.2%} of the weights" in facts["cut_lora"]
    assert facts["optimizer_bytes"] < facts["full_optimizer_bytes"]
    assert (facts["micro_batch_size"], facts["out_of_memory"]) == (2, False)


def test_an_empty_valid_file_is_no_error(go, base, tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    code, _, facts, _ = go(base, valid=tmp_path / "none.jsonl")
    assert code == 0 and facts["valid_loss"] is None


def refused(result: Any, code: int, *words: str) -> None:
    """The exit code, words of the message, no traceback, and no output but the receipt."""
    found, out, _, stderr = result
    assert (found, written(out)) == (code, ["receipt.json"]), stderr
    assert all(word in stderr for word in words), stderr
    assert "Traceback" not in stderr


def test_base_without_weights_is_refused(go, base):
    (base / "model.safetensors").unlink()
    refused(go(base), 3, "no weights (*.safetensors)", "fetch the model again")


def test_base_with_pickle_weights_only_is_refused(go, base):
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    refused(go(base), 3, "only pickle weights (pytorch_model.bin)", "convert them to safetensors")


def test_base_with_truncated_weights_is_refused(go, base):
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(go(base), 3, "model.safetensors", "download it again")


def test_base_that_lacks_a_tensor_is_refused(go, base):
    weights = load_file(base / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    refused(go(base), 3, "model.layers.1.mlp.up_proj.weight", "fetch")


def test_base_with_a_broken_config_is_refused(go, base):
    (base / "config.json").write_text("{")
    refused(go(base), 3, "config.json")


def test_base_of_a_kind_that_transformers_does_not_know_is_refused(go, base):
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"model_type": "nonsense"}))
    refused(go(base), 3, "nonsense")


def test_missing_base_is_named(go, tmp_path):
    refused(go(tmp_path / "nowhere"), 3, "nowhere does not exist")


def test_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(go, tmp_path):
    base = tiny.base(tmp_path / "base", vocab_size=200)
    refused(go(base), 3, f"the tokenizer has {len(tiny.TOKENIZER)} tokens, the model 200")


def test_seq_len_above_the_context_is_refused(go, base):
    recipe = tiny.RECIPE | {"seq_len": tiny.CONTEXT + 1}
    refused(go(base, recipe), 2, f"seq_len {tiny.CONTEXT + 1} is above the model's context {tiny.CONTEXT}")


def test_an_example_longer_than_a_block_is_refused_not_cut(go, base, tmp_path):
    long = Example(id="long", messages=(Message("user", "a" * 70), Message("assistant", "b")))
    examples.write(tmp_path / "train.jsonl", [*tiny.sums(3), long])
    refused(go(base), 3, "example 3 has 74 tokens, a row 64", "raise recipe.seq_len")


def test_every_problem_of_a_recipe_is_reported_at_once(go, base):
    recipe = tiny.RECIPE | {"learning_rate": -1e-5, "lora_rnak": 8}
    refused(go(base, recipe), 2, "learning_rate", "-1e-05", "lora_rnak", "lora_rank")


def test_budget_below_one_step_is_refused(go, base):
    refused(
        go(base, tiny.RECIPE | {"budget_tokens": 100}), 2, "budget_tokens 100 is less than the first step"
    )


def test_lora_targets_that_the_model_lacks_are_refused(go, base):
    recipe = tiny.RECIPE | {"method": "lora", "lora_targets": ["q_porj"]}
    refused(go(base, recipe), 2, "q_porj", "q_proj")


def test_empty_train_file_is_refused(go, base, tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    refused(go(base), 3, "train.jsonl is empty")


def test_train_file_that_is_not_there_is_refused(go, base, tmp_path):
    (tmp_path / "train.jsonl").unlink()
    refused(go(base), 3, "train.jsonl")


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_overflow_end_as_a_data_error_and_leave_no_checkpoint(go, base, tmp_path, method):
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][:] = tiny.TOO_LARGE
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    refused(go(base, tiny.RECIPE | {"method": method}), 3, "the loss is nan", "at step 0")
    assert not list(tmp_path.glob("store/**/manifest.json"))


def test_random_initial_weights_forget_the_base(go, base):
    starts = {}
    for initial in ("pretrained", "random"):
        code, out, facts, _ = go(base, tiny.RECIPE | {"initial": initial, "seed": 3})
        assert code == 0 and facts["trained_share"] == 1
        starts[initial] = curve(out)[0]["loss"]
    assert starts["random"] != starts["pretrained"]


def test_a_base_in_4_bits_is_refused_on_a_cpu_before_it_is_loaded(go, base):
    (base / "model.safetensors").write_bytes(b"torn")
    code, out, _, message = go(base, tiny.RECIPE | {"method": "lora", "base_precision": "nf4"})
    assert code == 2 and "recipe.base_precision nf4 needs a CUDA device" in message
    assert written(out) == ["receipt.json"]


def test_the_receipt_says_whether_kernels_were_fused_and_what_the_weights_take(go, base):
    _, _, facts, _ = go(base)
    assert facts["liger_kernels"] == "off: no CUDA device"
    assert facts["weight_bytes"] == 4 * facts["weights"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "frozen"),
    [("lora", []), *(pytest.param("full", part, marks=pytest.mark.slow) for part in ([], ["embeddings"]))],
)
def test_a_sharded_finetune_writes_the_model_of_one_process(go, base, tmp_path, method, frozen):
    recipe = tiny.RECIPE | {"method": method, "frozen": frozen, "learning_rate": 1e-3, "strategy": "fsdp"}
    _, out, alone, _ = go(base, recipe)
    assert (alone["strategy"], alone["processes"]) == ("single", 1)
    two = tmp_path / "two"
    flags = {
        "base": base,
        "train": tmp_path / "train.jsonl",
        "valid": tmp_path / "valid.jsonl",
        "model": two / "model",
        "curve": two / "curve.jsonl",
        "store": (two / "store").as_uri(),
        "recipe": json.dumps(recipe),
        "receipt": two / "receipt.json",
    }
    argv = [
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "deepcuts.components.finetune.step",
        *tiny.argv(flags),
    ]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *argv], cwd=ROOT, env=environment, check=True
    )
    facts = json.loads((two / "receipt.json").read_text())["facts"]
    assert (facts["strategy"], facts["processes"]) == ("fsdp", 2)
    assert facts["cut_compile"] == "off: not tried with sharded weights"
    assert facts["valid_loss"] == pytest.approx(alone["valid_loss"], rel=1e-4)
    same = ("training_id", "trained_weights", "weights", "weight_bytes", "optimizer_bytes", "total_tokens")
    assert [facts[name] for name in same] == [alone[name] for name in same]
    assert written(two / "model") == written(out / "model")
    for name in (path.name for path in (out / "model").glob("*.safetensors")):
        one, other = load_file(out / "model" / name), load_file(two / "model" / name)
        assert one.keys() == other.keys()
        assert all(torch.allclose(one[key], other[key], atol=1e-4) for key in one)
