from collections.abc import Iterator
from pathlib import Path

import pytest

from deepcuts.components.core import carry, files
from deepcuts.components.core.store import FileStore, open_store


def test_folder_and_file_go_to_the_store_and_come_back(tmp_path: Path):
    model, score = tmp_path / "model", tmp_path / "score.json"
    (model / "sub").mkdir(parents=True)
    (model / "sub" / "a.bin").write_bytes(b"\0weights")
    score.write_text("{}")
    store = (tmp_path / "store").as_uri()
    assert carry.main(["put", f"{store}/out/model", str(model), f"{store}/out/score", str(score)]) == 0
    back = tmp_path / "back"
    words = [f"{store}/out/model", str(back / "model"), f"{store}/out/score", str(back / "score")]
    assert carry.main(["get", *words]) == 0
    assert (back / "model" / "sub" / "a.bin").read_bytes() == b"\0weights"
    assert (back / "score").read_text() == "{}"


def test_nothing_there_is_a_data_error_that_names_the_uri(tmp_path: Path, capsys):
    uri = f"{tmp_path.as_uri()}/none"
    assert carry.main(["get", uri, str(tmp_path / "x")]) == 3
    assert f"nothing at {uri}" in capsys.readouterr().err


def test_name_that_begins_like_another_is_not_taken_for_it(tmp_path: Path):
    (tmp_path / "store" / "model-2").mkdir(parents=True)
    (tmp_path / "store" / "model-2" / "a").write_text("2")
    assert carry.main(["get", f"{(tmp_path / 'store').as_uri()}/model", str(tmp_path / "x")]) == 3


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    """Where an adapter was put."""
    write(tmp_path / "old", {"adapter_config.json": "{}", "adapter.safetensors": "old"})
    uri = f"{(tmp_path / 'store').as_uri()}/run/candidate"
    assert carry.main(["put", uri, str(tmp_path / "old")]) == 0
    yield uri


def write(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_put_replaces_what_was_put_there_before(place, tmp_path):
    """A training made again under its name once left an old adapter together with a new full model."""
    write(tmp_path / "new", {"config.json": "{}", "sub/model.safetensors": "new"})
    assert carry.main(["put", place, str(tmp_path / "new")]) == 0
    assert carry.main(["get", place, str(tmp_path / "back")]) == 0
    assert files.digest(tmp_path / "back") == files.digest(tmp_path / "new")
    assert "adapter" not in " ".join(open_store((tmp_path / "store").as_uri()).list(""))
    (tmp_path / "one").write_text("a file now")
    for source in ("one", "new", "one"):  # a file in place of a folder and the other way round
        assert carry.main(["put", place, str(tmp_path / source)]) == 0
        assert carry.main(["get", place, str(tmp_path / f"again-{source}")]) == 0
        assert files.digest(tmp_path / f"again-{source}") == files.digest(tmp_path / source)
    assert open_store((tmp_path / "store").as_uri()).list("") == ["run/candidate"]


def test_leftovers_of_a_put_without_a_manifest_go_too(place, tmp_path):
    store = open_store((tmp_path / "store").as_uri())
    store.delete("run/candidate/manifest.json")  # as an older version, or other tools, put it
    write(tmp_path / "new", {"config.json": "{}"})
    assert carry.main(["put", place, str(tmp_path / "new")]) == 0
    assert store.list("") == ["run/candidate/config.json", "run/candidate/manifest.json"]


def test_put_cut_short_at_any_operation_never_shows_a_mixture(place, tmp_path, monkeypatch):
    """Cut before each write: a get then finds the old folder, nothing whole (exit 4), or the new one."""
    write(tmp_path / "new", {"config.json": "{}", "model.safetensors": "new"})
    whole, seen = [files.digest(tmp_path / name) for name in ("old", "new")], []
    for allowed in range(20):
        assert carry.main(["put", place, str(tmp_path / "old")]) == 0
        with monkeypatch.context() as patch:
            left = limit(patch, allowed)
            done = carry.main(["put", place, str(tmp_path / "new")]) == 0
        back = tmp_path / f"back-{allowed}"
        code = carry.main(["get", place, str(back)])
        seen.append(whole.index(files.digest(back)) if code == 0 else code)
        if done:
            break
    assert done and left[0] >= 0
    assert seen == [0, *[4] * (len(seen) - 2), 1]


def limit(patch: pytest.MonkeyPatch, allowed: int) -> list[int]:
    """Let a FileStore do ``allowed`` writes and deletes, then fail; returns what is left, as it falls."""
    left = [allowed]

    def counted(method):
        def call(self, *words):
            left[0] -= 1
            if left[0] < 0:
                raise ConnectionError("cut")
            return method(self, *words)

        return call

    for name in ("put", "put_bytes", "delete"):
        patch.setattr(FileStore, name, counted(getattr(FileStore, name)))
    return left


def test_get_verifies_what_was_put(place, tmp_path, capsys):
    (tmp_path / "store/run/candidate/adapter.safetensors").write_text("0ld")
    assert carry.main(["get", place, str(tmp_path / "back")]) == 4
    assert "adapter.safetensors has SHA-256" in capsys.readouterr().err and not (tmp_path / "back").exists()


def test_folder_with_a_manifest_of_its_own_is_refused(place, tmp_path, capsys):
    write(tmp_path / "sealed", {"manifest.json": "{}"})
    assert carry.main(["put", place, str(tmp_path / "sealed")]) == 2
    assert "manifest.json, which is what a put seals" in capsys.readouterr().err
