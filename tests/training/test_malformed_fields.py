"""A wrong type or value at any field of a model's JSON files is data (exit 3), with its file and field."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deepcuts.components.core.errors import DataError
from deepcuts.components.training import models, render, scoring
from tests.training import tiny
from tests.training.test_weights_check import CONFIG, SETTINGS, TOKENS, change

GENERATION = "generation_config.json"
VALUES = [True, -1, 0, 1.5, float("nan"), 10**30, "x", "", [], [None], [["a"]], {}, {"content": 7}]
FIELDS = {
    CONFIG: ["hidden_act", "rope_parameters", "layer_types", "sliding_window", "num_labels", "use_cache"],
    GENERATION: ["bos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "num_beams"]
    + ["sequence_bias", "forced_eos_token_id", "temperature", "top_k", "max_new_tokens", "stop_strings"],
    SETTINGS: [
        "extra_special_tokens",
        "added_tokens_decoder",
        "pad_token",
        "padding_side",
        "model_max_length",
    ],
    TOKENS: ["normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding", "version"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.base(tmp_path_factory.mktemp("made") / "base")


@pytest.fixture
def base(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "base"))


def used(base: Path, scratch: Path) -> None:
    """Everything that finetune and evaluate do with a base."""
    model, tokenizer = models.load_base(base)
    examples = tiny.sums(1)
    ids = render.render(examples[0], tokenizer).ids
    model(torch.tensor([ids])).logits.sum().backward()
    models.save(model, tokenizer, base, scratch, torch.float32)
    scoring.greedy_answers(model, tokenizer, examples, 2)


def cases() -> Iterator[tuple[str, str, Any]]:
    for file, fields in FIELDS.items():
        yield from ((file, field, value) for field in fields for value in VALUES)


@pytest.mark.parametrize("file", FIELDS)
def test_no_value_of_any_field_is_a_bug_of_ours(base, tmp_path, file):
    kept = (base / file).read_text()
    mine = [case for case in cases() if case[0] == file]
    for number, (_, field, value) in enumerate(random.Random(23).sample(mine, 10)):
        change(base / file, **{field: value})
        try:
            used(base, tmp_path / f"saved-{number}")
        except DataError as error:
            assert file in str(error) and field in str(error), (field, value, str(error))
        (base / file).write_text(kept)


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        (CONFIG, "sliding_window", [None]),
        (CONFIG, "sliding_window", -1),
        (CONFIG, "sliding_window", 10**30),
        (CONFIG, "output_attentions", True),
        (CONFIG, "is_encoder_decoder", True),
        (CONFIG, "save_pretrained", 7),
        (CONFIG, "num_labels", "three"),
        (CONFIG, "num_labels", 10**9),
        (CONFIG, "num_hidden_layers", 10**9),
        (CONFIG, "attention_types", [[["global", "local"], 10**9]]),
        (CONFIG, "rms_norm_eps", float("nan")),
        (CONFIG, "attn_implementation", 7),
        (CONFIG, "rope_parameters", {"rope_type": "default", "rope_theta": "x"}),
        (CONFIG, "rope_parameters", {"rope_type": [], "rope_theta": 10000.0}),
        (CONFIG, "rope_parameters", {"rope_type": "default", "rope_theta": 0.0}),
        (CONFIG, "id2label", {str(n): "x" for n in range(100_001)}),
        (CONFIG, "eos_token_id", [2, -5]),
        (GENERATION, "eos_token_id", [2, -5]),
        (GENERATION, "eos_token_id", 10**12),
        (GENERATION, "suppress_tokens", [None]),
        (GENERATION, "bos_token_id", [None]),
        (GENERATION, "bad_words_ids", [[]]),
        (GENERATION, "sequence_bias", {"a": 1}),
        (GENERATION, "top_k", [[]]),
        (GENERATION, "watermarking_config", 1),
        (GENERATION, "num_beams", {}),
        (SETTINGS, "eos_token", ""),
        (TOKENS, "normalizer", {"type": "Nothing"}),
        (TOKENS, "post_processor", [1]),
        (TOKENS, "added_tokens", [{"id": float("nan"), "content": "<s>"}]),
        (TOKENS, "added_tokens", [7]),
    ],
    ids=lambda value: str(value)[:60],
)
def test_field_at_fault_is_named_where_the_library_does_not(base, tmp_path, file, field, value):
    change(base / file, **{field: value})
    with pytest.raises(DataError, match=rf"{file}.*{field}|no eos_token"):
        used(base, tmp_path / "saved")


@pytest.mark.parametrize("change_of", [lambda text: "\ufeff" + text, lambda text: text.encode("utf-16")])
@pytest.mark.parametrize("file", [CONFIG, GENERATION, SETTINGS, TOKENS])
def test_file_that_is_not_plain_utf_8_is_named_and_no_field_of_it(base, tmp_path, file, change_of):
    """Python's json reads UTF-16 and byte order marks, transformers does not: any field seemed at fault."""
    changed = change_of((base / file).read_text())
    (base / file).write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    with pytest.raises(DataError, match=rf"^{file} is not JSON"):
        used(base, tmp_path / "saved")


