import json

import pytest
from transformers import AutoConfig, AutoModelForImageTextToText

from deepcuts.components.core.errors import DataError
from deepcuts.components.plan import architecture, rehearsal
from deepcuts.components.plan.rehearsal import rehearse
from tests.training import tiny, zoo
from tests.training.test_render import CHATML, byte_tokenizer

DROPOUT = {"gpt2": {"resid_pdrop": 0.5}, "xglm": {"dropout": 0.5}}


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("kind", ["llama", "lfm2"])
def test_a_base_that_goes_all_the_way_says_so_and_whether_it_packs(tmp_path, kind, method):
    facts = rehearse(zoo.base_of(tmp_path / "base", kind), tiny.recipe(method=method))
    assert facts["rehearsal"] == rehearsal.WORDS
    assert str(facts["packing"]).startswith("on" if kind == "llama" else "off: packed examples")


def test_a_deep_base_is_rehearsed_with_its_first_blocks(tmp_path, monkeypatch):
    base = zoo.base_of(tmp_path / "base", "llama", num_hidden_layers=9)
    model, left = rehearsal._first_blocks(base)
    assert (len(model.model.layers), left) == (4, 5)
    for layers in ("all", 7):
        recipe = tiny.recipe(method="lora", trained_layers=layers)
        assert rehearse(base, recipe)["rehearsal"] == rehearsal.WORDS


def test_settings_that_saving_refuses_are_mended_before_and_said(tmp_path):
    base = zoo.base_of(tmp_path / "base", "llama")
    (base / "generation_config.json").write_text('{"temperature": 0.6}')
    assert "do_sample set to true" in str(rehearse(base, tiny.recipe())["generation_config"])


def test_what_would_fail_after_training_is_refused_before_it(tmp_path, monkeypatch):
    base = zoo.base_of(tmp_path / "base", "llama")

    def refuse(*args, **kwargs):
        raise ValueError("Some generation parameters are set in the model config")

    monkeypatch.setattr("deepcuts.components.plan.rehearsal.models.save", refuse)
    with pytest.raises(DataError, match="a dry run fails while saving it .Some generation parameters"):
        rehearse(base, tiny.recipe())


def test_a_quantized_base_is_refused_and_a_config_alone_is_planned_only(tmp_path):
    base = zoo.base_of(tmp_path / "base", "llama")
    settings = json.loads((base / "config.json").read_text())
    quantized = settings | {"quantization_config": {"quant_method": "compressed-tensors"}}
    (base / "config.json").write_text(json.dumps(quantized))
    with pytest.raises(DataError, match="give the model it was made from"):
        rehearse(base, tiny.recipe())
    (base / "model.safetensors").unlink()
    assert rehearse(base, tiny.recipe()) == {}


@pytest.mark.parametrize("kind", ["gpt2", "xglm"])
def test_dropout_is_no_fault_of_a_base(tmp_path, kind):
    base = zoo.base_of(tmp_path / "base", kind, **DROPOUT[kind])
    assert rehearse(base, tiny.recipe(method="lora"))["rehearsal"] == rehearsal.WORDS


@pytest.mark.parametrize("kind", ["bert", "doge"])
def test_a_model_that_sees_what_it_should_say_is_refused(tmp_path, kind):
    with pytest.raises(DataError, match="sees its targets: use a decoder"):
        rehearse(zoo.base_of(tmp_path / "base", kind), tiny.recipe())


def test_an_adapter_that_would_never_move_is_refused(tmp_path, monkeypatch):
    base = zoo.base_of(tmp_path / "base", "mamba")
    monkeypatch.setattr("deepcuts.components.training.adapters.read_past", lambda model: set())
    with pytest.raises(DataError, match="an adapter on dt_proj learns nothing"):
        rehearse(base, tiny.recipe(method="lora", lora_targets=["dt_proj"]))


def test_a_config_with_infinity_as_transformers_5_writes_it_is_planned(tmp_path):
    base = zoo.base_of(tmp_path / "base", "bamba")
    assert '"__float__"' in (base / "config.json").read_text()
    assert rehearse(base, tiny.recipe(method="lora"))["rehearsal"] == rehearsal.WORDS


def test_an_adapter_that_merging_loses_is_refused(tmp_path, monkeypatch):
    """peft loads Laguna's adapter without some of its layers, and only warns."""
    base = zoo.base_of(tmp_path / "base", "llama")
    monkeypatch.setattr("deepcuts.components.plan.rehearsal.models.merge", lambda adapted: adapted.unload())
    with pytest.raises(DataError, match="loaded again it computes something else: use another base, or"):
        rehearse(base, tiny.recipe(method="lora"))


VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
QWEN = {"depth": 1, "num_heads": 2, "out_hidden_size": 32, "num_position_embeddings": 16}
LLAMA4 = {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}


@pytest.mark.parametrize(
    ("kind", "text", "vision"),
    [
        ("qwen3_5", "qwen3_5_text", QWEN),
        ("llama4", "llama4_text", LLAMA4 | {"image_size": 28, "patch_size": 14}),
    ],
)
def test_a_multimodal_base_that_would_lose_its_tower_is_refused(tmp_path, kind, text, vision):
    config = AutoConfig.for_model(
        kind, text_config=zoo.config_of(text).to_dict(), vision_config=VISION | vision
    )
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path / "base")
    byte_tokenizer(CHATML).save_pretrained(tmp_path / "base")
    with pytest.raises(DataError, match="loads only the text part.*give its text model"):
        rehearse(tmp_path / "base", tiny.recipe())


def test_a_type_that_is_no_language_model_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="'llava' is not a causal language model: use its text model") as no:
        _ = architecture.parse({"model_type": "llava", "text_config": {"model_type": "llama"}}).tree
    assert len(str(no.value)) < 200


def test_a_type_that_cannot_be_traced_is_refused_by_plan_with_the_reason(tmp_path):
    shapes = architecture.parse(zoo.config_of("jetmoe").to_dict())
    with pytest.raises(ValueError, match="'jetmoe' cannot be traced .*the experts chosen.*use another base$"):
        shapes.profile(tiny.recipe(seq_len=32))
