"""The lease: one writer of a training, and who may take over when."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import msgspec
import pytest

from deepcuts.components.core import cli
from deepcuts.components.core.errors import DataError, exit_code
from deepcuts.components.core.store import FileStore
from deepcuts.components.finetune.budget import BudgetClock
from deepcuts.components.finetune.step import finetune
from deepcuts.components.training import lease as leases
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.lease import Held, Holder, Lease, held, release_run
from deepcuts.components.training.run_messages import RunMessages
from tests.conftest import ROOT
from tests.training import tiny
from tests.training.test_checkpoints import Training


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(leases, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.1)


@pytest.fixture
def store(tmp_path):
    return FileStore(tmp_path / "store")


def put(store, number: int = 1, **changed: object) -> Holder:
    """A lease that a process of another machine holds."""
    holder = Holder("far", "elsewhere", 7, 0.0, "token", **changed)
    store.put_bytes(f"trainings/run/lease/{number:08d}", msgspec.json.encode(holder))
    return holder


def numbers(store) -> list[int]:
    return [int(key.rsplit("/", 1)[1]) for key in store.list("trainings/run/lease/")]


def test_a_second_writer_is_refused_with_the_holder_named_and_exit_code_4(store):
    with held(store, "run"), pytest.raises(Held) as refused, held(store, "run"):
        pass
    assert f"process {os.getpid()} on {socket.gethostname()}" in str(refused.value)
    assert exit_code(refused.value) == 4


def test_a_released_lease_is_taken_at_once_and_only_one_key_stays(store):
    for _ in range(3):
        with held(store, "run"):
            pass
    assert numbers(store) == [3]


def test_another_training_is_not_held(store):
    with held(store, "run"), held(store, "walk"):
        assert numbers(store) == [1]


def test_a_silent_lease_of_another_machine_is_taken_over_after_the_limit(store):
    put(store)
    began = time.monotonic()
    (lease := Lease(store, "run")).acquire(stale_seconds=0.3)
    assert 0.3 <= lease.waited_seconds < 5
    assert time.monotonic() - began >= 0.3 and numbers(store) == [2]


def test_a_lease_of_a_run_that_has_ended_is_taken_at_once_and_no_other_is_touched(store):
    """What killed pods of a run hold is released by who saw the run end."""
    put(store, run="minio://b/p/ended")
    lives = Holder("far", "elsewhere", 7, 0.0, "token", run="minio://b/p/lives")
    store.put_bytes("trainings/walk/lease/00000001", msgspec.json.encode(lives))
    store.put_bytes("trainings/walk/checkpoints/1/manifest.json", b"{}")
    assert leases.release_run(store, "minio://b/p/ended") == ["run"]
    (lease := Lease(store, "run")).acquire(stale_seconds=60)
    assert lease.waited_seconds < 5
    other = msgspec.json.decode(store.get_bytes("trainings/walk/lease/00000001"), type=Holder)
    assert not other.released


def test_a_lease_of_another_machine_that_beats_is_refused_before_the_limit(store):
    put(store)
    beating = threading.Timer(0.1, put, [store], {"beat": 1})
    beating.start()
    with pytest.raises(Held, match="process 7 on far"):
        Lease(store, "run").acquire(stale_seconds=20)
    beating.join()
    assert numbers(store) == [1]


def test_a_lease_that_is_released_while_one_waits_is_taken(store):
    put(store)
    ending = threading.Timer(0.1, put, [store], {"beat": 1, "released": True})
    ending.start()
    began = time.monotonic()
    Lease(store, "run").acquire(stale_seconds=20)
    ending.join()
    assert time.monotonic() - began < 10 and numbers(store) == [2]


def test_a_killed_holder_of_this_machine_is_taken_over_at_once(store, tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from deepcuts.components.core.store import FileStore\n"
        "from deepcuts.components.training.lease import Lease\n"
        "Lease(FileStore(Path(sys.argv[1])), 'run').acquire();"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "store"], cwd=ROOT)
    assert ended.returncode == -signal.SIGKILL and numbers(store) == [1]
    began = time.monotonic()
    Lease(store, "run").acquire()
    assert time.monotonic() - began < 5 and numbers(store) == [2]


def test_a_process_id_that_came_again_is_not_the_holder(store):
    Lease(store, "run").acquire()
    data = store.get_bytes("trainings/run/lease/00000001")
    earlier = msgspec.structs.replace(msgspec.json.decode(data, type=Holder), started=1.0)
    store.put_bytes("trainings/run/lease/00000001", msgspec.json.encode(earlier))
    Lease(store, "run").acquire()
    assert numbers(store) == [2]


def test_of_many_waiters_one_takes_a_stale_lease_over(store):
    put(store)
    won, refused, ended = [], [], threading.Event()

    def wait() -> None:
        lease = Lease(store, "run")
        try:
            lease.acquire(stale_seconds=0.3)
        except Held:
            refused.append(lease)
            return
        won.append(lease)
        while not ended.wait(0.05):
            lease.renew()

    waiters = [threading.Thread(target=wait) for _ in range(6)]
    for waiter in waiters:
        waiter.start()
    while len(refused) < 5 and any(waiter.is_alive() for waiter in waiters) and len(won) < 2:
        time.sleep(0.05)
    ended.set()
    for waiter in waiters:
        waiter.join()
    assert (len(won), len(refused)) == (1, 5)


def test_who_lost_the_lease_commits_no_checkpoint(store):
    lease = Lease(store, "run")
    lease.acquire()
    put(store, number=2)
    checkpoints = Checkpoints(store, "run", 2, lease)
    with pytest.raises(Held, match="written by process 7 on far"):
        Training("lora").save(checkpoints)
    assert checkpoints.steps() == store.list("trainings/run/step-") == []


def test_who_loses_the_lease_during_an_upload_commits_no_checkpoint(store):
    class Taken(type(store)):
        """A store in which another process takes over during an upload."""

        def put(self, key, path):
            put(store, number=2)
            super().put(key, path)

    lease = Lease(store, "run")
    lease.acquire()
    checkpoints = Checkpoints(Taken(store._root), "run", 2, lease)
    with pytest.raises(Held, match="written by process 7 on far"):
        Training("lora").save(checkpoints)
    assert checkpoints.steps() == []


def test_who_lost_the_lease_leaves_no_signal(store):
    """``failed`` of the one that was replaced once sent its successor's watcher away."""
    messages = RunMessages(store, "run", 100)
    with held(store, "run") as lease, pytest.raises(ArithmeticError), messages.failures(lease):
        put(store, 2)  # it slept, and another took over
        for write in (messages.start, lambda: messages.saved(7), lambda: messages.finish(7, 100)):
            with pytest.raises(Held):
                write()
        raise ArithmeticError("whatever it fails of afterwards")
    assert not store.exists("trainings/run/failed") and messages.heartbeat() is messages.done() is None
    with (
        held(store, "other") as lease,
        pytest.raises(ArithmeticError),
        RunMessages(store, "other", 100).failures(lease),
    ):
        raise ArithmeticError("while it holds the lease")
    assert b"ArithmeticError" in store.get_bytes("trainings/other/failed")


