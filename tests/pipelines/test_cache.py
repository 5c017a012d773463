"""The cache of the local runner under several processes, and damaged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepcuts.components.core import files
from deepcuts.pipelines.runner import cache
from deepcuts.pipelines.runner.cache import CacheEntry

RACE = """
import contextlib, random, sys
from pathlib import Path
from deepcuts.components.core import files
from deepcuts.pipelines.runner import cache
folder, me, cleans = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True"
made = {"model": folder / me / "model", "receipt": folder / me / "receipt"}
for turn in range(60):
    name = f"{random.Random(turn).randrange(3):02d}entry"
    files.remove(made["model"])
    made["model"].mkdir(parents=True)
    for number in range(5):
        (made["model"] / f"{number}.bin").write_bytes(name.encode() * 50)
    files.remove(made["receipt"])
    made["receipt"].write_text(me)
    digests = {key: files.digest(path) for key, path in made.items()}
    cache.keep(folder / "cache", name, cache.CacheEntry({}, digests), made)
    if cleans and me == "p0" and (entry := folder / "cache" / name / "entry.json").exists():
        with contextlib.suppress(FileNotFoundError):  # between the two
            cache.forget(folder / "cache", name, entry.stat().st_mtime)
    found = cache.restore(folder / "cache", name, made)
    assert found is not None or cleans, turn
    assert found is None or {key: files.digest(path) for key, path in made.items()} == found.digests, turn
"""


@pytest.mark.parametrize("cleans", [False, True], ids=["", "while one of them cleans"])
def test_processes_that_keep_and_restore_the_same_entries_get_whole_ones(tmp_path, cleans):
    """98 of 600 raised under four processes."""
    words = [[sys.executable, "-c", RACE, str(tmp_path), f"p{number}", str(cleans)] for number in range(4)]
    started = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for argv in words]
    assert [(p.communicate()[1], p.returncode) for p in started] == [("", 0)] * 4
    assert not list((tmp_path / "cache").glob(".staging-*"))


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"parameters": {}}'])
def test_damaged_entry_is_no_entry(tmp_path, content):
    (tmp_path / "out").write_text("made")
    made = {"out": tmp_path / "out"}
    cache.keep(tmp_path / "cache", "aa", CacheEntry({}, {"out": files.digest(tmp_path / "out")}), made)
    (tmp_path / "cache" / "aa" / "entry.json").write_bytes(content)
    assert cache.restore(tmp_path / "cache", "aa", {"out": Path(tmp_path / "again")}) is None


def test_entry_that_a_run_takes_meanwhile_is_not_forgotten(tmp_path):
    (tmp_path / "out").write_text("made")
    made, kept = {"out": tmp_path / "out"}, tmp_path / "cache"
    cache.keep(kept, "aa", CacheEntry({}, {"out": files.digest(tmp_path / "out")}), made)
    os.utime(kept / "aa" / "entry.json", (1, 1))
    assert cache.restore(kept, "aa", made)
    cache.forget(kept, "aa", used=1.0)
    assert cache.restore(kept, "aa", made)
    cache.forget(kept, "aa", used=(kept / "aa" / "entry.json").stat().st_mtime)
    assert cache.restore(kept, "aa", made) is None
