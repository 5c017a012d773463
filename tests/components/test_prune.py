"""prune through its argv: every method on four architectures, what is cut, and what users get wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from deepcuts.components.core import cli, files
from deepcuts.components.prune import importance, shrink
from deepcuts.components.prune.layout import blocks_of
from deepcuts.components.prune.step import best, prune, remaining_neurons
from deepcuts.components.quantize import compressed
from deepcuts.components.training import latency, models
from tests.components.test_evaluate import adapter
from tests.training import tiny


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(latency, "ROUNDS", 5)


@pytest.fixture
def go(tmp_path, capsys):
    """Run prune through its argv; returns (exit code, folder of the outputs, facts, stderr)."""
    tiny.write_sums(tmp_path / "text.jsonl", 40)

    def run(base: Path, method: str = "width", amount: float = 0.5, **changed: object):
        out = tmp_path / "out"
        files.remove(out)
        flags: dict[str, object] = {
            "base": base,
            "model": base,
            "text": tmp_path / "text.jsonl",
            "pruned": out / "pruned",
            "summary": out / "summary.md",
            "method": method,
            "amount": amount,
            "calibration_tokens": 200,
            "seed": 0,
            "receipt": out / "receipt.json",
        }
        code = cli.run(prune, tiny.argv(flags | changed))
        return code, out, json.loads((out / "receipt.json").read_text())["facts"], capsys.readouterr().err

    return run


def refused(result, code: int, *words: str) -> None:
    found, out, _, stderr = result
    assert found == code and [path.name for path in out.iterdir()] == ["receipt.json"], stderr
    assert all(word in stderr for word in words) and "Traceback" not in stderr, stderr


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("method", ["width", "depth", "random-depth"])
def test_a_structural_cut_is_a_plain_smaller_folder(go, tmp_path, kind, method):
    base = tiny.base(
        tmp_path / "base", kind, **({"n_layer": 4} if kind == "gpt2" else {"num_hidden_layers": 4})
    )
    code, out, facts, stderr = go(base, method)
    assert code == 0, stderr
    whole, found = AutoModelForCausalLM.from_pretrained(out / "pruned", output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"]
    assert models.count_weights(whole)[0] == facts["weights_after"] < facts["weights_before"]
    assert facts["bytes_after"] < facts["bytes_before"]
    assert facts["nats_after"] != facts["nats_before"] and facts["ms_per_token_batch_16_after"] > 0
    answer = whole.generate(torch.tensor([[5, 6]]), max_new_tokens=3, do_sample=False)
    assert answer.shape[1] >= 3


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_width_keeps_queries_a_key_value_head(go, tmp_path, kind):
    base = tiny.base(tmp_path / "base", kind)
    _, out, facts, _ = go(base)
    config = json.loads((out / "pruned" / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (2, 1)
    assert config["intermediate_size"] == 24 and config["head_dim"] == (16 if kind == "qwen3" else 8)
    assert "1 of 2 key-value heads" in facts["cut_prune"]


@pytest.mark.parametrize(
    ("neurons", "amount", "left"),
    [
        (1536, 0.2, 1216),
        (1536, 1 / 3, 1024),
        (352, 0.2, 288),
        (256, 0.99, 32),
        (48, 0.25, 36),
        (1000, 0.5, 500),
    ],
)
def test_a_width_that_number_formats_store_in_blocks_is_cut_to_whole_ones(neurons, amount, left):
    assert remaining_neurons(neurons, amount) == left


def test_heads_that_would_not_divide_the_width_stay(go, tmp_path):
    base = tiny.base(tmp_path / "base", num_key_value_heads=4)
    code, out, facts, stderr = go(base, amount=0.25)  # 3 of 4 heads on a width of 32
    assert code == 0, stderr
    assert json.loads((out / "pruned" / "config.json").read_text())["num_attention_heads"] == 4
    assert "0 of 4 key-value heads" in facts["cut_prune"] and "12 of 48 MLP neurons" in facts["cut_prune"]


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_neurons_that_never_matter_go_first_and_nothing_changes(tmp_path, kind):
    network = tiny.model(kind)
    dead = torch.tensor([1, 4, 7])
    for block in blocks_of(network):
        reader = block.mlp.c_proj.weight.data if kind == "gpt2" else block.mlp.down_proj.weight.data.T
        reader[dead] = 0
    before = network(torch.arange(20)[None]).logits
    scores = importance.neurons(network, tiny.rendered(5))
    smaller = shrink.keep_neurons(network, [best(s, len(s) - 3) for s in scores])
    assert torch.allclose(smaller(torch.arange(20)[None]).logits, before, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_head_group_that_says_nothing_goes_first_and_nothing_changes(kind):
    network = tiny.model(kind)
    width = 16 if kind == "qwen3" else 8
    for block in blocks_of(network):
        block.self_attn.o_proj.weight.data[:, : 2 * width] = 0  # both queries of key-value head 0
    before = network(torch.arange(20)[None]).logits
    scores = importance.head_groups(network, tiny.rendered(5))
    smaller = shrink.keep_head_groups(network, [best(s, 1) for s in scores])
    assert torch.allclose(smaller(torch.arange(20)[None]).logits, before, atol=1e-5)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_block_that_changes_nothing_goes_first(kind):
    network = tiny.model(kind, **({"n_layer": 3} if kind == "gpt2" else {"num_hidden_layers": 3}))
    idle = blocks_of(network)[1]
    for name, weight in idle.named_parameters():
        if name.split(".")[-2] in ("o_proj", "down_proj", "c_proj"):
            weight.data.zero_()
    before = network(torch.arange(20)[None]).logits
    scores = importance.blocks(network, tiny.rendered(5))
    assert scores.argmin() == 1 and scores[1] < 1e-6 < scores[0]
    smaller = shrink.keep_blocks(network, [0, 2])
    assert torch.allclose(smaller(torch.arange(20)[None]).logits, before, atol=1e-5)


def test_magnitude_says_that_it_saves_nothing(go, tmp_path):
    base = tiny.base(tmp_path / "base")
    code, out, facts, _ = go(base, "magnitude", 0.2)
    assert code == 0 and facts["weights_after"] == facts["weights_before"]
    assert 0.05 < facts["zero_share"] < 0.2  # embeddings are not pruned
    assert abs(facts["bytes_after"] / facts["bytes_before"] - 1) < 0.01
    assert "zero" in (out / "summary.md").read_text()
    weights = load_file(out / "pruned" / "model.safetensors")
    assert (weights["model.layers.0.mlp.up_proj.weight"] == 0).float().mean() == pytest.approx(0.2, abs=0.01)


def test_the_stored_precision_is_the_weights_own(go, tmp_path):
    _, out, facts, _ = go(tiny.halve(tiny.base(tmp_path / "base")))
    assert facts["bytes_after"] < facts["bytes_before"]
    assert models.stored_dtype(out / "pruned") is torch.float16


def test_an_adapter_is_merged_before(go, tmp_path):
    base = tiny.base(tmp_path / "base")
    _, _, plain, _ = go(base)
    code, _, merged, _ = go(base, model=adapter(base, tmp_path / "adapter"))
    assert code == 0 and abs(merged["nats_before"] - plain["nats_before"]) > 0.01
    assert merged["bytes_before"] == pytest.approx(plain["bytes_before"], rel=0.01)  # not base and adapter


@pytest.mark.parametrize(("amount", "word"), [(0, "nothing"), (1, "everything"), (-0.5, "nothing")])
def test_amounts_that_cut_nothing_or_all_are_refused(go, tmp_path, amount, word):
    refused(go(tiny.base(tmp_path / "base"), amount=amount), 2, f"amount {float(amount)}", word)


@pytest.mark.parametrize(("amount", "word"), [(0.9, "all of them"), (0.1, "none")])
def test_a_depth_that_leaves_nothing_or_all_is_refused(go, tmp_path, amount, word):
    refused(go(tiny.base(tmp_path / "base"), "depth", amount), 2, f"of 2 blocks rounds to {word}")


def test_an_unknown_method_names_the_nearest(go, tmp_path):
    refused(go(tiny.base(tmp_path / "base"), "widht"), 2, "did you mean 'width'")


def test_little_text_is_used_whole(go, tmp_path):
    assert go(tiny.base(tmp_path / "base"), calibration_tokens=10**6)[0] == 0


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_weights_that_are_not_finite_are_refused(go, tmp_path, kind):
    base = tiny.base(tmp_path / "base", kind)
    name = tiny.spoil(base, float("inf"))
    refused(go(base), 3, name, "infinite or NaN")


def test_a_quantized_model_is_refused(go, tmp_path):
    base = tiny.base(tmp_path / "base", intermediate_size=64)
    network, tokenizer = models.load_base(base)
    (tmp_path / "small").mkdir()
    compressed.write(network, "w8a8", 32, [], tmp_path / "small", torch.float32)
    tokenizer.save_pretrained(tmp_path / "small")
    refused(go(tmp_path / "small"), 3, "already quantized")


def test_the_interval_of_a_median_holds_it_in_nine_of_ten_draws():
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(1000):
        low, high = latency.median_interval(sorted(torch.randn(21, generator=generator).tolist()))
        held += low <= 0 <= high
    assert 900 <= held <= 970
