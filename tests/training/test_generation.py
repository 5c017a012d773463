import json

import pytest
import torch
from accelerate import Accelerator
from transformers import GenerationConfig

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.store import open_store
from deepcuts.components.training import generation, loop, models, scoring
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.losses import CompletionLoss
from tests.training import tiny
from tests.training.test_render import CHATML, UNENDED, byte_tokenizer


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"temperature": 0.6, "top_p": 0.95}, {"temperature": 0.6, "top_p": 0.95, "do_sample": True}),
        ({"top_k": 20, "do_sample": False}, {"top_k": 20, "do_sample": True}),
        ({"temperature": 0.6, "do_sample": True}, {"temperature": 0.6, "do_sample": True}),
        ({"early_stopping": True, "eos_token_id": [1, 2]}, {"eos_token_id": [1, 2], "early_stopping": None}),
        ({"pad_token_id": -1, "eos_token_id": 2}, {"eos_token_id": 2, "pad_token_id": None}),
        ({"use_cache": False, "cache_implementation": "static"}, {"cache_implementation": None}),
    ],
)
def test_settings_that_transformers_refuses_to_save_are_mended_and_others_kept(tmp_path, given, wanted):
    (tmp_path / "generation_config.json").write_text(json.dumps(given))
    settings = GenerationConfig.from_pretrained(tmp_path)
    found, words = generation.corrected(settings)
    assert {name: getattr(found, name) for name in wanted} == wanted
    found.save_pretrained(tmp_path / "saved")
    assert (words == generation.KEPT) == (given == {"temperature": 0.6, "do_sample": True})
    assert generation.published(tmp_path) == words


def test_settings_that_do_not_even_load_are_refused_with_the_fix(tmp_path):
    assert generation.published(tmp_path) == "none"
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(DataError, match="correct or remove it"):
        generation.published(tmp_path)


def test_a_full_model_of_a_base_with_unsaveable_settings_is_saved_with_the_union_of_end_tokens(tmp_path):
    base = tiny.base(tmp_path / "base")
    byte_tokenizer(CHATML, eos_token="<s>").save_pretrained(base)
    settings = {"temperature": 0.6, "eos_token_id": [0, 7]}
    (base / "generation_config.json").write_text(json.dumps(settings))
    network, tokenizer = models.load_base(base)
    models.save(network, tokenizer, base, tmp_path / "saved", torch.float32)
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == [0, 2, 7]  # tokenizer's <s>, template's <|im_end|>, publisher's 7
    assert saved["do_sample"] is True and saved["temperature"] == 0.6
    assert saved["suppress_tokens"] == list(range(len(tokenizer), tiny.ROWS))


def test_ids_without_a_token_are_never_generated(tmp_path):
    network, tokenizer = models.load_base(tiny.base(tmp_path / "base"))
    with torch.no_grad():  # the likeliest rows by far are those that pad the vocabulary
        network.get_output_embeddings().weight[len(tokenizer) :] = 100 * torch.ones(32)
        network.model.norm.weight.copy_(torch.ones(32))
    settings = generation.decoding(network, tokenizer, max_new_tokens=20)
    prompts = torch.randint(3, 200, (8, 5), generator=torch.Generator().manual_seed(0))
    said = network.generate(inputs=prompts, generation_config=settings)[:, 5:]
    assert said.max() < len(tokenizer)


@pytest.mark.parametrize(
    "template", [CHATML, UNENDED, None], ids=["chatml on another eos", "next turn", "plain"]
)
def test_a_model_that_has_learned_its_answers_stops_where_training_did(tmp_path, template):
    base = tiny.base(tmp_path / "base")
    byte_tokenizer(template, eos_token="<s>" if template else "<|im_end|>").save_pretrained(base)
    network, tokenizer = models.load_base(base)
    records = tiny.sums(3)
    data = scoring.render_all(records, tokenizer)
    recipe = tiny.recipe(tokens_per_step=128, budget_tokens=15_000, learning_rate=2e-2, seq_len=128)
    loss = CompletionLoss(network)
    store = open_store((tmp_path / "store").as_uri())
    loop.train(loss, data, recipe, Accelerator(), Checkpoints(store, "x", 1), say=lambda text: None)
    assert scoring.mean_nats(loss, data) < 0.02
    answers = scoring.greedy_answers(network, tokenizer, records, 16)
    assert answers == [record.messages[-1].content for record in records]
