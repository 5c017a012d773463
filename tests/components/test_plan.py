"""Plan: what it chooses, what it refuses and why."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deepcuts.components.core import cli, examples, nodepools, strict, yaml_files
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.receipts import Receipt
from deepcuts.components.core.recipe import Recipe, parse, training_id
from deepcuts.components.ledger.step import read_plan
from deepcuts.components.plan import architecture, choice, speed
from deepcuts.components.plan.architecture import Architecture
from deepcuts.components.plan.architecture import parse as shapes_of
from deepcuts.components.plan.budget import Budget
from deepcuts.components.plan.choice import Measurement, PlanOption, PlanTask
from deepcuts.components.plan.decision import PlanTerms, train
from deepcuts.components.plan.placing import Wish
from deepcuts.components.plan.profile import growing
from deepcuts.components.plan.step import apply, plan
from tests.training import tiny, zoo

ROOT = Path(__file__).parents[2]
LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
}
SMALL = LLAMA_8B | {
    "vocab_size": 32000,
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "intermediate_size": 1376,
}
GPU = {
    "accelerator": "nvidia.com/gpu",
    "selector": {},
    "cpu_cores": 8,
    "memory_bytes": 2**36,
    "price_source": "test",
    "price_date": "2026-11-24",
}


def pool(name: str, gib: int, usd: float | None, devices: int = 1, **changed: Any) -> dict[str, Any]:
    links = {"interconnect_bytes_per_second": 3e11} if devices > 1 else {}
    return (
        GPU
        | {"name": name, "accelerator_model": name, "accelerator_memory_bytes": gib * 2**30}
        | {"accelerator_count": devices, "usd_per_hour": usd, "flops_per_second": 2e14}
        | {"memory_bytes_per_second": 1e12}
        | links
        | changed
    )


def decided(
    folder: Path, config: dict[str, Any], recipe: dict[str, Any], *pools: dict[str, Any], **wish: Any
) -> tuple[PlanOption, dict[str, str]]:
    folder.joinpath("config.json").write_text(json.dumps(config))
    known = nodepools.parse({"pools": list(pools)})
    terms = PlanTerms(wish.get("deadline_hours", 0.0), wish.get("objective", "cheapest"))
    task = PlanTask(architecture.read(folder), parse(recipe), answer_share=0.5)
    asked = wish.get("wish", Wish()), terms, wish.get("money"), wish.get("calibrate", Measurement())
    best, rejected = train(task, known, *asked)
    return best, {option.name: option.reason for option in rejected}


def shapes(config: dict[str, Any] = LLAMA_8B) -> Architecture:
    return shapes_of(config)


FULL = {"method": "full", "budget_tokens": 20_000_000, "tokens_per_step": 131072, "seq_len": 2048}
LORA = FULL | {"method": "lora"}
LORA_NF4 = {"method": "lora", "base_precision": "nf4"}


def test_weights_of_published_models_are_counted_exactly():
    assert shapes().tree.weights == 8_030_261_248  # Llama 3 8B
    gpt2 = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12}
    assert shapes_of(gpt2 | {"n_positions": 1024}).tree.weights == 124_439_808


def test_a_small_model_takes_the_cheaper_pool_and_no_recomputation(tmp_path):
    best, why = decided(tmp_path, SMALL, LORA, pool("small", 24, 0.8), pool("large", 80, 3.5))
    assert (best.pool, best.strategy, best.gradient_checkpointing) == ("small", "single", False)
    assert all(why.values())
    assert any("costs more" in reason for name, reason in why.items() if name.startswith("large"))


def test_a_deadline_moves_the_run_to_the_faster_pool(tmp_path):
    slow, fast = pool("slow", 80, 1.0), pool("fast", 80, 20.0, flops_per_second=1e15)
    cheap, _ = decided(tmp_path, LLAMA_8B, LORA, slow, fast)
    assert cheap.pool == "slow" and cheap.estimate
    deadline = cheap.estimate.hours_p90 * 0.6
    best, why = decided(tmp_path, LLAMA_8B, LORA, slow, fast, deadline_hours=deadline)
    assert best.pool == "fast"
    assert any("too late" in reason for reason in why.values())
    with pytest.raises(ValueError, match="deadline_hours 0.01: the fastest, fast"):
        decided(tmp_path, LLAMA_8B, LORA, slow, fast, deadline_hours=0.01)


def test_full_training_of_8b_is_sharded_because_no_device_holds_it(tmp_path):
    best, why = decided(tmp_path, LLAMA_8B, FULL, pool("eight", 80, 30.0, devices=8))
    assert (best.strategy, best.devices) == ("fsdp", 8)
    assert "does not fit on one device" in best.reason
    assert (
        sum("does not fit" in reason for reason in why.values()) == 4
    )  # single and ddp, kept and recomputed


def test_a_split_of_what_fits_one_device_shows_why_it_is_faster(tmp_path):
    best, _ = decided(tmp_path, SMALL, FULL, pool("eight", 80, 30.0, devices=8))
    assert best.strategy == "ddp"
    assert "times as fast as one device" in best.reason


def test_the_strategy_is_handed_on_and_one_the_recipe_names_is_kept_to(tmp_path):
    eight = pool("eight", 80, 30.0, devices=8)
    for recipe, wanted in [(FULL, "ddp"), (FULL | {"strategy": "fsdp"}, "fsdp")]:
        best, why = decided(tmp_path, SMALL, recipe, eight)
        assert apply(parse(recipe), best).strategy == best.strategy == wanted
        assert training_id(apply(parse(recipe), best), "b", "d") == training_id(parse(FULL), "b", "d")
    best, _ = decided(tmp_path, SMALL, FULL, pool("one", 80, 3.0))
    assert apply(parse(FULL), best).strategy == "auto"


@pytest.mark.parametrize("fields", [{"compile": "on"}, LORA_NF4])
def test_what_cannot_be_sharded_is_not_planned_sharded(tmp_path, fields):
    best, why = decided(tmp_path, SMALL, FULL | fields, pool("eight", 80, 30.0, devices=8))
    assert best.strategy == "ddp" and not any("fsdp" in name for name in why)


def test_a_base_in_4_bits_takes_a_card_that_16_bits_do_not_fit_and_no_cpu(tmp_path):
    small = pool("small", 12, 0.5, selector={"pool": "small"})
    cpu = pool("cpu", 0, 0.1, accelerator="", accelerator_count=0, selector={"pool": "cpu"})
    lora = FULL | {"method": "lora", "trainable_embeddings": "no"}
    with pytest.raises(ValueError, match="nothing fits"):
        decided(tmp_path, LLAMA_8B, lora, small)
    best, why = decided(tmp_path, LLAMA_8B, lora | {"base_precision": "nf4"}, small, cpu)
    assert best.pool == "small" and not any("cpu" in name for name in why)
    assert 5.5e9 < best.memory.weights < 6.2e9  # 7.0e9 matrices at 4.13 bits, 1.05e9 of embeddings at 16
    with pytest.raises(ValueError, match="nf4 needs a pool with an accelerator, here are cpu"):
        decided(tmp_path, LLAMA_8B, lora | {"base_precision": "nf4"}, cpu)


def test_a_slow_interconnect_keeps_the_run_on_one_device(tmp_path):
    slow = pool("eight", 80, 30.0, devices=8, interconnect_bytes_per_second=1e7)
    best, why = decided(tmp_path, SMALL, FULL, slow)
    assert best.strategy == "single"
    assert any("ddp" in name and "costs more" in reason for name, reason in why.items())


def test_recomputation_is_on_only_where_nothing_else_fits(tmp_path):
    long = LORA | {"seq_len": 8192, "trainable_embeddings": "no"}
    best, why = decided(tmp_path, LLAMA_8B, long, pool("gpu", 32, 1.0))
    assert best.gradient_checkpointing
    assert any("kept" in name and "does not fit" in reason for name, reason in why.items())
    roomy, _ = decided(tmp_path, LLAMA_8B, long, pool("gpu", 141, 1.0))
    assert not roomy.gradient_checkpointing


def test_nothing_fits_names_the_missing_bytes_and_a_change_that_fits(tmp_path):
    gpu = pool("gpu", 40, 1.0)
    with pytest.raises(ValueError, match="bytes of .* are missing: with recipe.method: lora") as refusal:
        decided(tmp_path, LLAMA_8B, FULL, gpu)
    assert f"{40 * 2**30:,}" in str(refusal.value)
    decided(tmp_path, LLAMA_8B, FULL | {"method": "lora", "trainable_embeddings": "no"}, gpu)


def test_an_unknown_price_is_never_the_cheapest_but_may_be_the_only_one(tmp_path):
    free, priced = pool("free", 80, None), pool("priced", 80, 9.0)
    best, why = decided(tmp_path, SMALL, LORA, free, priced)
    assert best.pool == "priced"
    assert any("unknown price" in reason for reason in why.values())
    alone, _ = decided(tmp_path, SMALL, LORA, free)
    assert alone.estimate and alone.estimate.usd_p50 is None


def test_a_measured_step_corrects_rate_and_activations(tmp_path):
    gpu = pool("gpu", 80, 1.0)
    recipe = LORA | {"micro_batch_size": 4}
    task = PlanTask(shapes(SMALL), parse(recipe), 0.5)
    pools = nodepools.parse({"pools": [gpu]})
    batch = choice.load(task.recipe, True, 0.5)
    kept = choice.saved_bytes(task.shapes, task.recipe, batch)
    loss = choice.logits_bytes(task.shapes, task.recipe, batch)
    measured = Measurement(pool="gpu", saved_bytes=int(1.5 * kept + loss), tokens_per_second=50_000)
    assert choice.calibrated(task, pools, measured).activation_factor == pytest.approx(1.5, rel=1e-6)
    best, _ = decided(tmp_path, SMALL, recipe, gpu, calibrate=measured)
    assert best.estimate
    assert task.recipe.tokens_per_step / best.estimate.seconds_per_step == pytest.approx(50_000, rel=1e-6)
    with pytest.raises(ValueError, match=r"calibrate.pool 'gup'"):
        choice.calibrated(task, pools, Measurement(pool="gup", saved_bytes=1))
    with pytest.raises(ValueError, match="its optimizer alone takes"):
        choice.calibrated(task, pools, Measurement(pool="gpu", tokens_per_second=1e15))


def test_communication_is_twice_the_parameters_for_ddp_and_thrice_for_fsdp():
    recipe, one = parse(FULL), shapes()
    ring = 7 / 8
    assert speed.communication_bytes(one, recipe, "ddp", 8, 1) == pytest.approx(
        2 * 4 * one.tree.weights * ring
    )
    assert speed.communication_bytes(one, recipe, "fsdp", 8, 1) == pytest.approx(
        3 * 4 * one.tree.weights * ring
    )
    assert speed.communication_bytes(one, recipe, "single", 1, 1) == 0


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model_type": "lllama"}, "'lllama' is not one that transformers ships"),
        ({"model_type": "vit"}, "'vit' is not a causal language model"),
        ({"num_attention_heads": 7}, "'llama' is not a causal language model"),
    ],
)
def test_what_is_no_language_model_is_refused_by_name(tmp_path, changed, words):
    with pytest.raises(ValueError, match=words):
        decided(tmp_path, LLAMA_8B | changed, LORA, pool("gpu", 80, 1.0))


@pytest.mark.parametrize("kind", ["mistral", "bloom", "mixtral", "lfm2"])
def test_any_type_is_planned_and_what_was_assumed_is_said(tmp_path, kind):
    config = zoo.config_of(kind)
    recipe = {"tokens_per_step": 256, "seq_len": 128, "trainable_embeddings": "no"}
    best, _ = decided(tmp_path, config.to_dict(), recipe, pool("gpu", 80, 1.0))
    assert best.memory.activations > 0 and best.estimate and best.estimate.hours_p50 > 0
    tree = shapes(config.to_dict()).tree
    assert tree.weights == sum(p.numel() for p in zoo.model_of(kind).parameters())
    said = {"mistral": "", "bloom": "squared", "mixtral": "50% of each block's experts", "lfm2": "ShortConv"}
    assert said[kind] in " ".join(tree.notes) and bool(tree.notes) == bool(said[kind])


def test_many_layers_that_are_alike_are_traced_as_a_few(tmp_path):
    recipe = parse({"method": "lora", "trainable_embeddings": "no", "seq_len": 64, "tokens_per_step": 64})
    wide = SMALL | {"num_hidden_layers": 3}
    deep = [shapes(wide | {"num_hidden_layers": n}).profile(recipe) for n in (3, 4, 9)]
    step = deep[1].trained_weights - deep[0].trained_weights
    assert deep[2].trained_weights == deep[0].trained_weights + 6 * step
    for every in (0, 1):
        found = [profile.saved_bytes(every, 1) for profile in deep]
        assert found[2] == pytest.approx(found[0] + 6 * (found[1] - found[0]), rel=1e-6)


def test_what_all_rows_share_is_counted_once():
    two, three = [{1: 30, 2: 8}], [{5: 40, 6: 8}]
    (kept,) = growing([two, three], (2, 3))
    assert [storage.bytes_of(4) for storage in kept.values()] == [50, 8]
    (kept,) = growing([two, [{5: 40}]], (2, 3))  # a pass that keeps other things: all grow
    assert [storage.bytes_of(4) for storage in kept.values()] == [60, 16]


def flags_of(tmp_path: Path, *pools: dict[str, Any]) -> dict[str, Any]:
    tmp_path.joinpath("config.json").write_text(json.dumps(SMALL))
    flags = {
        "base": tmp_path,
        "train": tmp_path / "train.jsonl",
        "recipe": json.dumps(LORA),
        "nodepools": json.dumps({"pools": pools}),
        "receipts": "{}",
        "run": "",
        "deadline_hours": 0,
        "budget_usd": 0,
        "reserve_share": 0.1,
        "objective": "cheapest",
        "answer_share": 0.5,
        "pool": "auto",
        "spot": "allowed",
        "compiled_for": '{"training_queue": "", "scoring_queue": "", "device": "nvidia.com/gpu"}',
        "watched": "false",
        "max_examples": 500,
        "max_tokens": 512,
        "taught": "{}",
        "space": "{}",
        "parallel": 1,
        "serve_on": "cpu",
        "candidates": '["off"]',
        "calibrate": "{}",
        "decision": tmp_path / "plan.json",
        "report": tmp_path / "plan.md",
        "planned": tmp_path / "recipe.json",
        "placed": "{}",
    }
    return flags


def run(flags: dict[str, Any]) -> int:
    return cli.run(plan, [w for name, v in flags.items() for w in (f"--{name.replace('_', '-')}", str(v))])


def test_plan_from_argv_writes_decision_report_and_a_recipe_of_the_same_identity(tmp_path):
    pools = [pool("small", 24, 0.8), pool("none", 24, 0.1, flops_per_second=None)]
    assert run(flags_of(tmp_path, *pools)) == 0
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["chosen"]["pool"] == "small"
    assert written["chosen"]["estimate"]["hours_p90"] > 0 and written["chosen"]["memory"]["total"] > 0
    assert read_plan(tmp_path / "plan.json").chosen.estimate.usd_p50 > 0  # what the ledger reads
    assert "unknown speed" in {r["reason"].split(":")[0] for r in written["rejected"]}
    assert "| **total** of 24.0 |" in (tmp_path / "plan.md").read_text()
    planned = strict.decode(Recipe, yaml_files.load(tmp_path / "recipe.json"), "recipe")
    assert planned.micro_batch_size == written["chosen"]["micro_batch_size"]
    assert training_id(planned, "b", "d") == training_id(parse(LORA), "b", "d")
    assert msgspec.structs.replace(planned, micro_batch_size=8) == parse(LORA)


@pytest.mark.parametrize(("method", "code"), [("on-policy", 3), ("sequence", 3), ("forward-kl", 0)])
def test_plain_text_answers_nobody_where_answers_are_to_be_written(tmp_path, capsys, method, code):
    flags = flags_of(tmp_path, pool("small", 24, 0.8))
    flags |= {
        "recipe": json.dumps({"method": "full"}),
        "taught": json.dumps({"teacher": str(tmp_path), "method": method}),
    }
    asked = Example("1", (Message("user", "2+2?"), Message("assistant", "4")))
    examples.write(flags["train"], [asked, Example("page", (Message("assistant", "once"),), form="text")])
    assert run(flags) == code
    assert ("'page' answers nobody" in capsys.readouterr().out) is bool(code)


def spent(folder: Path, pool: str, wall_seconds: float) -> dict[str, str]:
    """The receipt of a task before the plan."""
    receipt = Receipt(
        step="fetch",
        pool=pool,
        attempt=1,
        started_at="2026-11-24T10:00:00+00:00",
        wall_seconds=wall_seconds,
        cpu_seconds=1.0,
        device_seconds=0.0,
        peak_resident_bytes=1,
        peak_device_bytes=0,
        tokens=0,
        end_reason="ok",
        facts={},
    )
    cli.write_json(folder / "fetch.json", receipt)
    return {"receipts": json.dumps({"fetch": str(folder / "fetch.json")})}


def selected(folder: Path, tokens: int) -> dict[str, str]:
    """The receipt of a selection before the plan."""
    (file,) = json.loads(spent(folder, "small", 1.0)["receipts"]).values()
    receipt = json.loads(Path(file).read_text())
    facts = {"examples": 10, "kept": 8, "tokens": tokens, "dropped_duplicate": 2}
    Path(file).write_text(json.dumps(receipt | {"step": "select", "facts": facts}))
    return {"receipts": json.dumps({"select": file}), "receipt": str(folder / "receipt.json")}


def test_epochs_are_planned_and_handed_on_as_tokens_of_what_select_kept(tmp_path):
    tokens = sum(len(one.ids) for one in tiny.rendered(60))
    train, base = tiny.write_sums(tmp_path / "train.jsonl", 60), tiny.base(tmp_path / "base")
    flags = flags_of(tmp_path, pool("small", 24, 0.8)) | selected(tmp_path, tokens) | {"base": base}
    in_tokens = {"seq_len": 64, "budget_tokens": round(2.5 * tokens)}
    assert run(flags | {"train": train, "recipe": '{"seq_len": 64, "epochs": 2.5}'}) == 0
    planned, facts = outcome(tmp_path)
    assert planned.epochs is None and training_id(planned, "b", "d") == training_id(
        parse(in_tokens), "b", "d"
    )
    said = f"10 rows -> 8 to train on: 2 duplicates; {round(2.5 * tokens):,} tokens = 2.5 epochs"
    assert facts["forecast"] == f"training data: {said}" and said in (tmp_path / "plan.md").read_text()
    assert run(flags | {"recipe": json.dumps(in_tokens)}) == 0
    planned_in_tokens, same = outcome(tmp_path)
    assert planned_in_tokens == planned and same["predicted_hours_p50"] == facts["predicted_hours_p50"]


def test_epochs_of_data_that_is_still_selected_are_planned_with_all_of_it_and_handed_on_as_they_are(tmp_path):
    tiny.write_sums(tmp_path / "train.jsonl", 60)
    own = {"base": tiny.base(tmp_path / "base"), "receipt": tmp_path / "receipt.json"}
    flags = flags_of(tmp_path, pool("small", 24, 0.8)) | own
    assert run(flags | {"recipe": '{"epochs": 3, "seq_len": 64}'}) == 0
    planned, facts = outcome(tmp_path)
    assert planned.epochs == 3 and planned.tokens_per_step == 0
    tokens = 3 * sum(len(one.ids) for one in tiny.rendered(60))
    assert facts["forecast"] == f"training data: {tokens:,} tokens = 3 epochs"


def outcome(folder: Path) -> tuple[Recipe, dict[str, Any]]:
    """(the recipe handed on, facts of the receipt)."""
    planned = parse(json.loads((folder / "recipe.json").read_text()))
    return planned, json.loads((folder / "receipt.json").read_text())["facts"]


def test_a_budget_becomes_the_seconds_that_are_left_to_training_and_its_watcher(tmp_path):
    pools = [pool("gpu", 24, 3.0), pool("cpu", 24, 1.0, flops_per_second=None)]
    flags = flags_of(tmp_path, *pools) | {"budget_usd": 10, "pool": "gpu", "watched": "true"}
    flags |= spent(tmp_path, "cpu", 3600.0) | {"receipt": tmp_path / "receipt.json"}
    assert run(flags) == 0
    planned, facts = outcome(tmp_path)
    assert (facts["spent_before_usd"], facts["reserved_usd"]) == (1.0, 1.0)
    assert planned.budget_seconds == facts["budget_seconds"] == 7200  # $8 at $4 an hour
    assert training_id(planned, "b", "d") == training_id(parse(LORA), "b", "d")
    assert "$8 is left for training" in (tmp_path / "plan.md").read_text()

    own = flags | {"recipe": json.dumps(LORA | {"budget_seconds": 60})}
    assert run(own) == 0 and outcome(tmp_path)[0].budget_seconds == 60
    assert run(own | {"budget_usd": 0}) == 0
    assert outcome(tmp_path)[0].budget_seconds == 60 and "budget_usd" not in outcome(tmp_path)[1]


def test_a_budget_below_the_p50_of_training_is_refused_with_what_it_takes(tmp_path, capsys):
    flags = flags_of(tmp_path, pool("gpu", 24, 3.0)) | {"budget_usd": 0.01}
    assert run(flags) == 2 and not (tmp_path / "recipe.json").exists()
    said = capsys.readouterr().err
    assert "budget_usd 0.01" in said and "the cheapest training, gpu single x1" in said
    assert "raise budget_usd, or lower recipe.budget_tokens" in said


def test_a_budget_leaves_no_option_dearer_than_it_though_it_were_faster(tmp_path):
    slow, fast = pool("slow", 80, 1.0), pool("fast", 80, 100.0, flops_per_second=2e15)
    free, _ = decided(tmp_path, SMALL, FULL, slow, fast, objective="fastest")
    assert free.pool == "fast" and free.estimate and free.estimate.usd_p50
    money = Budget(usd=free.estimate.usd_p50, spent_usd=0.01, reserved_usd=0.0, beside_usd_per_hour=0.0)
    bounded, why = decided(tmp_path, SMALL, FULL, slow, fast, objective="fastest", money=money)
    assert bounded.pool == "slow"
    assert any(name.startswith("fast") and why[name].startswith("over the budget") for name in why)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pool": "free"}, "pool 'free' has no price"),
        ({"pool": "gpu", "watched": "true"}, "pool 'plain' has no price"),
        ({"pool": "gpu", "spent": "free"}, "fetch: pool 'free' has no price"),
        ({"pool": "gpu", "spent": "unknown"}, "fetch: its receipt names no node pool"),
    ],
)
def test_a_budget_with_an_unknown_price_is_refused(tmp_path, capsys, changed, words):
    plain = {"accelerator": "", "accelerator_count": 0, "accelerator_memory_bytes": 0}
    plain |= {"selector": {"pool": "plain"}}
    pools = pool("gpu", 24, 3.0), pool("free", 24, None), pool("plain", 24, None, **plain)
    pools[0]["selector"], pools[1]["selector"] = {"pool": "gpu"}, {"pool": "gpu"}
    flags = flags_of(tmp_path, *pools) | {"budget_usd": 10}
    before = spent(tmp_path, changed.pop("spent"), 1.0) if "spent" in changed else {}
    assert run(flags | before | changed) == 2
    assert words in capsys.readouterr().err
    assert run(flags | before | changed | {"budget_usd": 0, "watched": "false"}) == 0


def test_the_plan_command_starts_without_torch():
    code = "import sys, deepcuts.components.plan.step; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_plan_keeps_to_the_pool_where_training_is_placed_and_says_what_that_costs(tmp_path):
    dear, cheap = pool("dear", 24, 4.0), pool("cheap", 24, 0.5)
    best, rejected = decided(tmp_path, SMALL, {"tokens_per_step": 8192}, dear, cheap, wish=Wish("dear"))
    assert best.pool == "dear"
    reasons = [why for name, why in rejected.items() if name.startswith("cheap ")]
    assert any(re.fullmatch("cheaper: -.*%, but training is placed on dear", why) for why in reasons)
    with pytest.raises(ValueError, match="no node pool 'gone' to plan for: give auto, or one of dear, cheap"):
        decided(tmp_path, SMALL, {"tokens_per_step": 8192}, dear, cheap, wish=Wish("gone"))
