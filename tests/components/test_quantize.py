"""quantize through its argv: every format saved, loaded and scored; the choice; and what users get wrong."""

import copy
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from llmcompressor.pipelines.cache import IntermediatesCache
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from deepcuts.components.core import cli, examples, files
from deepcuts.components.core.scorecards import Comparison
from deepcuts.components.gguf import convert
from deepcuts.components.quantize import candidates, choice, compressed
from deepcuts.components.quantize.candidates import NAMES, FailedCandidate, MeasuredCandidate
from deepcuts.components.quantize.served import foresee, wanted
from deepcuts.components.quantize.step import quantize
from deepcuts.components.training import latency, models, quantized, scoring
from deepcuts.components.training.latency import Latency
from deepcuts.components.training.render import Rendered
from tests.components.test_evaluate import adapter
from tests.conftest import ROOT
from tests.training import tiny, zoo

WIDE = {"intermediate_size": 64}
"""4-bit formats want columns in groups of 32."""
LINEAR = [kind for kind in tiny.KINDS if kind != "gpt2"]
"""GPT-2's layers are of type Conv1D."""


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(latency, "ROUNDS", 3)


def make(folder: Path, kind: str = "llama", **changed: object) -> Path:
    return tiny.base(folder, kind, **({} if kind == "gpt2" else WIDE) | changed)


@pytest.fixture
def go(tmp_path, capsys):
    """Run quantize through its argv; returns (exit code, folder of the outputs, facts, stderr)."""
    tiny.write_sums(tmp_path / "text.jsonl", 30)
    tiny.write_sums(tmp_path / "split.jsonl", 20, seed=1)

    def run(base: Path, *candidates: str, **changed: object):
        out = tmp_path / "out"
        files.remove(out)
        flags: dict[str, object] = {
            "base": base,
            "model": base,
            "text": tmp_path / "text.jsonl",
            "split": tmp_path / "split.jsonl",
            "chosen": out / "chosen",
            "summary": out / "summary.md",
            "serve_on": "cpu",
            "candidates": json.dumps(candidates),
            "objective": "bytes",
            "margin_nats": 0.5,
            "group_size": 32,
            "calibration_tokens": 200,
            "max_examples": 20,
            "seed": 0,
            "receipt": out / "receipt.json",
        }
        code = cli.run(quantize, tiny.argv(flags | changed))
        return code, out, json.loads((out / "receipt.json").read_text())["facts"], capsys.readouterr().err

    return run


def refused(result, code: int, *words: str) -> None:
    found, out, _, stderr = result
    assert found == code and [path.name for path in out.iterdir()] == ["receipt.json"], stderr
    assert all(word in stderr for word in words) and "Traceback" not in stderr, stderr


SCORE = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
import torch
from deepcuts.components.core import examples
from deepcuts.components.quantize.candidates import score
from deepcuts.components.training import models, scoring

torch.set_num_threads(1)
records = examples.read(Path(sys.argv[1]))
found = {}
for folder in map(Path, sys.argv[2:]):
    network, tokenizer = models.load(folder, folder)
    scores = score(network, [record.id for record in records], scoring.render_all(records, tokenizer))
    nats = {one.id: one.answer_nats for one in scores}
    found[folder.name] = nats, scoring.greedy_answers(network, tokenizer, records, 3)
