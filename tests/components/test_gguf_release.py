"""A GGUF model on its way: scored by evaluate, released, talked to and exported; and its adapter alone."""

import json
import sys
from pathlib import Path

import pytest
import torch

from deepcuts.components.core import files
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.store import open_store
from deepcuts.components.gguf import convert, folders
from deepcuts.components.publish import releases
from deepcuts.components.training import models, scoring
from deepcuts.pipelines.command import cli, export
from tests.components.test_evaluate import adapter, go  # noqa: F401  (a fixture)
from tests.components.test_gguf import BUNDLED, base
from tests.components.test_publish import Shop
from tests.training import tiny

pytest.importorskip("cyllama", reason="llama.cpp; installed with the extra train")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The bundled base as a folder of Q8_0, as quantize writes it."""
    torch.set_num_threads(1)
    scratch, tokenizer = tmp_path_factory.mktemp("gguf"), models.load_tokenizer(BUNDLED)
    plain = folders.write(BUNDLED, tokenizer, scratch / "F16", "F16", None)
    return folders.write(BUNDLED, tokenizer, scratch / "Q8_0", "Q8_0", plain / convert.FILE)


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["deepcuts", *map(str, words)])
        cli.main()
    return int(ended.value.code or 0)


def test_evaluate_scores_the_file_that_is_served_by_every_measure(go, small, tmp_path):  # noqa: F811
    (tmp_path / "labels.json").write_text(json.dumps(["7", "12", "3", "general"]))
    measures = ("completion_loss", "exact_match", "label_accuracy", "general")
    code, _, served, stderr = go(small, small, measures)
    assert code == 0, stderr
    _, _, whole, _ = go(BUNDLED, BUNDLED, measures)
    for name in ("completion_loss", "general_loss"):
        assert served[name] != whole[name] and served[name] == pytest.approx(whole[name], abs=0.05)
    assert served["label_accuracy"] == whole["label_accuracy"] and "exact_match" in served


def test_a_release_of_a_gguf_file_is_whole_says_who_reads_it_and_answers(small, tmp_path, capsys):
    shop = Shop(tmp_path)
    code, facts = shop.release(small)
    assert code == 0 and facts["bytes"] < 0.7 * files.size_bytes(BUNDLED) + 20_000
    assert "llama.cpp's server, Ollama" in (tmp_path / "card.md").read_text()
    question = "where is my order"
    capsys.readouterr()
    assert command("chat", "support", "--store", shop.url, "--prompt", question, "--max-new-tokens", 8) == 0
    record = Example("q", (Message("user", question), Message("assistant", "")))
    wanted = scoring.greedy_answers(*models.load_base(BUNDLED), [record], 8)[0]
    assert capsys.readouterr().out.strip() == wanted
    assert command("export", "support", "--as", "gguf", "--to", tmp_path / "out", "--store", shop.url) == 0
    assert files.digest(tmp_path / "out" / convert.FILE) == files.digest(small / convert.FILE)
    again = ("export", "support", "--as", "gguf", "--type", "Q4_K_M", "--store", shop.url)
    assert command(*again, "--to", tmp_path / "smaller") == 2
    assert "is Q8_0 already" in capsys.readouterr().err and not (tmp_path / "smaller").exists()


def test_export_converts_a_release_and_says_how_it_was_verified(tmp_path, capsys):
    store = open_store((tmp_path / "store").as_uri())
    releases.release(store, "support", BUNDLED, "v1", files.digest(BUNDLED))
    words = (
        "export",
        "support",
        "--as",
        "gguf",
        "--type",
        "Q4_K_M",
        "--store",
        (tmp_path / "store").as_uri(),
    )
    assert command(*words, "--to", tmp_path / "out") == 0
    assert "nats per token from transformers on" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "model.gguf",
        "Modelfile",
        "tokenizer.json",
    }
    assert (tmp_path / "out" / convert.FILE).stat().st_size < 0.5 * files.size_bytes(BUNDLED)


def test_types_of_the_command_are_those_of_the_converter():
    assert [kind.value for kind in export.GgufType] == list(convert.TYPES)


@pytest.fixture
def tuned(tmp_path) -> Path:
    """A release of an adapter on a base, in a store."""
    whole = base(tmp_path / "base")
    trained = adapter(whole, tmp_path / "trained")
    shop = Shop(tmp_path)
    shop.fetched("model_receipt", source="hf://org/base@" + "a" * 40, digest=files.digest(whole))
    assert shop.release(trained, base=whole)[0] == 0
    return tmp_path


def test_a_release_of_an_adapter_has_it_alone_with_the_name_and_digest_of_its_base(tuned, capsys):
    store = (tuned / "store").as_uri()
    assert command("export", "support", "--as", "adapter", "--to", tuned / "alone", "--store", store) == 0
    assert files.digest(tuned / "base") in capsys.readouterr().out.replace("\n", "")
    assert (
        json.loads((tuned / "alone/adapter_config.json").read_text())["base_model_name_or_path"] == "org/base"
    )
    merged, _ = models.load(tuned / "alone", tuned / "base")
    wanted, _ = models.load(tuned / "trained", tuned / "base")
    ids = torch.arange(20)[None]
    assert torch.equal(merged.eval()(ids).logits, wanted.eval()(ids).logits)
    assert command("export", "support", "--as", "adapter-gguf", "--to", tuned / "lora", "--store", store) == 0
    content = (tuned / "lora" / "lora.gguf").read_bytes()
    assert content[:4] == convert.MAGIC and content.count(b".lora_a") == content.count(b".lora_b") > 0


def test_a_gguf_file_is_not_trained(small):
    with pytest.raises(ValueError, match="holds a GGUF file, which is for serving"):
        models.load_base(small)


def test_a_release_without_an_adapter_says_so(tmp_path, capsys):
    shop = Shop(tmp_path)
    shop.release(tiny.base(tmp_path / "model"))
    words = ("export", "support", "--as", "adapter", "--to", tmp_path / "alone", "--store", shop.url)
    assert command(*words) == 3 and "has no adapter" in capsys.readouterr().err
