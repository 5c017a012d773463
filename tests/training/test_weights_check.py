"""What a stranger's model folder says is held against its weights, and a wrong file is data (exit 3)."""

import json
import shutil
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from deepcuts.components.core.errors import DataError, ModelFault
from deepcuts.components.core.store import FileStore
from deepcuts.components.fetch.step import fetch
from deepcuts.components.quantize import compressed
from deepcuts.components.training import adapters, chat_template, model_files, models, render, weights_check
from deepcuts.components.training.checkpoints import Checkpoints, TrainingProgress
from tests.training import tiny

CONFIG, TOKENS, SETTINGS = "config.json", "tokenizer.json", "tokenizer_config.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.base(tmp_path_factory.mktemp("made") / "base")


@pytest.fixture
def base(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "base"))


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def fetched(base: Path) -> None:
    fetch(str(base), "model", base.with_name("fetched"), config=None)


def trained_on(base: Path) -> None:
    models.load_base(base)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_weights_that_config_has_no_place_for_are_refused(tmp_path, kind):
    """A config with 1 of 2 layers once trained and served a torn model."""
    base = tiny.base(tmp_path / "base", kind)
    fewer = {"n_layer": 1} if kind == "gpt2" else {"num_hidden_layers": 1, "max_window_layers": 1}
    if "qwen" in kind:
        fewer["layer_types"] = ["full_attention"]
    change(base / CONFIG, **fewer)
    with pytest.raises(DataError, match=r"\d+ weights are not in the model .*first .*\.1\."):
        models.load_base(base)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
@pytest.mark.parametrize("way", [fetched, trained_on])
def test_weights_that_are_no_floats_are_refused(base, dtype, way):
    weights = load_file(base / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name].to(dtype)
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=f"model.safetensors: {name} is stored as "):
        way(base)


@pytest.mark.parametrize("way", [fetched, trained_on, lambda base: models.load(base, base)])
@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_model_and_adapter_in_one_folder_are_refused(base, way, file):
    """Full fine-tuning of such a base once handed over an adapter that nothing loads."""
    (base / file).write_bytes((base / CONFIG).read_bytes())
    if file.endswith(".safetensors"):
        shutil.copyfile(base / "model.safetensors", base / file)
    with pytest.raises(DataError, match="a model and an adapter"):
        way(base)


def test_safetensors_in_capitals_are_weights_too(base):
    (base / "X.SAFETENSORS").write_bytes(b"cut short")
    fetched(base)
    assert not (base.with_name("fetched") / "X.SAFETENSORS").exists()  # a second copy, which nothing loads
    (base / "model.safetensors").unlink()
    with pytest.raises(DataError, match="weights only as X.SAFETENSORS"):
        fetched(base)


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": 10**9},
        {"vocab_size": 10**12},
        {"intermediate_size": 10**9},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 20},
        {"head_dim": 10**9},
        {"hidden_size": 10**30},
    ],
    ids=str,
)
def test_sizes_are_held_against_the_weights_before_memory_is_taken(base, fields):
    change(base / CONFIG, **fields)
    for load in (trained_on, lambda base: models.from_scratch(base, 0)):
        tracemalloc.start()
        begun = time.monotonic()
        with pytest.raises(DataError, match="config.json"):
            load(base)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert time.monotonic() - begun < 20 and peak < 100e6


def test_masks_that_no_file_holds_are_counted_before_memory_is_taken(tmp_path):
    """GPT-Neo's are positions squared: 6 MB of embeddings asked for 2.5 GB."""
    small = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]}
    config = AutoConfig.for_model("gpt_neo", vocab_size=64, max_position_embeddings=16, **small)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["transformer.wpe.weight"] = torch.zeros(50_000, 32)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    change(tmp_path / CONFIG, max_position_embeddings=50_000)
    with pytest.raises(DataError, match="tables of positions and masks .* take 2,500,000,000 bytes"):
        weights_check.check_sizes(tmp_path)


