"""Chat and rollback as a user types them, on the bundled base."""

import io
import shutil
import sys
from pathlib import Path

import pytest
import torch

from deepcuts.components.core import files
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.store import open_store
from deepcuts.components.publish import releases
from deepcuts.components.publish.talk import Conversation
from deepcuts.components.quantize import compressed
from deepcuts.components.training import models, scoring
from deepcuts.pipelines.command import cli
from tests.components.test_publish import Shop
from tests.conftest import ROOT

BASE = ROOT / "pipelines" / "examples" / "base"
QUESTION = "where is my order"


def typed(monkeypatch: pytest.MonkeyPatch, *words: str, stdin: str = "") -> int:
    """The exit code of ``deepcuts`` with these words."""
    monkeypatch.setattr(sys, "argv", ["deepcuts", *words])
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with the base as release v1 and, in service, a changed copy as v2."""
    url = (tmp_path / "store").as_uri()
    shutil.copytree(BASE, tmp_path / "second")
    (tmp_path / "second" / "README.md").write_text("second")
    for version, folder in (("v1", BASE), ("v2", tmp_path / "second")):
        releases.release(open_store(url), "support", folder, version, files.digest(folder))
    monkeypatch.setenv("DEEPCUTS_STORE", url)
    return url


def greedy(question: str) -> str:
    record = Example("q", (Message("user", question), Message("assistant", "")))
    return scoring.greedy_answers(*models.load_base(BASE), [record], 12)[0]


def test_chat_answers_as_evaluate_decodes_whatever_way_the_release_is_named(store, monkeypatch, capsys):
    wanted = greedy(QUESTION)
    for release in (str(BASE), "support", "support/v1", f"{store}/releases/support/v2"):
        code = typed(monkeypatch, "chat", release, "--prompt", QUESTION, "--max-new-tokens", "12")
        assert (code, capsys.readouterr().out.strip()) == (0, wanted)


def test_chat_remembers_earlier_turns_and_ends_with_the_input(monkeypatch, capsys):
    conversation, said = Conversation(BASE, 0.0, 12, 0), []
    first = conversation.answer(QUESTION, said.append)
    second = conversation.answer("and now", said.append)
    assert "".join(said).replace(" ", "") == (first + second).replace(" ", "")
    assert [turn.content for turn in conversation.turns] == [QUESTION, first, "and now", second]
    stdin = f"{QUESTION}\n\nand now\n"
    assert typed(monkeypatch, "chat", str(BASE), "--max-new-tokens", "12", stdin=stdin) == 0
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [first, second]


def test_chat_forgets_the_oldest_turns_when_the_context_is_full():
    conversation = Conversation(BASE, 0.0, 4, 0)
    for number in range(60):
        conversation.turns += [Message("user", f"question {number}"), Message("assistant", "fine")]
    conversation.answer(QUESTION, lambda text: None)
    assert conversation.turns[-2].content == QUESTION
    assert 2 < len(conversation.turns) < 120 and conversation.turns[0].role == "user"


def test_chat_temperature_draws_by_seed():
    drawn = [Conversation(BASE, 1.5, 12, seed).answer(QUESTION, lambda text: None) for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1


def test_chat_answers_from_a_quantized_release_as_its_folder_decodes(tmp_path, monkeypatch, capsys):
    torch.set_num_threads(1)
    network, tokenizer = models.load_base(BASE)
    small = tmp_path / "small"
    small.mkdir()
    compressed.write(network.float(), "w8a8", 32, [], small, models.stored_dtype(BASE))
    tokenizer.save_pretrained(small)
    shop = Shop(tmp_path)
    code, facts = shop.release(small)
    assert code == 0 and facts["bytes"] < 0.8 * files.size_bytes(BASE) + 100_000  # card and ledger come along
    monkeypatch.setenv("DEEPCUTS_STORE", shop.url)
    capsys.readouterr()
    code = typed(monkeypatch, "chat", "support", "--prompt", QUESTION, "--max-new-tokens", "12")
    record = Example("q", (Message("user", QUESTION), Message("assistant", "")))
    (wanted,) = scoring.greedy_answers(*models.load(small, small), [record], 12)
    assert (code, capsys.readouterr().out.strip()) == (0, wanted) and wanted


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("chat", "nobody"), 3, "no release 'nobody'"),
        (("chat", "No Body"), 2, "release name 'No Body'"),
        (("chat", str(BASE), "--prompt", "x", "--max-new-tokens", "512"), 2, "leaves no room"),
        (("chat", str(BASE), "--prompt", "word " * 600), 2, "shorten it"),
        (("chat", str(ROOT / "tests"), "--prompt", "x"), 3, "no config.json"),
        (("rollback", "nobody"), 3, "no release 'nobody'"),
    ],
)
def test_chat_and_rollback_name_what_is_wrong(store, monkeypatch, capsys, words, code, message):
    assert typed(monkeypatch, *words) == code
    assert message in capsys.readouterr().err


def test_chat_damaged_release_is_never_loaded(store, monkeypatch, capsys):
    open_store(store).put_bytes("releases/support/v2/model.safetensors", b"torn")
    code = typed(monkeypatch, "chat", "support", "--prompt", QUESTION)
    assert code == 4 and "as published" in capsys.readouterr().err


def test_rollback_puts_the_previous_release_in_service_until_there_is_none(store, monkeypatch, capsys):
    assert typed(monkeypatch, "rollback", "support") == 0
    assert "v1 is in service again, v2 no longer" in capsys.readouterr().out
    assert releases.version_of(open_store(store), "support", "latest") == "v1"
    assert typed(monkeypatch, "rollback", "support") == 2
    assert "only v1 was released" in capsys.readouterr().err
