"""``deepcuts releases`` and ``export`` on releases as publish leaves them."""

import json
import sys
from pathlib import Path

import pytest

from deepcuts.components.core import cli as step_cli
from deepcuts.components.core import files, scorecards
from deepcuts.components.core.scorecards import Score
from deepcuts.components.core.store import open_store
from deepcuts.components.ledger.ledger import balance
from deepcuts.components.publish import releases
from deepcuts.pipelines.command import cli, release


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store with two releases of ``a`` and a name whose log is of an earlier version."""
    url = (tmp_path / "store").as_uri()
    for number, name in enumerate(["a", "a", "b"]):
        folder = tmp_path / f"release-{number}"
        scores = [Score(str(i), 1.0 + number, 5) for i in range(4)]
        scorecards.write(folder / "scorecard", scorecards.summarise(scores, "model", "split", 0), scores)
        step_cli.write_json(folder / "ledger.json", balance([], {}, {}))
        releases.release(open_store(url), name, folder, f"v{number}", "digest")
    log = tmp_path / "store/releases/b/log/000000.json"
    old = json.loads(log.read_text())
    log.write_text(json.dumps({key: value for key, value in old.items() if key != "at"}))
    return url


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["deepcuts", *words])
        cli.main()
    return int(ended.value.code or 0)


def test_releases_lists_what_no_rollback_left_and_says_what_is_in_service(store, capsys):
    assert command("releases", "--store", store, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["version"], one["in_service"]) for one in found] == [
        ("a", "v0", False),
        ("a", "v1", True),
        ("b", "v2", True),
    ]
    assert found[1]["completion_loss"] == pytest.approx(0.4) and found[1]["usd"] == 0.0
    assert found[1]["released_at"].startswith("20") and found[2]["released_at"] == ""
    releases.rollback(open_store(store), "a")
    assert [one.version for one in release.listed(open_store(store))] == ["v0", "v2"]
    assert command("releases", "--store", store) == 0
    assert "v0" in capsys.readouterr().out


def test_an_empty_store_has_no_releases(tmp_path, capsys):
    assert command("releases", "--store", tmp_path.as_uri()) == 0
    assert "nothing was released" in capsys.readouterr().out


def test_export_copies_a_release_and_overwrites_nothing(store, tmp_path, capsys):
    target = tmp_path / "out"
    assert command("export", "a", "--to", str(target), "--store", store) == 0
    assert files.digest(target) == files.digest(tmp_path / "release-1")
    assert command("export", "a/v0", "--to", str(target), "--store", store) == 2
    assert "is not empty" in capsys.readouterr().err
    bucket = (tmp_path / "bucket").as_uri()
    assert command("export", "a/v0", "--to", f"{bucket}/first", "--store", store) == 0
    assert (tmp_path / "bucket/first/ledger.json").exists()
    assert command("export", "c", "--to", str(tmp_path / "other"), "--store", store) == 3