@pytest.mark.parametrize("field", ["normalizer", "decoder"])
def test_steps_that_would_multiply_a_text_are_refused_before_one_runs(base, field):
    """Four Replace of one letter by a thousand: 4 TB a letter, and Rust aborts the process."""
    steps = [{"type": "Replace", "pattern": {"String": "l"}, "content": "l" * 1000}] * 4
    kind = {"type": "Sequence", f"{field}s": steps}
    change(base / TOKENS, **{field: kind})
    with pytest.raises(DataError, match=rf"tokenizer.json: {field} makes a text up to 1e\+12 times as long"):
        models.load_tokenizer(base)
    change(base / TOKENS, **{field: kind | {f"{field}s": steps[:1]}})
    models.load_tokenizer(base)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("chat_template.jinja", b"\xff\xfe{{"),
        ("added_tokens.json", b"[1]"),
        ("added_tokens.json", b'{"b": []}'),
    ],
)
def test_file_of_a_tokenizer_that_is_not_what_it_should_be_is_named(base, file, content):
    (base / file).write_bytes(content)
    with pytest.raises(DataError, match=rf"^{file}"):
        models.load_tokenizer(base)


def test_inner_field_is_named_by_its_path(base):
    change(base / CONFIG, rope_parameters={"rope_type": "default", "rope_theta": {}})
    with pytest.raises(DataError, match=r"config.json: rope_parameters\.rope_theta"):
        models.load_base(base)


def test_count_inside_another_object_is_bounded_too(base):
    change(base / CONFIG, text_config={"model_type": "qwen2", "num_hidden_layers": 10**9})
    with pytest.raises(DataError, match="config.json: num_hidden_layers 1,000,000,000 is above 10,000"):
        models.load_base(base)


@pytest.mark.parametrize(
    ("field", "model"),
    [
        (r'model.vocab\["x"\]: -1', {"vocab": {"x": -1}}),
        (r'model.vocab\["x"\]: null', {"vocab": {"x": None}}),
        (r'model.vocab\["\\u001b\[2J"\]', {"vocab": {"\x1b[2J": 1.5}}),
        (r"model.merges\[1\]: 7 ", {"merges": [["a", "b"], 7]}),
        (r'model.merges\[1\]: \["a", "b", "c"\]', {"merges": ["a b", ["a", "b", "c"]]}),
        (r'model.merges\[2\]: "abc" is not', {"merges": ["#version: 0.2", "a b", "ab c"]}),
        (r"model.merges: null", {"merges": None}),
        (r"model.vocab: \[\]", {"vocab": []}),
        (r'model.vocab\[1\]: \["b"\]', {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0], ["b"]]}),
    ],
)
def test_entry_at_fault_inside_vocabulary_or_merges_is_named(base, field, model):
    """The library names a column of the one long line."""
    vocabulary = model.get("vocab", {})
    if isinstance(vocabulary, dict):
        vocabulary = {"a": 0, "b": 1, "c": 2, "ab": 3} | vocabulary
    change(base / TOKENS, model={"type": "BPE", "merges": []} | model | {"vocab": vocabulary})
    with pytest.raises(DataError, match=rf"^tokenizer.json: {field}"):
        models.load_tokenizer(base)


def test_entry_at_fault_inside_the_added_tokens_is_named(base):
    change(base / TOKENS, added_tokens=[{"id": 0, "content": "<s>"}, {"id": "one", "content": "</s>"}])
    with pytest.raises(DataError, match=r'tokenizer.json: added_tokens\[1\].id: "one"'):
        models.load_tokenizer(base)


def test_settings_with_beams_leave_answers_greedy_and_the_seed_alone(base):
    torch.manual_seed(3)
    wanted = scoring.greedy_answers(*models.load_base(base), tiny.sums(2), 8)
    drawn = torch.rand(1)
    change(base / GENERATION, num_beams=4, num_return_sequences=2)
    torch.manual_seed(3)
    assert scoring.greedy_answers(*models.load_base(base), tiny.sums(2), 8) == wanted
    assert torch.equal(torch.rand(1), drawn)