print(json.dumps(found))
"""


@pytest.mark.slow  # 20 s or more on two busy cores
def test_a_fresh_process_scores_and_generates_from_every_saved_folder_as_measured(go, tmp_path):
    base = make(tmp_path / "base", "qwen3")
    told = {}
    here = [name for name in NAMES if name != "awq-w4a16"]  # which needs a CUDA device
    for name in here:
        code, out, facts, stderr = go(base, name)
        assert code == 0 and facts["chosen"] == name, stderr
        assert facts["bytes_after"] == files.size_bytes(out / "chosen") < facts["bytes_before"]
        assert not [path for path in (out / "chosen").iterdir() if path.suffix in models.PICKLES]
        (out / "chosen").rename(tmp_path / name)
        told[name] = facts["nats_worse_by"]
    argv = [sys.executable, "-c", SCORE, tmp_path / "split.jsonl", base, *(tmp_path / name for name in here)]
    done = subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    reference, _ = found.pop("base")
    tokens = sum(sum(one.mask[1:]) for one in tiny.rendered(20, seed=1))
    assert found.keys() == told.keys()
    for name, (nats, answers) in found.items():
        worse = sum(nats[id] - reference[id] for id in nats) / tokens
        assert worse == pytest.approx(told[name], abs=1e-6) and worse != 0, name
        assert len(answers) == 20


def written(
    kind: str, name: str, folder: Path, text: Sequence[Rendered] = ()
) -> tuple[PreTrainedModel, Path]:
    """A tiny model, and its folder as ``name``."""
    network, _ = models.load_base(make(folder / "base", kind))
    again = copy.deepcopy(network)
    again.name_or_path = network.name_or_path
    (folder / "q").mkdir()
    assert compressed.write(again, name, 32, text, folder / "q", torch.float32) == []
    return network, folder / "q"


@pytest.mark.parametrize("kind", LINEAR)
@pytest.mark.parametrize(("name", "most"), [("w8a8", 0.1), ("smoothquant-w8a8", 0.1), ("nvfp4", 0.4)])
def test_a_format_holds_every_architecture_of_linear_layers(tmp_path, kind, name, most):
    network, folder = written(kind, name, tmp_path, tiny.rendered(8))
    ids = torch.arange(20)[None]
    before, again = network.eval()(ids).logits, quantized.load(folder)
    assert quantized.is_quantized(folder) and 0 < (again(ids).logits - before).norm() / before.norm() < most
    assert again.generate(ids, max_new_tokens=2, do_sample=False).shape == (1, 22)
    assert (models.is_tied(again), again.dtype) == (models.is_tied(network), torch.float32)


def test_smoothing_and_awq_lower_the_error_of_the_same_bits(tmp_path, monkeypatch):
    """Where few channels that go in are loud, which both are made for; without a GPU to pin memory for."""
    monkeypatch.setattr(compressed, "check_host", lambda *given: None)
    monkeypatch.setattr(IntermediatesCache, "pin_memory", lambda *given: None)
    found = {}
    for name in ("w8a8", "smoothquant-w8a8", "w4a16", "awq-w4a16"):
        base = make(tmp_path / name / "base")
        weights = load_file(base / "model.safetensors")
        for key in weights:
            if "input_layernorm" in key or "post_attention_layernorm" in key:
                weights[key][::16] *= 60
            elif any(f".{part}_proj." in key for part in ("q", "k", "v", "gate", "up")):
                weights[key][:, ::16] /= 60
        save_file(weights, base / "model.safetensors", {"format": "pt"})
        network, _ = models.load_base(base)
        ids = torch.arange(20)[None]
        before = network.eval()(ids).logits.detach()
        (tmp_path / name / "q").mkdir()
        compressed.write(network, name, 32, tiny.rendered(8), tmp_path / name / "q", torch.float32)
        found[name] = float((quantized.load(tmp_path / name / "q")(ids).logits - before).norm())
    assert found["smoothquant-w8a8"] < 0.7 * found["w8a8"], found
    assert found["awq-w4a16"] < 0.9 * found["w4a16"], found


@pytest.mark.parametrize("kind", LINEAR)
def test_embeddings_and_lm_head_stay_as_they_were(go, tmp_path, kind):
    base = make(tmp_path / "base", kind)
    _, out, _, _ = go(base, "w8a8")
    before, after = load_file(base / "model.safetensors"), load_file(out / "chosen" / "model.safetensors")
    kept = [name for name in before if "embed" in name or "lm_head" in name]
    assert kept and all(torch.equal(before[name], after[name]) for name in kept)
    assert sum(tensor.dtype == torch.int8 for tensor in after.values()) >= 8


def test_no_candidate_that_runs_keeps_the_reference_which_is_paid_for_and_says_why(go, tmp_path):
    code, out, facts, _ = go(make(tmp_path / "base", "gpt2"), "w8a8", "fp8")
    assert code == 0 and facts["chosen"] == "reference"
    row = "| w8a8 | – | – | – | – | not run: its blocks have no nn.Linear"
    assert row in (out / "summary.md").read_text()
    assert facts["cut_quantize"].startswith("refused: no candidate runs here (w8a8: its blocks")


def test_a_format_that_does_not_load_again_is_a_row_of_the_table(go, tmp_path):
    code, out, facts, _ = go(zoo.base_of(tmp_path / "base", "mixtral"), "w8a8")
    assert code == 0 and facts["chosen"] == "reference"
    assert (
        "not run: the written model does not load (4 weights are missing)" in (out / "summary.md").read_text()
    )


def test_a_format_that_fails_as_it_runs_is_a_row_of_the_table(go, tmp_path, monkeypatch):
    scored = candidates.score

    def score(network, *given):
        if hasattr(network, "hf_quantizer"):
            raise NotImplementedError("no kernel: aten.div_")
        return scored(network, *given)

    monkeypatch.setattr(candidates, "score", score)
    code, out, facts, _ = go(make(tmp_path / "base"), "w8a8")
    assert code == 0 and facts["chosen"] == "reference"
    assert "not run: this model does not run on it (no kernel" in (out / "summary.md").read_text()


def test_a_margin_that_nothing_meets_passes_the_reference_on(go, tmp_path):
    base = make(tmp_path / "base")
    code, out, facts, stderr = go(base, "w4a16", margin_nats=1e-9)
    # 20 examples of each model, and 4 rounds at each of two batch sizes
    assert "100%  48 of 48 measurements" in stderr
    assert (
        code == 0
        and facts["chosen"] == "reference"
        and facts["cut_quantize"].startswith("refused: none of 1")
    )
    assert files.digest(out / "chosen") == files.digest(base)
    assert facts["bytes_after"] == facts["bytes_before"]


def test_an_adapter_is_merged_before(go, tmp_path):
    base = make(tmp_path / "base")
    tuned = adapter(base, tmp_path / "adapter")
    code, out, _, _ = go(base, "w8a8", model=tuned)
    merged, _ = models.load(tuned, base)
    ids = torch.arange(20)[None]
    plain, whole = models.load_base(base)[0](ids).logits, merged.eval()(ids).logits
    found = quantized.load(out / "chosen")(ids).logits
    assert code == 0 and (found - whole).norm() < 0.1 * (found - plain).norm()


def test_a_quantized_model_is_neither_quantized_again_nor_trained(go, tmp_path):
    _, out, _, _ = go(make(tmp_path / "base"), "w8a8")
    (out / "chosen").rename(tmp_path / "small")
    refused(go(tmp_path / "small", "w8a8"), 3, "already quantized")
    with pytest.raises(ValueError, match="cannot be trained"):
        models.load_base(tmp_path / "small")


def test_layers_that_do_not_divide_by_the_group_stay_and_are_counted(go, tmp_path):
    code, out, _, _ = go(make(tmp_path / "base", intermediate_size=40), "w4a16")
    assert code == 0 and "2 layers left alone" in (out / "summary.md").read_text()  # 40 is no multiple of 32


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_weights_that_are_not_finite_are_refused(go, tmp_path, kind):
    base = make(tmp_path / "base", kind)
    name = tiny.spoil(base, float("nan"))
    refused(go(base, "w8a8"), 3, name, "infinite or NaN")


def test_bytes_are_compared_as_stored_and_no_model_grows(go, tmp_path):
    """The bundled base's case: half precision on disk under a config that says float32."""
    base = tiny.halve(make(tmp_path / "base"))
    code, out, facts, stderr = go(base, "w8a8")
    assert code == 0, stderr
    assert facts["bytes_before"] == files.size_bytes(base)
    kept = load_file(out / "chosen" / "model.safetensors")
    assert kept["model.embed_tokens.weight"].dtype == torch.float16
    assert files.size_bytes(out / "chosen") == facts["bytes_after"] < facts["bytes_before"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host can make the format")
def test_hardware_that_cannot_make_a_format_is_said_with_the_way_out(go, tmp_path):
    _, _, facts, _ = go(make(tmp_path / "base"), "awq-w4a16")
    assert "for a CUDA device" in facts["cut_quantize"] and "give others" in facts["cut_quantize"]


def test_an_architecture_whose_channels_cannot_be_scaled_is_a_row_of_the_table(go, tmp_path):
    code, out, facts, _ = go(zoo.base_of(tmp_path / "base", "opt"), "smoothquant-w8a8", "w8a8")
    assert code == 0 and facts["chosen"] == "w8a8"
    assert "not run: llmcompressor does not support this architecture" in (out / "summary.md").read_text()


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"candidates": '["fp8", "fp8"]'}, 2, "give each format once"),
        ({"candidates": '["gguf-q8_0", "fp8"]'}, 2, "give those of one kind"),
        ({"serve_on": "gpux"}, 2, "did you mean 'gpu'"),
        ({"candidates": '["gptq-w4a61"]'}, 2, "did you mean 'gptq-w4a16'"),
        ({"objective": "byte"}, 2, "did you mean 'bytes'"),
        ({"group_size": 48}, 2, "32, 64, 128"),
        ({"margin_nats": 0}, 2, "margin_nats 0"),
        ({"max_examples": 1}, 2, "at least 2"),
    ],
)
def test_flags_that_mean_nothing_are_refused(go, tmp_path, changed, code, words):
    refused(go(make(tmp_path / "base"), "w8a8", **changed), code, words)