def test_what_transformers_itself_writes_for_every_causal_type_passes(tmp_path):
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            AutoConfig.for_model(kind).save_pretrained(tmp_path / kind)
        except StrictDataclassError:  # composed of others, which it has no defaults for
            continue
        model_files.check_fields(tmp_path / kind)


def test_sizes_of_a_quantized_model_are_held_against_its_weights_too(base, tmp_path):
    model, tokenizer = models.load_base(base)
    (tmp_path / "small").mkdir()
    compressed.write(model, "w8a8", 32, [], tmp_path / "small", torch.float16)
    tokenizer.save_pretrained(tmp_path / "small")
    models.load(tmp_path / "small", base)
    change(tmp_path / "small" / CONFIG, intermediate_size=10**9)
    with pytest.raises(DataError, match="config.json"):
        models.load(tmp_path / "small", base)


MALFORMED: list[tuple[str, str, Any]] = [
    (CONFIG, "num_attention_heads", 0),
    (CONFIG, "num_attention_heads", "4"),
    (CONFIG, "hidden_size", -1),
    (CONFIG, "hidden_size", 32.5),
    (CONFIG, "num_hidden_layers", True),
    (CONFIG, "vocab_size", [264]),
    (CONFIG, "dtype", "float7"),
    (CONFIG, "torch_dtype", 16),
    (CONFIG, "model_type", ["llama"]),
    (CONFIG, "rope_parameters", []),
    (CONFIG, "tie_word_embeddings", "yes"),
    (CONFIG, "quantization_config", ["int8"]),
    (CONFIG, "eos_token_id", {"id": 2}),
    (SETTINGS, "added_tokens_decoder", []),
    (SETTINGS, "chat_template", 7),
    (SETTINGS, "model_max_length", "long"),
    (SETTINGS, "eos_token", ["</s>"]),
    (SETTINGS, "tokenizer_class", ["PreTrainedTokenizerFast"]),
    (TOKENS, "model", []),
    (TOKENS, "added_tokens", {}),
]


@pytest.mark.parametrize(("file", "field", "value"), MALFORMED, ids=str)
def test_malformed_field_is_named_with_its_file(base, file, field, value):
    change(base / file, **{field: value})
    for way in (fetched, trained_on):
        with pytest.raises(DataError, match=rf"{file}.*{field}"):
            way(base)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (CONFIG, "[]"),
        (CONFIG, "7"),
        (CONFIG, '{"model_type": "nothing-that-ships"}'),
        (CONFIG, '{"model_type": "llama", "hidden_act": "nothing"}'),
        (CONFIG, '{"model_type": "llama", "rope_parameters": {"rope_type": "nothing"}}'),
        (TOKENS, "[]"),
        (TOKENS, '{"model": {"type": "Nothing"}}'),
        (TOKENS, '{"model": {"type": "BPE", "vocab": [], "merges": {}}}'),
        (SETTINGS, "[]"),
        (SETTINGS, '{"tokenizer_class": "Nothing", "eos_token": {"content": 7}}'),
        (SETTINGS, '{"added_tokens_decoder": {"one": {"content": "a"}}}'),
        (SETTINGS, '{"added_tokens_decoder": {"1": 7}}'),
        ("generation_config.json", "[]"),
    ],
)
def test_malformed_file_is_data_and_not_a_bug(base, file, content):
    (base / file).write_text(content)
    with pytest.raises(DataError, match=f"{file}|tokenizer"):
        trained_on(base)


