"""quantize through its argv: every format saved, loaded and scored; the choice; and what users get wrong."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from deepcuts.components.core import cli, examples, files
from deepcuts.components.core.scorecards import Comparison
from deepcuts.components.gguf import convert
from deepcuts.components.quantize import candidates, choice
from deepcuts.components.quantize.candidates import NAMES, OWN, FailedCandidate, MeasuredCandidate
from deepcuts.components.quantize.served import foresee, wanted
from deepcuts.components.quantize.step import quantize
from deepcuts.components.training import latency, models, quantized, scoring
from deepcuts.components.training.latency import Latency
from tests.components.test_evaluate import adapter
from tests.conftest import ROOT
from tests.training import tiny

WIDE = {"intermediate_size": 64}
"""int4 wants columns in groups of 32."""


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


def test_a_fresh_process_scores_and_generates_from_every_saved_folder_as_measured(go, tmp_path):
    base = make(tmp_path / "base", "qwen3")
    told = {}
    for name in NAMES:
        code, out, facts, stderr = go(base, name)
        assert code == 0 and facts["chosen"] == name, stderr
        assert facts["bytes_after"] == files.size_bytes(out / "chosen") < facts["bytes_before"]
        assert not [path for path in (out / "chosen").iterdir() if path.suffix in models.PICKLES]
        (out / "chosen").rename(tmp_path / name)
        told[name] = facts["nats_worse_by"]
    argv = [sys.executable, "-c", SCORE, tmp_path / "split.jsonl", base, *(tmp_path / name for name in NAMES)]
    done = subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    reference, _ = found.pop("base")
    tokens = sum(sum(one.mask[1:]) for one in tiny.rendered(20, seed=1))
    assert found.keys() == told.keys()
    for name, (nats, answers) in found.items():
        worse = sum(nats[id] - reference[id] for id in nats) / tokens
        assert worse == pytest.approx(told[name], abs=1e-6) and worse != 0, name
        assert len(answers) == 20


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("name", OWN)
def test_our_formats_hold_every_architecture(tmp_path, kind, name):
    network, _ = models.load_base(make(tmp_path / "base", kind))
    ids = torch.arange(20)[None]
    before = network.eval()(ids).logits
    (tmp_path / "q").mkdir()
    left = quantized.write(network, name, 32, tmp_path / "q", torch.float32)
    again = quantized.load(tmp_path / "q")
    assert left == [] and quantized.is_quantized(tmp_path / "q")
    error = (again(ids).logits - before).norm() / before.norm()
    assert 0 < error < (0.3 if name == "int4-weight" else 0.1)
    assert again.generate(ids, max_new_tokens=2, do_sample=False).shape == (1, 22)
    assert (models.is_tied(again), again.dtype) == (models.is_tied(network), torch.float32)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_embeddings_and_lm_head_stay_as_they_were(go, tmp_path, kind):
    base = make(tmp_path / "base", kind)
    _, out, _, _ = go(base, "int8-weight")
    before, after = load_file(base / "model.safetensors"), load_file(out / "chosen" / "model.safetensors")
    kept = [name for name in before if "embed" in name or "wte" in name or "lm_head" in name]
    assert kept and all(torch.equal(before[name], after[name]) for name in kept)
    assert sum(tensor.dtype == torch.int8 for tensor in after.values()) >= 8


def test_formats_that_an_architecture_cannot_have_are_a_row_of_the_table(go, tmp_path):
    code, out, facts, _ = go(make(tmp_path / "base", "gpt2"), "w8a8", "int8-weight")
    assert code == 0 and facts["chosen"] == "int8-weight"
    assert (
        "| w8a8 | – | – | – | – | not run: its linear layers are Conv1D" in (out / "summary.md").read_text()
    )


def test_no_candidate_that_runs_keeps_the_reference_which_is_paid_for_and_says_why(go, tmp_path):
    code, _, facts, _ = go(make(tmp_path / "base", "gpt2"), "w8a8", "fp8")
    assert code == 0 and facts["chosen"] == "reference"
    assert facts["cut_quantize"].startswith("refused: no candidate runs here (w8a8: its linear")


def test_a_format_that_fails_as_it_runs_is_a_row_of_the_table(go, tmp_path, monkeypatch):
    scored = candidates.score

    def score(network, *given):
        if network.model.layers[0].mlp.up_proj.weight.__class__.__name__ == "Int8Tensor":
            raise NotImplementedError("Int8Tensor dispatch: aten.div_")
        return scored(network, *given)

    monkeypatch.setattr(candidates, "score", score)
    code, out, facts, _ = go(make(tmp_path / "base"), "int8-weight")
    assert code == 0 and facts["chosen"] == "reference"
    assert "not run: this model does not run on it (Int8Tensor" in (out / "summary.md").read_text()


def test_a_margin_that_nothing_meets_passes_the_reference_on(go, tmp_path):
    base = make(tmp_path / "base")
    code, out, facts, stderr = go(base, "int4-weight", margin_nats=1e-9)
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
    code, out, _, _ = go(base, "int8-weight", model=tuned)
    merged, _ = models.load(tuned, base)
    ids = torch.arange(20)[None]
    plain, whole = models.load_base(base)[0](ids).logits, merged.eval()(ids).logits
    found = quantized.load(out / "chosen")(ids).logits
    assert code == 0 and (found - whole).norm() < 0.1 * (found - plain).norm()


@pytest.mark.parametrize("name", ["int8-weight", "w8a8"])
def test_a_quantized_model_is_neither_quantized_again_nor_trained(go, tmp_path, name):
    _, out, _, _ = go(make(tmp_path / "base"), name)
    (out / "chosen").rename(tmp_path / "small")
    refused(go(tmp_path / "small", name), 3, "already quantized")
    with pytest.raises(ValueError, match="cannot be trained"):
        models.load_base(tmp_path / "small")


def test_layers_that_int4_cannot_take_stay_and_are_counted(go, tmp_path):
    code, out, _, _ = go(make(tmp_path / "base", intermediate_size=40), "int4-weight", "w4a16")
    assert code == 0
    table = (out / "summary.md").read_text()
    assert "6 layers left alone" in table and "2 layers left alone" in table  # 40 is no multiple of 16 or 32


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_weights_that_are_not_finite_are_refused(go, tmp_path, kind):
    base = make(tmp_path / "base", kind)
    name = tiny.spoil(base, float("nan"))
    refused(go(base, "int8-weight"), 3, name, "no numbers")


def test_bytes_are_compared_as_stored_and_no_model_grows(go, tmp_path):
    """The bundled base's case: half precision on disk under a config that says float32."""
    base = tiny.halve(make(tmp_path / "base"))
    code, out, facts, stderr = go(base, "int8-weight")
    assert code == 0, stderr
    assert facts["bytes_before"] == files.size_bytes(base)
    kept = load_file(out / "chosen" / "model.safetensors")
    assert kept["model.embed_tokens.weight"].dtype == torch.float16
    assert files.size_bytes(out / "chosen") == facts["bytes_after"] < facts["bytes_before"]


