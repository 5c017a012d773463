import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from deepcuts.components.publish import read_by_4, readers
from deepcuts.components.quantize import compressed
from deepcuts.components.training import models
from tests.training import zoo


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_older_keys_say_the_same_and_version_5_reads_the_folder_as_before(tmp_path, kind):
    base = zoo.base_of(tmp_path / kind, kind)
    before, tokens = AutoConfig.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    logits = models.load_base(base)[0](input_ids=torch.arange(3, 9)[None]).logits
    added = readers.add_older_keys(base)
    written = json.loads((base / "config.json").read_text())
    if kind != "gpt2":
        assert written["rope_theta"] == 10_000 or kind == "gemma3_text"
    assert ("rope_local_base_freq" in written) == (kind == "gemma3_text")
    assert "additional_special_tokens" in added and written["torch_dtype"] == "float32"
    again = AutoConfig.from_pretrained(base)
    assert getattr(again, "rope_parameters", None) == getattr(before, "rope_parameters", None)
    assert AutoTokenizer.from_pretrained(base).all_special_ids == tokens.all_special_ids
    assert torch.equal(models.load_base(base)[0](input_ids=torch.arange(3, 9)[None]).logits, logits)
    assert "keys of 4.57: 4.57.6 computes the same" in readers.describe(base, added)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e6}
HALF = {"rope_type": "default", "rope_theta": 2e4, "partial_rotary_factor": 0.5}
LINEAR = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}
LINEAR |= {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}


@pytest.mark.parametrize(
    ("kind", "rotary", "wanted"),
    [
        ("llama", YARN, {"rope_theta": 1e6, "rope_scaling": YARN}),
        ("phi3", HALF, {"rope_theta": 2e4, "partial_rotary_factor": 0.5}),
        ("nemotron", HALF, {"rope_theta": 2e4, "partial_rotary_factor": 0.5}),
        ("gpt_neox", HALF, {"rotary_pct": 0.5, "rotary_emb_base": 2e4}),
        ("gemma3_text", LINEAR, {"rope_theta": 1e6, "rope_local_base_freq": 1e4}),
    ],
)
def test_what_older_versions_call_rotary_settings_stands_beside_or_the_card_says_it_cannot(
    tmp_path, kind, rotary, wanted
):
    base = zoo.base_of(tmp_path / kind, kind, rope_parameters=rotary)
    before = AutoConfig.from_pretrained(base).rope_parameters
    added = readers.add_older_keys(base)
    written = json.loads((base / "config.json").read_text())
    assert {name: written.get(name) for name in wanted} == wanted
    assert AutoConfig.from_pretrained(base).rope_parameters == before
    assert "would miss" not in readers.describe(base, added)


def test_a_card_says_what_older_versions_would_miss(tmp_path):
    long = {"rope_type": "longrope", "short_factor": [1.1] * 4, "long_factor": [3.0] * 4, "rope_theta": 1e4}
    base = zoo.base_of(tmp_path / "base", "phi3", rope_parameters=long)
    assert "not for 4.57, which would miss rope_scaling" in readers.describe(
        base, readers.add_older_keys(base)
    )


def test_experts_are_counted_by_both_names(tmp_path):
    base = zoo.base_of(tmp_path / "base", "qwen3_moe")
    assert "num_experts" in readers.add_older_keys(base)
    assert json.loads((base / "config.json").read_text())["num_experts"] == 4


OLDER = os.environ.get("DEEPCUTS_TRANSFORMERS_4", "")


@pytest.mark.slow
@pytest.mark.skipif(not OLDER, reason="needs DEEPCUTS_TRANSFORMERS_4, a folder of pip install --target")
def test_transformers_4_does_with_every_type_what_the_card_says(tmp_path):
    ids = torch.arange(3, 67)[None]
    for kind in sorted(read_by_4.SAME | read_by_4.NOT_READ | read_by_4.OTHERWISE):
        base = zoo.base_of(tmp_path / kind, kind)
        readers.add_older_keys(base)
        torch.save(models.load_base(base)[0](input_ids=ids, use_cache=False).logits, base / "logits.pt")
    code = """
import json, pathlib, sys, torch, transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
found = {"SAME": [], "OTHERWISE": [], "NOT_READ": [], "KNOWN": list(CONFIG_MAPPING_NAMES)}
for folder in pathlib.Path(sys.argv[1]).iterdir():
    wanted = torch.load(folder / "logits.pt")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        transformers.AutoTokenizer.from_pretrained(folder)
        logits = model(input_ids=torch.arange(3, 67)[None], use_cache=False).logits
    except Exception:
        found["NOT_READ"].append(folder.name)
        continue
    same = (logits - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    found["SAME" if same else "OTHERWISE"].append(folder.name)
print(json.dumps([transformers.__version__, found]))
"""
    run = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(run, env=os.environ | {"PYTHONPATH": OLDER}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    version, found = json.loads(done.stdout.splitlines()[-1])
    assert version == "4.57.6"
    for name in ("SAME", "OTHERWISE", "NOT_READ"):
        assert set(found[name]) == getattr(read_by_4, name), name
    assert not read_by_4.UNKNOWN & set(found["KNOWN"])


@pytest.mark.parametrize(
    ("kind", "said"),
    [("qwen3_5_text", "does not know this type"), ("mamba2", "does not load"), ("apertus", "something else")],
)
def test_a_card_says_where_older_versions_do_not_read_the_release(tmp_path, kind, said):
    base = zoo.base_of(tmp_path / "base", kind)
    assert said in readers.describe(base, readers.add_older_keys(base))


def test_a_quantized_release_names_the_servers_of_its_format(tmp_path):
    network, tokenizer = models.load_base(zoo.base_of(tmp_path / "base", "llama"))
    (tmp_path / "q").mkdir()
    compressed.write(network, "w8a8", 32, [], tmp_path / "q", torch.float32)
    assert readers.describe(tmp_path / "q", []).startswith("transformers 5 and vLLM with compressed-tensors")
