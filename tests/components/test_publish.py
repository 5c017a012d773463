"""Publish on the bundled base: what is in the store, what is in service, and what is refused."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
import torch
from huggingface_hub import ModelCard

from deepcuts.components.core import cli, files, scorecards
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.receipts import Facts, Meter
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.core.scorecards import Score
from deepcuts.components.core.store import Store, open_store
from deepcuts.components.fetch.step import fetch
from deepcuts.components.ledger.ledger import balance
from deepcuts.components.publish import releases
from deepcuts.components.publish.pull import pull
from deepcuts.components.publish.step import publish
from deepcuts.components.training import adapters, models
from tests.conftest import ROOT

BASE = ROOT / "pipelines" / "examples" / "base"


class Shop:
    """A run's files, the step's command line, and the store it releases to."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, (folder / "store").as_uri()
        self.store = open_store(self.url)
        self.fetched("model_receipt", source="hf://org/base@" + "a" * 40, digest="b" * 64)
        self.fetched("data_receipt", source="s3://bucket/da|ta`.jsonl", digest="d" * 64)
        (folder / "verdict.md").write_text("**Accepted.** The candidate is better than the reference.\n")
        cli.write_json(folder / "ledger" / "ledger.json", balance([], {}, {}))

    def fetched(self, name: str, **facts: Any) -> None:
        cli.write_json(self.folder / name, Meter().receipt("fetch", 0, facts))

    def scored(self, name: str, model: Path) -> Path:
        scores = [Score(str(i), 10.0 + i, 5) for i in range(20)]
        scorecards.write(
            self.folder / name, scorecards.summarise(scores, files.digest(model), "split", 0), scores
        )
        return self.folder / name

    def release(self, model: Path = BASE, accepted: bool = True, **changes: Any) -> tuple[int, Facts]:
        """(exit code, facts) of the step as a pod runs it."""
        card = self.scored("card-of-passed-on", model)
        self.fetched("accept_receipt", accepted=accepted)
        other = self.scored("card-of-other", self.folder / "verdict.md")
        evidence = {
            "candidate": card if accepted else other,
            "reference": other if accepted else card,
            "verdict": self.folder / "verdict.md",
            "accept_receipt": self.folder / "accept_receipt",
            "model_receipt": self.folder / "model_receipt",
            "data_receipt": self.folder / "data_receipt",
        }
        evidence |= {name: changes.pop(name) for name in evidence.keys() & changes}
        flags = {
            "model": model,
            "base": BASE,
            "evidence": json.dumps({name: str(path) for name, path in evidence.items()}),
            "training": "",
            "run": "",
            "ledger": self.folder / "ledger",
            "base_licence": "Apache-2.0",
            "store": self.url,
            "name": "support",
            "card": self.folder / "card.md",
        } | changes
        words = [w for name, value in flags.items() for w in (f"--{name.replace('_', '-')}", str(value))]
        receipt = self.folder / "receipt.json"
        code = cli.run(publish, [*words, "--receipt", str(receipt)])
        return code, json.loads(receipt.read_text())["facts"]

    @property
    def latest(self) -> str:
        return releases.version_of(self.store, "support", "latest")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    torch.set_num_threads(1)
    return Shop(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A model that differs from the base."""
    shutil.copytree(BASE, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    return tmp_path / "other"


def test_publish_release_is_whole_verified_and_in_service(shop, tmp_path):
    code, facts = shop.release()
    assert code == 0 and facts["verified"] is True
    assert facts["version"] == shop.latest
    assert facts["release"] == shop.store.uri(f"releases/support/{facts['version']}")
    pull(shop.url, "support", "latest", tmp_path / "served")
    assert files.digest(tmp_path / "served" / "model.safetensors") == files.digest(BASE / "model.safetensors")
    assert {p.name for p in (tmp_path / "served").iterdir()} >= {
        "README.md",
        "config.json",
        "ledger.json",
        "manifest.json",
        "scorecard",
        "tokenizer.json",
    }
    assert facts["files"] == sum(p.is_file() for p in (tmp_path / "served").rglob("*")) - 1


def test_publish_card_names_origin_licence_cost_limits_and_every_file(shop):
    shop.release()
    card = (shop.folder / "card.md").read_text()
    for words in ("a" * 40, "b" * 64, "d" * 64, "Apache-2.0", "## Limits", "**Accepted.**", "| total |"):
        assert words in card
    pull(shop.url, "support", "latest", shop.folder / "served")
    for path in BASE.iterdir():
        served = shop.folder / "served" / path.name
        assert f"| `{path.name}` | {served.stat().st_size:,} | `{files.digest(served)}` |" in card
    about = ModelCard(card).data
    assert (about.license, about.library_name, about.base_model) == ("apache-2.0", "transformers", "org/base")
    assert "| read by | transformers 5, and vLLM" in card and "keys of 4.57" in card
    assert "s3://bucket/da¦ta'.jsonl" in card  # what comes from outside cannot break the table
    shop.release(base_licence="")
    card = (shop.folder / "card.md").read_text()
    assert "licence of the base | unknown" in card and ModelCard(card).data.license is None


def test_publish_again_changes_nothing(shop):
    shop.release()
    before = shop.store.list("")
    assert shop.release()[0] == 0 and shop.store.list("") == before


def test_publish_adapter_is_merged_so_that_one_folder_serves(shop, tmp_path):
    base, tokenizer = models.load_base(BASE)
    adapted = adapters.adapt(base, Recipe(lora_rank=2, trainable_embeddings="no"), torch.device("cpu"))
    for name, weights in models.trainable(adapted).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.05)
    models.save(adapted, tokenizer, BASE, tmp_path / "adapter", torch.float32)
    assert shop.release(tmp_path / "adapter")[0] == 0
    pull(shop.url, "support", "latest", tmp_path / "served")
    assert not models.is_adapter(tmp_path / "served")
    served, merged = models.load_base(tmp_path / "served")[0], models.load(tmp_path / "adapter", BASE)[0]
    assert models.stored_dtype(tmp_path / "served") is models.stored_dtype(BASE) is torch.float16
    ids = torch.tensor([[5, 6, 7]])
    assert torch.allclose(served.float()(ids).logits, merged(ids).logits, atol=0.02)  # rounded to 16 bits
    assert not torch.allclose(served(ids).logits, models.load_base(BASE)[0](ids).logits, atol=1e-2)


def test_publish_refused_candidate_is_a_gate_only_if_the_reference_is_released(shop, capsys):
    assert shop.release(accepted=False)[0] == 0
    version = shop.latest
    code, _ = shop.release(accepted=False, base_licence="MIT")
    assert code == 5 and "reference is release" in capsys.readouterr().err
    assert shop.latest == version


def test_publish_refused_candidate_of_a_fetched_release_is_a_gate_as_well(shop, tmp_path, capsys):
    """Retrain starts from a release, which brings its scorecard, ledger and manifest along."""
    version = shop.release()[1]["version"]
    fetch(shop.store.uri(f"releases/support/{version}"), "model", tmp_path / "fetched", config=None)
    assert (tmp_path / "fetched" / "ledger.json").exists()
    code, _ = shop.release(tmp_path / "fetched", accepted=False)
    assert code == 5 and f"reference is release {version}" in capsys.readouterr().err
    assert shop.release(tmp_path / "fetched", base_licence="MIT")[0] == 0
    first, second = releases.read(shop.store, "support")
    assert first.model_digest == second.model_digest and first.version != second.version


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"name": "No Name"}, 2, "release name 'No Name'"),
        ({"store": "ftp://x"}, 2, "is not a store"),
        ({"ledger": Path("nowhere")}, 3, "ledger.json"),
        ({"candidate": Path("nowhere")}, 3, "scorecard.json"),
    ],
)
def test_publish_bad_input_is_named_and_nothing_is_in_service(shop, capsys, changes, code, words):
    assert shop.release(**changes)[0] == code
    assert words in capsys.readouterr().err
    assert releases.read(shop.store, "support") == []


def test_publish_takes_evidence_from_the_store_of_its_run(shop, tmp_path):
    left = tmp_path / "tasks"
    card = shop.scored("card", BASE)
    for place, source in {
        "judge/outputs/candidate": card,
        "judge/outputs/scorecard": card,
        "judge/outputs/verdict": shop.folder / "verdict.md",
        "fetch-model/outputs/receipt": shop.folder / "model_receipt",
        "prepare/outputs/receipt": shop.folder / "data_receipt",
    }.items():
        (left / place).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, left / place)
    cli.write_json(left / "judge/outputs/receipt", Meter().receipt("accept", 0, {"accepted": True}))
    named = {
        "candidate": "judge/candidate",
        "reference": "judge/scorecard",
        "verdict": "judge/verdict",
        "accept_receipt": "judge/receipt",
        "model_receipt": "fetch-model/receipt",
        "data_receipt": "prepare/receipt",
    }
    run = (left / "publish/outputs/card").as_uri()
    assert shop.release(run=run, **named)[0] == 0
    assert shop.release(run=run, **named | {"verdict": "judge/opinion"})[0] == 3
    assert len(releases.read(shop.store, "support")) == 1


def test_publish_shows_how_the_training_was_steered(shop):
    (shop.folder / "search.md").write_text("**3 trials**, the best at 3e-3\n")
    assert shop.release(training=str(shop.folder / "search.md"))[0] == 0
    assert "## Training\n\n**3 trials**" in (shop.folder / "card.md").read_text()


def test_publish_refuses_a_scorecard_of_another_model(shop, other, capsys):
    code, _ = shop.release(candidate=shop.scored("wrong", other))
    assert code == 3 and "scores another model" in capsys.readouterr().err


def test_rollback_goes_back_release_by_release_and_then_says_so(shop, other):
    first = shop.release()[1]["version"]
    second = shop.release(other)[1]["version"]
    third = shop.release(base_licence="MIT")[1]["version"]
    assert releases.rollback(shop.store, "support") == (third, second)
    assert releases.rollback(shop.store, "support") == (second, first)
    assert shop.latest == first
    with pytest.raises(ValueError, match=f"only {first} was released"):
        releases.rollback(shop.store, "support")
    assert len(releases.read(shop.store, "support")) == 5  # nothing of the history is lost


def test_rollback_to_a_damaged_release_leaves_the_good_one_in_service(shop, other):
    first = shop.release()[1]["version"]
    second = shop.release(other)[1]["version"]
    shop.store.put_bytes(f"releases/support/{first}/model.safetensors", b"torn")
    with pytest.raises(DataError, match="not what was released"):
        releases.rollback(shop.store, "support")
    assert shop.latest == second


def moves(store: Store, *words: str) -> None:
    """A log of these moves: ``+a`` releases a, ``-a`` goes back to it."""
    for number, word in enumerate(words):
        action = "release" if word[0] == "+" else "rollback"
        move = releases.Move(action, word[1:], "digest", f"writer {number}")
        assert releases._append(store, "model", number, move)


@pytest.mark.parametrize("lost", [[0], [1], [2], [3], [4], [3, 4], [0, 1, 2, 3, 4]], ids=str)
def test_lost_entry_of_the_log_is_named_and_nothing_moves(tmp_path, lost):
    """Publish and rollback once looped for ever, and a rolled-back release came into service.

    Of the newest entries, 3 and 4, the log itself shows nothing.
    """
    store = open_store(tmp_path.as_uri())
    moves(store, "+a", "+b", "-a", "+c", "+d")
    whole = releases.read(store, "model")
    for number in lost:
        store.delete(f"releases/model/log/{number:06d}.json")
    (tmp_path / "folder").mkdir()
    before = store.list("releases/model/log/")
    for act in (
        lambda: releases.release(store, "model", tmp_path / "folder", "e", "digest"),
        lambda: releases.rollback(store, "model"),
        lambda: releases.version_of(store, "model", "latest"),
    ):
        with pytest.raises(DataError, match="is missing from the log.*restore it") as found:
            act()
        assert store.uri(f"releases/model/log/{lost[0]:06d}.json") in str(found.value)
    assert store.list("releases/model/log/") == before
    for number in lost:
        name = f"{number:06d}.json"
        assert store.uri(f"releases/model/log-copies/{lost[0]:06d}.json") in str(found.value)
        store.put_bytes(f"releases/model/log/{name}", store.get_bytes(f"releases/model/log-copies/{name}"))
    assert releases.read(store, "model") == whole


def test_log_without_copies_is_read_and_a_gap_in_it_is_named(tmp_path):
    """Of an earlier version, or of a writer that was killed between the two."""
    store = open_store(tmp_path.as_uri())
    moves(store, "+a", "+b", "+c")
    for key in store.list("releases/model/log-copies/"):
        store.delete(key)
    store.put_bytes("releases/model/log-copies/notes", b"x")
    assert releases.version_of(store, "model", "latest") == "c"
    store.delete("releases/model/log/000001.json")
    with pytest.raises(DataError, match="000001.json is missing.*backup"):
        releases.version_of(store, "model", "latest")


def test_move_is_made_once_although_the_store_takes_no_copy(tmp_path):
    """A rollback that failed behind its entry would be tried again, and go back twice."""
    (tmp_path / "releases/model").mkdir(parents=True)
    (tmp_path / "releases/model/log-copies").write_text("in the way")
    store = open_store(tmp_path.as_uri())
    moves(store, "+a", "+b", "-a")
    assert [move.version for move in releases.read(store, "model")] == ["a", "b", "a"]


@pytest.mark.parametrize("words", [["-a"], ["+a", "-a"], ["+a", "+b", "-b"], ["+a", "+b", "-a", "-a"]])
def test_rollback_that_cannot_follow_the_entries_before_is_named(tmp_path, words):
    """Entries that moved up by one, or a changed one: the count is right and the log is not."""
    store = open_store(tmp_path.as_uri())
    moves(store, *words)
    with pytest.raises(DataError, match=f"log/{len(words) - 1:06d}.json goes back to .* restore it"):
        releases.version_of(store, "model", "latest")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'{"action": "release"}'])
def test_damaged_entry_of_the_log_is_named(tmp_path, content):
    store = open_store(tmp_path.as_uri())
    store.put_bytes("releases/model/log/000000.json", content)
    with pytest.raises(DataError, match="000000.json is damaged.*restore it"):
        releases.version_of(store, "model", "latest")


def test_object_that_is_no_entry_of_the_log_is_named_and_not_counted(tmp_path):
    store = open_store(tmp_path.as_uri())
    moves(store, "+a", "+b")
    store.put_bytes("releases/model/log/000001.json.bak", b"{}")
    with pytest.raises(DataError, match="000001.json.bak is not an entry of the log"):
        releases.rollback(store, "model")


@pytest.mark.parametrize("version", ["", "..", "../other/v1", "v1/x", "v1\n"])
def test_entry_that_names_no_version_is_named(tmp_path, version):
    store = open_store(tmp_path.as_uri())
    moves(store, "+a")
    move = releases.Move("release", version, "digest", "writer")
    store.put_bytes("releases/model/log/000001.json", msgspec.json.encode(move))
    with pytest.raises(DataError, match="000001.json names no version"):
        releases.version_of(store, "model", "latest")


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_publishers_at_once_lose_no_release(kind, tmp_path, request):
    url = (tmp_path / "store").as_uri() if kind == "file" else request.getfixturevalue("s3_url")

    def publisher(number: int) -> Callable[[], object]:
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "weights").write_text(str(number))
        return lambda: releases.release(open_store(url), "m", folder, f"v{number}", "x")

    threads = [threading.Thread(target=publisher(number)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    moves = releases.read(open_store(url), "m")
    assert sorted(move.version for move in moves) == [f"v{number}" for number in range(6)]


class ToyRegistry(BaseHTTPRequestHandler):
    """The part of Kubeflow's Model Registry (v1alpha3) that registers: names are unique below a parent."""

    made: list[tuple[str, dict[str, Any]]]
    """Path and body of everything that was made; its id is its place here, from 1 on."""
    broken = False

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        where = dict(parse_qsl(address.query))
        kind = address.path.rpartition("/")[2].removeprefix("registered_").removeprefix("model_")
        for number, (path, body) in enumerate(self.made, 1):
            parent = path.split("/")[-2] if "parentResourceId" in where else ""
            same = body["name"] == where["name"] and parent == where.get("parentResourceId", "")
            if same and path.endswith(f"{kind}s"):
                return self.say(200, body | {"id": str(number)})
        self.say(404, {"code": "not found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.broken:
            return self.say(500, {"code": "broken"})
        self.made.append((self.path, body))
        self.say(201, body | {"id": str(len(self.made))})

    def say(self, code: int, body: dict[str, Any]) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def kubeflow(monkeypatch) -> Iterator[type[ToyRegistry]]:
    toy = type("Toy", (ToyRegistry,), {"made": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), toy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MODEL_REGISTRY_URL", f"http://127.0.0.1:{server.server_port}/")
        yield toy
        server.shutdown()


def test_model_registry_points_to_the_release_and_is_told_once(shop, other, kubeflow):
    facts = shop.release()[1]
    root = "/api/model_registry/v1alpha3"
    (model, version, artifact) = kubeflow.made
    assert model == (f"{root}/registered_models", {"name": "support"})
    assert version[0] == f"{root}/registered_models/1/versions"
    assert (version[1]["name"], version[1]["registeredModelId"]) == (facts["version"], "1")
    custom = version[1]["customProperties"]
    assert custom["data_digest"] == {"metadataType": "MetadataStringValue", "string_value": "d" * 64}
    assert custom["completion_loss"]["double_value"] == pytest.approx(19.5 / 5)
    assert artifact[0] == f"{root}/model_versions/2/artifacts"
    assert (artifact[1]["artifactType"], artifact[1]["uri"]) == ("model-artifact", facts["release"])
    assert facts["model_registry_version"] == "2"
    assert shop.release()[1]["model_registry_version"] == "2" and len(kubeflow.made) == 3
    assert shop.release(other)[1]["model_registry_version"] == "4" and len(kubeflow.made) == 5


@pytest.mark.parametrize("broken", [True, False])
def test_model_registry_that_fails_takes_no_release_back(shop, kubeflow, monkeypatch, capsys, broken):
    kubeflow.broken = True
    if not broken:
        monkeypatch.setenv("MODEL_REGISTRY_URL", "http://127.0.0.1:9")
    code, facts = shop.release()
    assert code == 0 and facts["model_registry_version"] is None and shop.latest == facts["version"]
    assert "check MODEL_REGISTRY_URL" in capsys.readouterr().err


class Liar:
    """A store that gives back other bytes for one object than it was given."""

    def __init__(self, store: Store, ending: str) -> None:
        self._store, self._ending = store, ending

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def sha256(self, key: str) -> str:
        return "0" * 64 if key.endswith(self._ending) else self._store.sha256(key)


def test_latest_does_not_move_when_a_file_comes_back_different(shop, tmp_path):
    version = shop.release()[1]["version"]
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "weights").write_text("new")
    with pytest.raises(Exception, match="came back with SHA-256 000"):
        releases.release(Liar(shop.store, "weights"), "support", tmp_path / "new", "v2", "x")
    assert shop.latest == version