def test_little_text_is_used_whole_and_without_two_valid_examples_the_reference_is_kept(go, tmp_path):
    base = make(tmp_path / "base")
    code, out, facts, _ = go(base, "gptq-w4a16", calibration_tokens=10**6)
    rendered = scoring.render_all(examples.read(tmp_path / "text.jsonl"), models.load_tokenizer(base))
    assert code == 0 and facts["calibration_tokens"] == sum(len(one.ids) for one in rendered)
    for count in (0, 1):
        (tmp_path / "split.jsonl").write_text("")
        if count:
            tiny.write_sums(tmp_path / "split.jsonl", count)
        code, out, facts, _ = go(base, "w8a8")
        assert code == 0 and facts["chosen"] == "reference" and facts["bytes_after"] == facts["bytes_before"]
        assert facts["cut_quantize"].startswith(f"off: {count} valid examples")
        assert files.digest(out / "chosen") == files.digest(base)


@pytest.mark.parametrize("damage", ["truncated", "missing", "shape", "format"])
def test_a_damaged_folder_is_a_data_error(tmp_path, damage):
    _, folder = written("llama", "w8a8", tmp_path)
    path, name = folder / "model.safetensors", "model.layers.0.mlp.up_proj.weight"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "format":
        config = folder / "config.json"
        config.write_text(config.read_text().replace("int-quantized", "int9-quantized"))
    else:
        tensors = load_file(path)
        weight = tensors.pop(name)
        if damage == "shape":
            tensors[name] = weight[:, :8].contiguous()
        save_file(tensors, path)
    with pytest.raises(ValueError, match="quantize again"):
        quantized.load(folder)


