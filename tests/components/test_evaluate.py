"""evaluate through its argv: whole models and adapters of four architectures, and what users get wrong."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from deepcuts.components.core import cli, files, scorecards
from deepcuts.components.core.errors import ModelFault
from deepcuts.components.evaluate import step
from deepcuts.components.evaluate.step import evaluate
from deepcuts.components.training import adapters, chat_template, models
from tests.conftest import ROOT
from tests.training import tiny

COUNT = 12


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def base(tmp_path):
    return tiny.base(tmp_path / "base")


@pytest.fixture
def go(tmp_path, capsys):
    """Run evaluate through its argv; returns (exit code, folder of the outputs, facts, stderr)."""
    tiny.write_sums(tmp_path / "split.jsonl", COUNT)
    (tmp_path / "labels.json").write_text("[]")

    def run(base: Path, model: Path, measures: tuple[str, ...] = ("completion_loss",), **changed: object):
        out = tmp_path / "out"
        files.remove(out)
        flags = {
            "base": base,
            "model": model,
            "split": tmp_path / "split.jsonl",
            "labels": tmp_path / "labels.json",
            "scorecard": out / "scorecard",
            "store": (tmp_path / "store").as_uri(),
            "measures": json.dumps(measures),
            "max_examples": 100,
            "max_new_tokens": 4,
            "seed": 0,
            "receipt": out / "receipt.json",
        }
        code = cli.run(evaluate, tiny.argv(flags | changed))
        return code, out, json.loads((out / "receipt.json").read_text())["facts"], capsys.readouterr().err

    return run


def adapter(base: Path, folder: Path) -> Path:
    """A LoRA adapter with weights that matter, as finetune saves it."""
    network, tokenizer = models.load_base(base)
    adapted = adapters.adapt(network, tiny.recipe(method="lora"), torch.device("cpu"))
    with torch.no_grad():
        for number, parameter in enumerate(models.trainable(adapted).values()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(0.1 * noise)
    models.save(adapted, tokenizer, base, folder, torch.float32)
    return folder


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_evaluate_writes_a_scorecard_of_every_measure(go, tmp_path, kind):
    base = tiny.base(tmp_path / "base", kind)
    (tmp_path / "labels.json").write_text('["0", "1"]')
    code, out, facts, _ = go(base, base, ("completion_loss", "exact_match", "label_accuracy"))
    assert code == 0
    card, scores = scorecards.read(out / "scorecard"), scorecards.read_scores(out / "scorecard")
    assert [score.id for score in scores] == [f"sum-{i}" for i in range(COUNT)]
    assert all(score.predicted in ("0", "1") and score.exact_match is not None for score in scores)
    nats, tokens = sum(s.answer_nats for s in scores), sum(s.answer_tokens for s in scores)
    assert card.completion_loss.mean == facts["completion_loss"] == pytest.approx(nats / tokens)
    assert card.label_accuracy.mean == sum(s.label_correct for s in scores) / COUNT
    assert card.model_digest == files.digest(base) and facts["examples"] == COUNT
    assert 0 < facts["label_tokens_computed"] < facts["label_tokens_one_by_one"]


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_an_adapter_scores_otherwise_than_its_base(go, tmp_path, kind):
    base = tiny.base(tmp_path / "base", kind)
    _, _, plain, _ = go(base, base)
    code, _, adapted, _ = go(base, adapter(base, tmp_path / "adapter"))
    assert code == 0 and abs(adapted["completion_loss"] - plain["completion_loss"]) > 0.01


def test_a_seed_draws_the_same_examples_for_every_model(go, tmp_path, base):
    def drawn(seed: int, model: Path) -> list[str]:
        _, out, _, _ = go(base, model, max_examples=5, seed=seed)
        return [score.id for score in scorecards.read_scores(out / "scorecard")]

    other = tiny.base(tmp_path / "other", "gpt2")
    first = drawn(0, base)
    assert len(first) == 5 and first == drawn(0, other)
    assert first != drawn(1, base) and first == sorted(first, key=lambda id: int(id[4:]))


def refused(result: Any, code: int, *words: str) -> None:
    """The exit code, words of the message, no traceback, and no output but the receipt."""
    found, out, _, stderr = result
    assert found == code and [path.name for path in out.iterdir()] == ["receipt.json"], stderr
    assert all(word in stderr for word in words), stderr
    assert "Traceback" not in stderr


def test_label_accuracy_without_labels_is_refused(go, base):
    refused(go(base, base, ("label_accuracy",)), 3, "label_accuracy needs a classification dataset")


@pytest.mark.parametrize("text", ["{}", "[1]", "not json", ""])
def test_labels_that_are_no_list_of_texts_are_refused(go, base, tmp_path, text):
    (tmp_path / "labels.json").write_text(text)
    refused(go(base, base, ("label_accuracy",)), 3, "labels.json")


def test_an_unknown_measure_is_refused(go, base):
    refused(go(base, base, ("exact_macth",)), 2, "exact_macth", "exact_match")


def test_an_adapter_on_another_base_is_refused(go, base, tmp_path):
    other = tiny.base(tmp_path / "other", seed=1)
    refused(go(other, adapter(base, tmp_path / "adapter")), 3, "was trained on base", "give that base")


def test_an_adapter_that_names_no_base_is_refused(go, base, tmp_path):
    network = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(network, LoraConfig(r=2, target_modules="all-linear")).save_pretrained(
        tmp_path / "foreign"
    )
    refused(go(base, tmp_path / "foreign"), 3, "foreign", "base.json")


def test_an_adapter_with_truncated_weights_is_refused(go, base, tmp_path):
    folder = adapter(base, tmp_path / "adapter")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    refused(go(base, folder), 3, "adapter")


def test_missing_model_is_named(go, base, tmp_path):
    refused(go(base, tmp_path / "nowhere"), 3, "nowhere does not exist")


def test_empty_split_is_refused(go, base, tmp_path):
    (tmp_path / "split.jsonl").write_text("")
    refused(go(base, base), 3, "split.jsonl is empty")


def test_an_example_beyond_the_context_is_refused(go, tmp_path):
    base = tiny.base(tmp_path / "base", "gpt2", n_positions=16)
    refused(go(base, base), 3, "tokens, the model's context 16")


def test_weights_that_overflow_are_a_data_error(go, base):
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][:] = tiny.TOO_LARGE
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    refused(go(base, base), 3, "not finite")


def test_evaluate_killed_on_the_way_goes_on_with_equal_scores(go, tmp_path, monkeypatch):
    base, whole_score = tiny.base(tmp_path / "base"), step.score
    monkeypatch.setattr(step, "CHUNK", 5)
    _, out, facts, _ = go(base, base)
    whole = scorecards.read_scores(out / "scorecard")
    assert facts["resumed_examples"] == 0 and not list((tmp_path / "store").rglob("*.jsonl"))

    def dies(network, tokenizer, records, *rest):
        if len(records) < 5:
            raise OSError("the node went away")
        return whole_score(network, tokenizer, records, *rest)

    monkeypatch.setattr(step, "score", dies)
    assert go(base, base)[0] == 4
    assert [len(path.read_text().splitlines()) for path in (tmp_path / "store").rglob("*.jsonl")] == [5, 5]
    monkeypatch.setattr(step, "score", whole_score)
    other = tiny.base(tmp_path / "other", seed=1)
    assert (
        go(base, other)[2]["resumed_examples"] == go(base, base, max_examples=6)[2]["resumed_examples"] == 0
    )
    _, out, facts, _ = go(base, base)
    assert scorecards.read_scores(out / "scorecard") == whole and facts["resumed_examples"] == 10


def harness_task(folder: Path) -> Path:
    """A multiple-choice task of lm-evaluation-harness with bundled data; needs no network."""
    rows = [{"question": f"{n}+1?\n", "choices": [str(n + 1), "no"], "label": 0} for n in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "tiny_sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    (folder / "tiny_sums.yaml").write_text(yaml.safe_dump(task))
    return folder / "tiny_sums.yaml"


def likelier(base: Path, tokenizer: Any, row: dict[str, Any]) -> bool:
    """Whether the model finds the first choice likelier, with nothing but transformers."""
    model, sums = AutoModelForCausalLM.from_pretrained(base).eval(), []
    for choice in row["choices"]:
        prompt = tokenizer(row["question"], add_special_tokens=False)["input_ids"]
        answer = tokenizer(choice, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        sums.append(sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)))
    return sums[0] > sums[1]


def test_evaluate_runs_a_named_task_of_the_harness_beside_its_own_measures(go, base, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    task = harness_task(tmp_path)
    code, out, facts, said = go(base, base, ("completion_loss", f"lm-eval:{task}"))
    assert code == 0, said
    (result,) = json.loads((out / "scorecard" / "harness.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    _, tokenizer = models.load_base(base)
    assert result["value"] == sum(likelier(base, tokenizer, row) for row in rows) / len(rows)
    assert (result["task"], result["metric"], result["examples"]) == ("tiny_sums", "acc", 8)
    assert result["standard_error"] is not None and result["higher_is_better"]
    assert facts["lm_eval_tiny_sums_acc"] == result["value"]
    plain = scorecards.read(out / "scorecard")
    _, again, _, _ = go(base, base)
    assert scorecards.read(again / "scorecard") == plain and not (again / "scorecard/harness.json").exists()


def test_template_that_never_ends_does_not_hold_the_harness_either(base, tmp_path, monkeypatch):
    from deepcuts.components.evaluate import harness  # takes seconds to import

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(chat_template, "TEMPLATE_SECONDS", 0.3)
    model, tokenizer = models.load_base(base)
    tokenizer.chat_template = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(ModelFault, match="chat template takes over"):
        harness.run(model, tokenizer, [str(harness_task(tmp_path))])


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ("lm-eval:hellaswog", "did you mean hellaswag"),
        ("exakt_match", "exakt_match is not known: give completion_loss, exact_match"),
    ],
)
def test_evaluate_refuses_a_measure_that_nobody_knows(go, base, measure, words):
    code, out, _, said = go(base, base, ("completion_loss", measure))
    assert code == 2 and words in said and not (out / "scorecard").exists()


def test_evaluating_without_harness_tasks_does_not_load_the_harness():
    code = "import sys, deepcuts.components.evaluate.step; sys.exit('lm_eval' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