def test_hardware_without_a_kernel_is_refused_with_the_way_out(go, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends, "quantized", SimpleNamespace(engine="none"))
    _, _, facts, _ = go(make(tmp_path / "base"), "int8-dynamic")
    assert "needs a PyTorch with fbgemm" in facts["cut_quantize"] and "give others" in facts["cut_quantize"]


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"candidates": '["fp8", "fp8"]'}, 2, "give each format once"),
        ({"candidates": '["gguf-q8_0", "fp8"]'}, 2, "give those of one kind"),
        ({"serve_on": "gpux"}, 2, "did you mean 'gpu'"),
        ({"candidates": '["int8-wieght"]'}, 2, "did you mean 'int8-weight'"),
        ({"objective": "byte"}, 2, "did you mean 'bytes'"),
        ({"group_size": 48}, 2, "32, 64, 128"),
        ({"margin_nats": 0}, 2, "margin_nats 0"),
        ({"max_examples": 1}, 2, "at least 2"),
    ],
)
def test_flags_that_mean_nothing_are_refused(go, tmp_path, changed, code, words):
    refused(go(make(tmp_path / "base"), "int8-weight", **changed), code, words)


def test_little_text_is_used_whole_and_without_two_valid_examples_the_reference_is_kept(go, tmp_path):
    base = make(tmp_path / "base")
    code, out, facts, _ = go(base, "gptq-w4a16", calibration_tokens=10**6)
    rendered = scoring.render_all(examples.read(tmp_path / "text.jsonl"), models.load_tokenizer(base))
    assert code == 0 and facts["calibration_tokens"] == sum(len(one.ids) for one in rendered)
    for count in (0, 1):
        (tmp_path / "split.jsonl").write_text("")
        if count:
            tiny.write_sums(tmp_path / "split.jsonl", count)
        code, out, facts, _ = go(base, "int8-weight")
        assert code == 0 and facts["chosen"] == "reference" and facts["bytes_after"] == facts["bytes_before"]
        assert facts["cut_quantize"].startswith(f"off: {count} valid examples")
        assert files.digest(out / "chosen") == files.digest(base)