TEMPLATES = {
    "type error": "{{ messages + 1 }}",
    "attribute of nothing": "{{ messages[0].nothing.more }}",
    "huge range": "{% for i in range(10 ** 9) %}{{ i }}{% endfor %}",
    "include": "{% include 'other' %}",
    "division": "{{ 1 // 0 }}",
    "syntax": "{% for %}",
    "unknown filter": "{{ messages | nothing }}",
    "key": "{{ {}['a']['b'] }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_template_that_fails_is_data_and_not_a_bug(base, template):
    change(base / SETTINGS, chat_template=template)
    (base / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(DataError, match="chat template.*chat_template in tokenizer_config.json"):
        render.render(tiny.sums(1)[0], models.load_tokenizer(base))


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
ON_PROMPTS = "{% if add_generation_prompt %}" + ENDLESS + "{% endif %}{{ messages[-1].content }}"
CONSTANT = "{{ 9 ** (9 ** 9) > 1 }}"


@pytest.mark.parametrize("thread", [False, True], ids=["main thread", "another thread"])
@pytest.mark.parametrize("apply", [render.render, render.render_prompt])
@pytest.mark.parametrize("template", [ENDLESS, ON_PROMPTS])
def test_template_that_never_ends_has_a_time_limit(base, monkeypatch, template, apply, thread):
    monkeypatch.setattr(chat_template, "TEMPLATE_SECONDS", 0.3)
    change(base / SETTINGS, chat_template=template)
    tokenizer = models.load_tokenizer(base)
    begun = time.monotonic()
    with pytest.raises(ModelFault, match="chat template takes over"):
        if thread:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(apply, tiny.sums(1)[0], tokenizer).result()
        else:
            apply(tiny.sums(1)[0], tokenizer)
    assert time.monotonic() - begun < 5


def test_template_of_a_constant_that_never_ends_has_a_time_limit(base, monkeypatch):
    monkeypatch.setattr(chat_template, "TEMPLATE_SECONDS", 0.3)
    change(base / SETTINGS, chat_template=CONSTANT)
    with pytest.raises(ModelFault, match="chat template takes over"):
        render.render(tiny.sums(1)[0], models.load_tokenizer(base))


def test_template_that_asks_for_too_much_memory_is_at_fault_and_not_the_machine(base):
    """A petabyte, which no machine gives: exit 4 would try it again, 20 times."""
    change(base / SETTINGS, chat_template="{{ messages[0].content * (10 ** 15) }}")
    with pytest.raises(ModelFault, match="chat template needs more memory"):
        render.render(tiny.sums(1)[0], models.load_tokenizer(base))


def test_pattern_that_backtracks_is_data_and_not_a_panic(base):
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    change(base / TOKENS, pre_tokenizer=pattern)
    tokenizer = models.load_tokenizer(base)
    example = tiny.sums(1)[0]
    turns = (type(example.messages[0])("user", "a" * 60 + "!"), example.messages[1])
    with pytest.raises(DataError, match=r"tokenizer.json"):
        render.render(type(example)(id="x", messages=turns), tokenizer)


def test_base_with_weights_that_are_no_numbers_is_refused_before_training(base):
    """In the row of a token that no example has, NaN once showed after the training, at its save."""
    name = tiny.spoil(base, float("nan"))
    with pytest.raises(DataError, match=f"{name} has infinite or NaN values.*fetch another"):
        models.load_base(base)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_weights_are_no_checkpoint_and_no_model(base, tmp_path, value):
    """The loss of the last step is measured before its update: NaN weights once ended ok."""
    model, tokenizer = models.load_base(base)
    adapted = adapters.adapt(model, tiny.recipe(), torch.device("cpu"))
    optimizer = torch.optim.AdamW(adapted.parameters())
    store = FileStore(tmp_path / "store")
    with torch.no_grad():
        adapted.model.layers[1].mlp.up_proj.weight[0, 0] = value
    with pytest.raises(DataError, match="up_proj.weight has infinite .* lower recipe.learning_rate"):
        Checkpoints(store, "run", 2).save(adapted, optimizer, TrainingProgress(1, 1, 1, 0, []))
    with pytest.raises(DataError, match="up_proj.weight has infinite or NaN"):
        models.save(adapted, tokenizer, base, tmp_path / "model", torch.float32)
    assert store.list("") == [] and not (tmp_path / "model").exists()


def test_weights_too_large_for_the_precision_they_are_stored_in_are_refused(base, tmp_path):
    model, tokenizer = models.load_base(base)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = 70_000.0
    with pytest.raises(DataError, match="not stored as torch.float16"):
        models.save(model, tokenizer, base, tmp_path / "model", torch.float16)
