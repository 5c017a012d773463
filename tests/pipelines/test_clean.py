"""``deepcuts clean``: what may go goes, nothing else does, and nothing at all without --yes."""

import datetime
import fcntl
import os
import time
from pathlib import Path

import msgspec
import pytest

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.store import Store, open_store, publish
from deepcuts.components.publish import releases
from deepcuts.components.training.run_messages import Heartbeat
from deepcuts.pipelines.command import clean
from deepcuts.pipelines.runner.run_record import RunRecord

OLD = time.time() - 40 * 24 * 3600


class OldRuns:
    """A folder of runs with a store, filled by hand."""

    def __init__(self, folder: Path) -> None:
        self.runs, self.store = folder / "runs", open_store((folder / "runs" / "store").as_uri())

    def run(self, name: str, old: bool) -> Path:
        path = self.runs / name
        (path / "tasks" / "make" / "outputs").mkdir(parents=True)
        (path / "tasks" / "make" / "outputs" / "out").write_bytes(b"x" * 1000)
        record = RunRecord(pipeline="p", package_digest="", arguments={}, parallel=1, started_at="", tasks={})
        (path / "run.json").write_bytes(msgspec.json.encode(record))
        return aged(path / "run.json") if old else path / "run.json"

    def cached(self, name: str, source: Path, old: bool) -> None:
        entry = self.runs / "cache" / name
        entry.mkdir(parents=True)
        os.link(source, entry / "out")
        (entry / "entry.json").write_text("{}")
        if old:
            aged(entry / "entry.json")

    def training(self, name: str, days: float, message: str) -> None:
        for step in (5, 10):
            published(self.store, f"trainings/{name}/step-{step:08d}", self.runs.parent / "some")
        at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
        beat = Heartbeat(at.isoformat(), [5, 10])
        self.store.put_bytes(f"trainings/{name}/heartbeat", msgspec.json.encode(beat))
        if message:
            self.store.put_bytes(f"trainings/{name}/{message}", b'{"at": "", "error": ""}')

    def names(self) -> set[str]:
        return {f"{item.kind} {item.name}" for item in clean.leftovers(self.runs, self.store, 30.0, 2)}


def aged(path: Path) -> Path:
    os.utime(path, (OLD, OLD))
    return path


def published(store: Store, prefix: str, scratch: Path) -> None:
    scratch.mkdir(exist_ok=True)
    (scratch / "weights").write_bytes(b"w" * 500)
    publish(store, scratch, prefix)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OldRuns:
    monkeypatch.chdir(tmp_path)
    made = OldRuns(tmp_path)
    old, new = made.run("p-old", old=True), made.run("p-new", old=False)
    made.run("p-held", old=True)
    made.cached("aa11", old.parent / "tasks/make/outputs/out", old=True)
    made.cached("bb22", new.parent / "tasks/make/outputs/out", old=False)
    made.training("ended", 40, "done")
    made.training("broken", 40, "failed")
    made.training("recent", 2, "done")
    made.training("underway", 40, "")
    for number, version in enumerate(("one", "two", "bad", "three", "four")):
        (tmp_path / "some").mkdir(exist_ok=True)
        (tmp_path / "some" / "weights").write_bytes(b"w" * (number + 1))
        releases.release(made.store, "model", tmp_path / "some", version, "digest")
        if version == "bad":
            releases.rollback(made.store, "model")
    published(made.store, "releases/model/being-published", tmp_path / "some")
    (made.runs / ".staging-x-1234").write_text("")
    aged(made.runs / ".staging-x-1234")
    return made


GOES = {
    "run p-old",
    "cache aa11",
    "unfinished .staging-x-1234",
    "checkpoints ended, 2 checkpoints",
    "checkpoints broken, 2 checkpoints",
    "release model/one",
    "release model/two",
    "release model/bad",
}


def test_only_what_is_old_ended_or_out_of_service_may_go(place):
    with (place.runs / "p-held" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert place.names() == GOES
    assert place.names() == GOES | {"run p-held"}


def test_without_yes_nothing_is_deleted_and_with_it_all_of_it(place, capsys):
    (place.runs / "p-held").rename(place.runs.parent / "elsewhere")
    before = sorted(place.runs.rglob("*"))
    clean.clean(place.runs, place.store.uri("x").removesuffix("/x"), 30.0, 2)
    assert sorted(place.runs.rglob("*")) == before
    printed = capsys.readouterr().out
    assert "nothing was deleted: add --yes" in printed and "p-old" in printed and "KiB" in printed
    clean.clean(place.runs, place.store.uri("x").removesuffix("/x"), 30.0, 2, yes=True)
    assert place.names() == set() and f"deleted {len(GOES)}" in capsys.readouterr().out
    assert (place.runs / "p-new" / "tasks/make/outputs/out").exists() and (place.runs / "cache/bb22").is_dir()
    left = place.store.list("trainings/")
    assert not [key for key in left if "ended/step-" in key or "broken/step-" in key]
    assert "trainings/ended/done" in left and "trainings/underway/step-00000010/manifest.json" in left
    assert releases.version_of(place.store, "model", "latest") == "four"
    assert releases.rollback(place.store, "model") == ("four", "three")
    empty = [path for path in place.runs.rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert not empty


def test_folder_that_a_run_under_way_has_just_made_stays_and_old_empty_ones_go(place):
    made, old = place.runs / "p-new/tasks/next/outputs", place.runs / "p-new/tasks/before"
    made.mkdir(parents=True)
    old.mkdir()
    aged(old)
    clean.clean(place.runs, place.store.uri("x").removesuffix("/x"), 30.0, 2, yes=True)
    assert made.is_dir() and not old.exists()


def test_folder_that_is_made_while_things_are_deleted_stays(place):
    old, new = place.runs / "p-new/tasks/before", place.runs / "p-new/tasks/next"
    old.mkdir(parents=True)
    aged(old)
    known = list(clean.folders(place.runs))
    new.mkdir()  # a run does, and writes there next
    clean.prune(known)
    assert new.is_dir() and not old.exists()


def test_size_is_what_deleting_frees(place):
    sizes = {item.name: item.bytes for item in clean.leftovers(place.runs, place.store, 30.0, 2)}
    record = (place.runs / "p-old" / "run.json").stat().st_size
    assert sizes["p-old"] == record, "the output is in the cache, too"
    assert sizes["ended, 2 checkpoints"] == 1000


def test_objects_that_are_none_of_ours_are_in_nobodys_way(place):
    before = place.names()
    for key in (
        "trainings/README",
        "trainings/x/notes",
        "releases/README",
        "releases/Upper/v1/manifest.json",
    ):
        place.store.put_bytes(key, b"x")
    assert place.names() == before


@pytest.mark.parametrize("at", ["yesterday", "2026-01-01T00:00:00", "2026-02-31T00:00:00Z", ""])
def test_heartbeat_whose_time_cannot_be_read_is_named(place, at):
    place.store.put_bytes("trainings/ended/heartbeat", msgspec.json.encode({"at": at, "saved": []}))
    with pytest.raises(DataError, match="trainings/ended/heartbeat is damaged"):
        place.names()