@pytest.mark.parametrize("name", quantized.CPU_ONLY)
def test_a_format_without_a_kernel_on_the_host_is_refused_by_name(tmp_path, monkeypatch, name):
    network, _ = models.load_base(make(tmp_path / "base"))
    (tmp_path / "q").mkdir()
    quantized.write(network, name, 32, tmp_path / "q", torch.float32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=f"{name} has kernels for CPUs only"):
        quantized.load(tmp_path / "q")


@pytest.mark.parametrize("damage", ["truncated", "missing", "shape", "scheme"])
def test_a_damaged_folder_is_a_data_error(tmp_path, damage):
    network, _ = models.load_base(make(tmp_path / "base"))
    folder = tmp_path / "q"
    folder.mkdir()
    quantized.write(network, "int8-weight", 32, folder, torch.float32)
    path = folder / "model.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "scheme":
        config = folder / "config.json"
        config.write_text(config.read_text().replace("int8-weight", "int3-weight"))
    else:
        tensors = load_file(path)
        name = "model.layers.0.mlp.up_proj.weight_int8"
        scale = tensors.pop("model.layers.0.mlp.up_proj.weight_scale")
        if damage == "shape":
            tensors[name] = tensors[name][:, :8].contiguous()
            tensors["model.layers.0.mlp.up_proj.weight_scale"] = scale
        save_file(tensors, path)
    with pytest.raises(ValueError, match="quantize again"):
        quantized.load(folder)


def test_another_tools_quantization_is_refused(tmp_path):
    base = make(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gguf"}}))
    with pytest.raises(ValueError, match="quantized by 'gguf'"):
        models.load(base, base)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([1e-3, 1.0, 30.0]), st.sampled_from([32, 64]))
def test_every_weight_comes_back_within_half_a_step(seed, size, group):
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(seed)) * size
    eight = quantized.int8(weight)
    error = (eight["int8"] * eight["scale"][:, None] - weight).abs()
    assert (error <= 0.5001 * eight["scale"][:, None]).all()
    four = quantized.int4(weight, group)
    layer = quantized.Int4Linear(four, group, None)
    step = four["scale"].float().repeat_interleave(group, 1)
    rounding = 2**-10 * weight.abs().amax()  # float16 scale and zero move the ends of the range
    back = layer(torch.eye(64)).T
    assert ((back - weight).abs() <= 0.51 * step + 16 * rounding).all()


