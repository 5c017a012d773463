import json

import pytest

from components.core.errors import DataError
from components.plan import rehearsal
from components.plan.rehearsal import rehearse
from tests.training import tiny, zoo


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("kind", ["llama", "lfm2"])
def test_a_base_that_goes_all_the_way_says_so_and_whether_it_packs(tmp_path, kind, method):
    facts = rehearse(zoo.base_of(tmp_path / "base", kind), tiny.recipe(method=method))
    assert facts["rehearsal"] == rehearsal.WORDS
    assert str(facts["packing"]).startswith("on" if kind == "llama" else "off: packed, examples")


def test_a_deep_base_is_rehearsed_with_its_first_blocks(tmp_path, monkeypatch):
    base = zoo.base_of(tmp_path / "base", "llama", num_hidden_layers=9)
    assert len(rehearsal._first_blocks(base).model.layers) == 4
    assert rehearse(base, tiny.recipe(method="lora"))["rehearsal"] == rehearsal.WORDS


def test_settings_that_saving_refuses_are_mended_before_and_said(tmp_path):
    base = zoo.base_of(tmp_path / "base", "llama")
    (base / "generation_config.json").write_text('{"temperature": 0.6}')
    assert "do_sample set to true" in str(rehearse(base, tiny.recipe())["generation_config"])


def test_what_would_fail_after_training_is_refused_before_it(tmp_path, monkeypatch):
    base = zoo.base_of(tmp_path / "base", "llama")

    def refuse(*args, **kwargs):
        raise ValueError("Some generation parameters are set in the model config")

    monkeypatch.setattr("components.plan.rehearsal.models.save", refuse)
    with pytest.raises(DataError, match="a dry run .* fails .Some generation parameters"):
        rehearse(base, tiny.recipe())


def test_a_quantized_base_is_refused_and_a_config_alone_is_planned_only(tmp_path):
    base = zoo.base_of(tmp_path / "base", "llama")
    settings = json.loads((base / "config.json").read_text())
    quantized = settings | {"quantization_config": {"quant_method": "compressed-tensors"}}
    (base / "config.json").write_text(json.dumps(quantized))
    with pytest.raises(DataError, match="give what it was made of"):
        rehearse(base, tiny.recipe())
    (base / "model.safetensors").unlink()
    assert rehearse(base, tiny.recipe()) == {}