def test_another_tools_quantization_is_refused(tmp_path):
    base = make(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gguf"}}))
    with pytest.raises(ValueError, match="quantized by 'gguf'"):
        models.load(base, base)


def measured(name: str, size: int, ratio: float, worse: float, spread: float = 0.01) -> MeasuredCandidate:
    timing = Latency(1.0, ratio, ratio, ratio - spread, ratio + spread)
    gap = Comparison("completion_loss", 0.03, worse, worse - 0.005, worse + 0.005, worse + 0.005 < 0.03, 9, 1)
    return MeasuredCandidate(name, Path(name), size, {1: timing, 16: timing}, gap, 0)


def test_the_cheapest_that_is_not_worse_is_chosen():
    slow = measured("int8dq", 25, 24.0, 0.0)
    fast = measured("w8a8", 26, 0.5, 0.01)
    worse = measured("int4", 13, 0.3, 0.1)
    every = [slow, fast, worse, FailedCandidate("fp8", "no kernel")]
    assert choice.choose(every, "latency", 100) is fast
    assert choice.choose(every, "bytes", 100) is slow
    assert choice.choose([slow, worse], "throughput", 100) is None


def test_a_time_that_may_be_chance_is_no_gain():
    assert choice.choose([measured("int8", 50, 0.97, 0.0, spread=0.05)], "latency", 100) is None


def bundled(name: str = "") -> Path:
    return ROOT / "pipelines" / "examples" / "base" / name


def test_on_cpu_nodes_the_formats_of_llama_cpp_are_tried_and_judged_in_it(go, tmp_path):
    pytest.importorskip("cyllama", reason="llama.cpp; installed with the extra train")
    from deepcuts.components.gguf.engine import LlamaCpp
    from deepcuts.components.gguf.scoring import answer_nats

    code, out, facts, stderr = go(bundled(), "auto")
    assert code == 0 and facts["chosen"] == "gguf-q4_k_m" and facts["candidates"] == 2, stderr
    chosen, table = out / "chosen", (out / "summary.md").read_text()
    assert "gguf-f16" in table and "times against F16 in llama.cpp" in table
    assert facts["bytes_after"] == files.size_bytes(chosen) < 0.7 * facts["bytes_before"]
    network, tokenizer = models.load_base(bundled())
    data = scoring.render_all(examples.read(tmp_path / "split.jsonl"), tokenizer)
    found = answer_nats(LlamaCpp(chosen), data)
    reference = candidates.score(network.float(), [""] * len(data), data)
    tokens = sum(count for _, count in found)
    worse = (sum(nats for nats, _ in found) - sum(one.answer_nats for one in reference)) / tokens
    assert facts["nats_worse_by"] == pytest.approx(worse, abs=1e-6)


def test_a_vocabulary_without_a_name_in_llama_cpp_keeps_the_reference_and_says_why(go, tmp_path):
    pytest.importorskip("cyllama", reason="llama.cpp; installed with the extra train")
    base = make(tmp_path / "base")
    code, out, facts, _ = go(base, "gguf-q8_0")
    assert code == 0 and facts["chosen"] == "reference"
    assert "has no name in llama.cpp" in facts["cut_quantize"]


def test_without_llama_cpp_the_reference_is_kept_and_the_way_out_said(go, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "find_spec", lambda name: None)
    code, out, facts, _ = go(bundled(), "auto")
    assert code == 0 and files.digest(out / "chosen") == files.digest(bundled())
    assert "no llama.cpp here" in facts["cut_quantize"] and "pip install" in facts["cut_quantize"]


def test_off_is_a_choice(go):
    code, out, facts, _ = go(bundled(), "off")
    assert code == 0 and facts["cut_quantize"] == "off: no format is requested"
    assert files.digest(out / "chosen") == files.digest(bundled())


def test_gpu_nodes_get_the_formats_that_vllm_loads():
    assert wanted(["auto"], "gpu") == ["fp8", "w8a8", "gptq-w4a16"] and wanted(["fp8"], "cpu") == ["fp8"]


@pytest.mark.slow  # 20 s or more on two busy cores
def test_what_llama_cpp_does_not_know_is_said_before_training_is_paid_for(tmp_path, monkeypatch):
    pytest.importorskip("cyllama", reason="llama.cpp; installed with the extra train")
    base = make(tmp_path / "base")
    assert "no name in llama.cpp" in foresee(base, ["auto"], "cpu")[0]
    with pytest.raises(ValueError, match="no name in llama.cpp.*give .off."):
        foresee(base, ["gguf-q8_0"], "cpu")
    assert foresee(bundled(), ["auto"], "cpu") == foresee(base, ["auto"], "gpu") == []
    assert foresee(base, ["off"], "cpu") == []
    monkeypatch.setattr(convert, "find_spec", lambda name: None)
    assert "no llama.cpp here" in foresee(bundled(), ["gguf-q8_0"], "cpu")[0]


def test_no_text_to_calibrate_on_is_a_row_of_the_table(go, tmp_path):
    (tmp_path / "text.jsonl").write_text("")
    code, out, facts, _ = go(make(tmp_path / "base"), "gptq-w4a16", "w8a8")
    assert code == 0 and facts["chosen"] == "w8a8" and facts["calibration_tokens"] == 0
    assert "not run: there is no text to measure its scales on" in (out / "summary.md").read_text()