@pytest.mark.parametrize("pid", [10**12, 0, -1])
def test_process_of_a_lease_that_no_machine_has_is_damage(store, pid):
    """``os.kill`` once ended in an OverflowError, a bug of ours; 0 and -1 are every process."""
    mine = Lease(store, "run")._me
    store.put_bytes(
        "trainings/run/lease/00000001", msgspec.json.encode(msgspec.structs.replace(mine, pid=pid))
    )
    with pytest.raises(DataError, match="lease/00000001 is damaged"):
        Lease(store, "run").acquire(stale_seconds=0.0)


DEEP = b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"host": 7}', b"null", DEEP], ids=range(6))
@pytest.mark.parametrize("name", ["lease/00000001", "heartbeat", "done", "stop", "failed", "seconds"])
def test_damaged_object_is_named_with_its_uri(store, name, content):
    key = f"trainings/run/{name}"
    store.put_bytes(key, content)
    messages = RunMessages(store, "run", 100)
    reads = {
        "lease/00000001": Lease(store, "run").acquire,
        "seconds": lambda: BudgetClock(store, "run", 0.0),
    } | {name: getattr(messages, name) for name in ("heartbeat", "done", "stop", "failed")}
    with pytest.raises(DataError) as damaged:
        reads[name]()
    assert store.uri(key) in str(damaged.value) and exit_code(damaged.value) == 3


@pytest.mark.parametrize("name", ["notes.txt", "7", "000000007", "99999999", "٠٠٠٠٠٠٠٧"])
def test_stranger_among_the_leases_is_named(store, name):
    store.put_bytes(f"trainings/run/lease/{name}", b"")
    with pytest.raises(DataError, match="is not a lease: delete it"):
        Lease(store, "run").acquire()


def test_seconds_below_zero_give_no_larger_budget(store):
    store.put_bytes("trainings/run/seconds", b"-1000000")
    with pytest.raises(DataError, match="trainings/run/seconds is damaged"):
        BudgetClock(store, "run", 60.0)


def test_damaged_lease_of_another_training_keeps_no_run_from_releasing_its_own(store):
    store.put_bytes("trainings/a/lease/00000001", b"{")
    store.put_bytes("trainings/z/lease/notes.txt", b"")
    mine = msgspec.structs.replace(Lease(store, "run")._me, run="r1")
    store.put_bytes("trainings/run/lease/00000001", msgspec.json.encode(mine))
    assert release_run(store, "r1") == ["run"]


def test_the_heartbeat_goes_on_through_a_long_step(store):
    with held(store, "run"):
        beats = set()
        for _ in range(40):
            time.sleep(0.02)
            beats.add(store.get_bytes("trainings/run/lease/00000001"))
    assert len(beats) > 2


def test_a_refused_finetune_leaves_the_other_one_its_messages(tmp_path, capsys):
    tiny.base(tmp_path / "base")
    tiny.write_sums(tmp_path / "train.jsonl", 60)
    (tmp_path / "valid.jsonl").write_text("")
    flags = {
        "base": tmp_path / "base",
        "train": tmp_path / "train.jsonl",
        "valid": tmp_path / "valid.jsonl",
        "model": tmp_path / "model",
        "curve": tmp_path / "curve.jsonl",
        "store": (tmp_path / "store").as_uri(),
        "recipe": json.dumps(tiny.RECIPE),
    }
    assert cli.run(finetune, tiny.argv(flags)) == 0
    store = FileStore(tmp_path / "store")
    (run,) = {key.split("/")[1] for key in store.list("trainings/")}
    before = [key for key in store.list("trainings/") if "/lease/" not in key]
    with held(store, run):
        assert cli.run(finetune, tiny.argv(flags)) == 4
    assert "is being written by process" in capsys.readouterr().err
    assert [key for key in store.list("trainings/") if "/lease/" not in key] == before