def measured(name: str, size: int, ratio: float, worse: float, spread: float = 0.01) -> MeasuredCandidate:
    timing = Latency(1.0, ratio, ratio, ratio - spread, ratio + spread)
    gap = Comparison("completion_loss", 0.03, worse, worse - 0.005, worse + 0.005, worse + 0.005 < 0.03, 9, 1)
    return MeasuredCandidate(name, Path(name), size, {1: timing, 16: timing}, gap, 0)


def test_the_cheapest_that_is_not_worse_is_chosen():
    slow = measured("int8dq", 25, 24.0, 0.0)
    fast = measured("int8-dynamic", 26, 0.5, 0.01)
    worse = measured("int4", 13, 0.3, 0.1)
    every = [slow, fast, worse, FailedCandidate("fp8", "no kernel")]
    assert choice.choose(every, "latency", 100) is fast
    assert choice.choose(every, "bytes", 100) is slow
    assert choice.choose([slow, worse], "throughput", 100) is None


def test_a_time_that_may_be_chance_is_no_gain():
    assert choice.choose([measured("int8", 50, 0.97, 0.0, spread=0.05)], "latency", 100) is None


@pytest.mark.slow
def test_on_wide_layers_dynamic_int8_is_the_fastest_on_a_cpu(go, tmp_path):
    base = make(tmp_path / "base", hidden_size=1024, intermediate_size=4096, initializer_range=0.02)
    code, out, facts, stderr = go(base, "int8-dynamic", "int8-weight", objective="latency")
    assert code == 0, stderr
    assert facts["chosen"] == "int8-dynamic" and facts["time_ratio_batch_1"] < 0.8, (
        out / "summary.md"
    ).read_text()


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
    assert "split in a way that llama.cpp has no name for" in facts["cut_quantize"]


def test_without_llama_cpp_the_reference_is_kept_and_the_way_out_said(go, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "find_spec", lambda name: None)
    code, out, facts, _ = go(bundled(), "auto")
    assert code == 0 and files.digest(out / "chosen") == files.digest(bundled())
    assert "no llama.cpp here" in facts["cut_quantize"] and "pip install" in facts["cut_quantize"]


def test_off_is_a_choice(go):
    code, out, facts, _ = go(bundled(), "off")
    assert code == 0 and facts["cut_quantize"] == "off: no format is asked for"
    assert files.digest(out / "chosen") == files.digest(bundled())


def test_gpu_nodes_get_the_formats_that_vllm_loads():
    assert wanted(["auto"], "gpu") == ["fp8", "w8a8", "gptq-w4a16"] and wanted(["fp8"], "cpu") == ["fp8"]


def test_what_llama_cpp_does_not_know_is_said_before_training_is_paid_for(tmp_path, monkeypatch):
    pytest.importorskip("cyllama", reason="llama.cpp; installed with the extra train")
    base = make(tmp_path / "base")
    assert "no name for" in foresee(base, ["auto"], "cpu")[0]
    with pytest.raises(ValueError, match="no name for.*give .off."):
        foresee(base, ["gguf-q8_0"], "cpu")
    assert foresee(bundled(), ["auto"], "cpu") == foresee(base, ["auto"], "gpu") == []
    assert foresee(base, ["off"], "cpu") == []
    monkeypatch.setattr(convert, "find_spec", lambda name: None)
    assert "no llama.cpp here" in foresee(bundled(), ["gguf-q8_0"], "cpu")[0]


def test_no_text_to_calibrate_on_is_a_row_of_the_table(go, tmp_path):
    (tmp_path / "text.jsonl").write_text("")
    code, out, facts, _ = go(make(tmp_path / "base"), "gptq-w4a16", "w8a8")
    assert code == 0 and facts["chosen"] == "w8a8" and facts["calibration_tokens"] == 0
    assert "not run: there is no text to correct its errors on" in (out / "summary.md").read_text()
