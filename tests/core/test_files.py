import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.core import cli, files
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.manifest import manifest_of
from deepcuts.components.core.store import FileStore, publish
from tests.conftest import ROOT


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_staged_file_appears_when_the_block_ends(tmp_path):
    out = tmp_path / "new" / "out"
    with files.staged(out) as staging:
        staging.write_text("whole")
        assert not out.exists()
        inode = staging.stat().st_ino
    assert out.read_text() == "whole"
    assert out.stat().st_ino == inode  # renamed: a copy could be seen half-written
    assert names(out.parent) == ["out"]


def test_staged_folder_replaces_a_folder_and_keeps_nothing_of_it(tmp_path):
    out = tmp_path / "out"
    (out / "old").mkdir(parents=True)
    with files.staged(out) as staging:
        staging.mkdir()
        (staging / "new").touch()
    assert names(out) == ["new"]


@pytest.mark.parametrize("old", ["file", "folder"])
def test_staged_may_replace_one_kind_with_the_other(tmp_path, old):
    out = tmp_path / "out"
    if old == "file":
        out.touch()
    else:
        (out / "inner").mkdir(parents=True)
    with files.staged(out) as staging:
        if old == "folder":
            staging.write_text("file")
        else:
            staging.mkdir()
    assert out.is_dir() == (old == "file")


def test_staged_failed_block_leaves_what_was_there(tmp_path):
    out = tmp_path / "out"
    out.write_text("old")
    with pytest.raises(ZeroDivisionError), files.staged(out) as staging:
        staging.write_text("half")
        raise ZeroDivisionError
    assert out.read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_staged_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), files.staged(tmp_path / "out"):
        pass
    assert names(tmp_path) == []


def test_staged_twice_at_once_gives_one_whole_output(tmp_path):
    out = tmp_path / "out"
    with files.staged(out) as first, files.staged(out) as second:
        first.write_text("first")
        second.write_text("second")
    assert out.read_text() == "first"  # the outer one ends last
    assert names(tmp_path) == ["out"]


WRITER = """
import sys, time
from pathlib import Path
from deepcuts.components.core import cli, files
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.manifest import manifest_of
from deepcuts.components.core.store import FileStore, publish
with files.staged(Path(sys.argv[1])) as staging:
    staging.mkdir()
    for i in range(3):
        (staging / str(i)).write_text("x" * 100_000)
        print("written", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("old", [True, False])
def test_staged_killed_process_leaves_no_half_written_output(tmp_path, old):
    out = tmp_path / "out"
    if old:
        out.mkdir()
        (out / "old").touch()
    argv = [sys.executable, "-c", WRITER, str(out)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert [n for n in names(tmp_path) if not n.startswith(files.STAGING)] == (["out"] if old else [])
    assert not old or names(out) == ["old"]
    with files.staged(out) as staging:  # what the dead writer left is in nobody's way
        staging.write_text("whole")
    assert out.read_text() == "whole"


def test_digest_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_digest_of_a_folder_depends_on_names_and_content_only(tmp_path):
    def folder(name: str, content: dict[str, bytes]) -> str:
        for inner, data in content.items():
            path = tmp_path / name / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return files.digest(tmp_path / name)

    same = folder("one", {"a": b"1", "b/c": b"2"})
    assert folder("two", {"b/c": b"2", "a": b"1"}) == same
    os.utime(tmp_path / "two" / "a", (0, 0))
    assert files.digest(tmp_path / "two") == same
    others = [
        folder("renamed", {"a": b"1", "b/d": b"2"}),
        folder("changed", {"a": b"1", "b/c": b"3"}),
        folder("swapped", {"a": b"2", "b/c": b"1"}),
        folder("more", {"a": b"1", "b/c": b"2", "d": b""}),
        folder("flat", {"a": b"1", "b": b"2"}),
    ]
    assert len({same, *others}) == 6


@given(
    one=st.dictionaries(st.sampled_from("abc"), st.binary(max_size=2), max_size=3),
    other=st.dictionaries(st.sampled_from("abc"), st.binary(max_size=2), max_size=3),
)
def test_digest_is_equal_exactly_for_equal_folders(tmp_path_factory, one, other):
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    for folder, content in zip(folders, (one, other), strict=True):
        for name, data in content.items():
            (folder / name).write_bytes(data)
    assert (files.digest(folders[0]) == files.digest(folders[1])) == (one == other)


def test_digest_of_nothing_names_the_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone does not exist: check the path"):
        files.digest(tmp_path / "gone")


def test_size_counts_every_file_below(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a").write_bytes(bytes(10))
    (tmp_path / "deep" / "er" / "b").write_bytes(bytes(32))
    assert files.size_bytes(tmp_path) == 42
    assert files.size_bytes(tmp_path / "a") == 10


def test_remove_takes_files_folders_links_and_nothing(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name in ("link", "folder", "file", "nothing"):
        files.remove(tmp_path / name)
    assert names(tmp_path) == ["kept"]
    assert names(tmp_path / "kept") == ["file"]


def test_file_name_that_is_not_utf8_is_data_and_is_named(tmp_path):
    path = tmp_path / "folder" / os.fsdecode(b"caf\xe9.json")
    path.parent.mkdir()
    path.write_text("{}")
    for act in (files.digest, manifest_of, lambda folder: publish(FileStore(tmp_path / "s"), folder, "x")):
        with pytest.raises(DataError, match=r"caf\\udce9.json' is not UTF-8: rename it"):
            act(tmp_path / "folder")
    assert cli.run(lambda: {"digest": files.digest(tmp_path / "folder")}, []) == 3


@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127, "名" * 85])
def test_names_as_long_as_the_file_system_takes_are_written(tmp_path, name):
    with files.staged(tmp_path / name) as staging:
        staging.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert FileStore(tmp_path / "store").put_if_absent(name, b"x")


def test_removing_what_another_process_removes_or_empties_is_no_error(tmp_path):
    """Cache entries under four processes and a clean: rmtree found a name gone that it had listed."""

    def prune_at_once(folder: Path) -> None:
        while folder.exists():
            for path, _, _ in os.walk(folder, topdown=False):
                with suppress(OSError):
                    Path(path).rmdir()

    with ThreadPoolExecutor(2) as pool:
        for number in range(40):
            tree = tmp_path / str(number)
            for name in range(30):
                (tree / str(name) / "in").mkdir(parents=True)
                (tree / str(name) / "in" / "f").touch()
            other = pool.submit(prune_at_once, tree)
            files.remove(tree)
            other.result()
            assert not tree.exists()
