import json

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from components.publish import readers
from components.training import models, quantized
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
    assert "keys of 4.57" in readers.describe(base, added)


def test_a_format_of_our_own_says_that_only_we_read_it(tmp_path):
    network, tokenizer = models.load_base(zoo.base_of(tmp_path / "base", "llama"))
    (tmp_path / "q").mkdir()
    quantized.write(network, "int8-weight", 32, tmp_path / "q", torch.float32)
    assert readers.describe(tmp_path / "q", []).startswith("deepcuts chat and evaluate only")
