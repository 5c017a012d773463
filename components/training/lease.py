"""Lease: allow one writer of a training at a time (docs/DESIGN.md, Identity).

Layout: ``trainings/<training_id>/lease/<8 digits>``; the highest number is valid. A process takes over by
writing the next number, for which ``put_if_absent`` allows exactly one winner; with a single key that is
deleted and rewritten, a slow waiter could delete the winner's. The highest is never deleted, so no number is
used twice.
"""

import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from deepcuts.components.core import node, records
from deepcuts.components.core.attempts import RUN
from deepcuts.components.core.errors import DataError, StoreError
from deepcuts.components.core.receipts import process_start
from deepcuts.components.core.store import Store

RENEW_SECONDS = 15.0
"""Time between heartbeats, and so until a second run knows that the first one is alive."""
STALE_SECONDS = 120.0
"""Time without a heartbeat after which the holder counts as dead. A store outage is waited out for 60 s."""
DELETE = "delete it if no process is writing this training"
"""What to do with an unreadable lease."""
NUMBER = re.compile(r"(?!9{8})[0-9]{8}")
WATCH_SECONDS = 1.0
SAME_START_SECONDS = 5.0
"""Tolerance of a process's start time between two readings (the clock may be adjusted)."""


class Held(StoreError):
    """Another process is writing the same training."""


class Holder(msgspec.Struct, frozen=True):
    host: str
    place: str
    """Boot and process namespace (Linux); if equal, ``pid`` means the same process."""
    pid: Annotated[int, Meta(ge=1, lt=2**31)]
    started: float
    """Start time of the process by its own clock, as process ids are reused and every container has a 1."""
    token: str
    run: str = ""
    """Kubeflow run or Job, which starts a task's next pod only after the previous one has ended."""
    beat: int = 0
    released: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """This process's right to write a training; ``acquire``, ``renew`` at every save, ``release``."""

    def __init__(self, store: Store, training_id: str) -> None:
        self._store, self._training = store, training_id
        self._me, self._number = _this_process(), 0
        self._lock = threading.Lock()  # the heartbeat's thread and a save may renew at the same time
        self.waited_seconds = 0.0

    def acquire(self, stale_seconds: float = STALE_SECONDS) -> None:
        """Take the lease if it is free, or its holder is dead or silent for ``stale_seconds``.

        Raises:
            Held: the holder is alive.
            StoreError: the store is unreachable.
        """
        began = time.monotonic()
        while True:
            number, holder = self._newest()
            if holder and not holder.released and not _is_dead(holder, self._me):
                self._outwait(number, holder, stale_seconds)
            if not self._store.put_if_absent(self._key(number + 1), msgspec.json.encode(self._me)):
                continue  # another waiter was faster
            numbers = self._numbers()
            if numbers[-1] > number + 1:  # we slept so long that our number was deleted
                self._store.delete(self._key(number + 1))
                continue
            self._number = number + 1
            for older in numbers[:-1]:
                self._store.delete(self._key(older))
            self.waited_seconds = time.monotonic() - began
            return

    def renew(self) -> None:
        """Write a heartbeat.

        Raises:
            Held: the lease was taken over while this process slept; it may not write any more.
            StoreError: the store is unreachable.
        """
        self._write(released=False)

    def release(self) -> None:
        """Release the lease, so that the next holder need not wait; raises the errors of ``renew``."""
        self._write(released=True)

    def _write(self, released: bool) -> None:
        with self._lock:
            number, holder = self._newest()
            if number != self._number:
                raise Held(
                    f"training {self._training[:12]} is written by {holder}, as this process was silent "
                    f"for {STALE_SECONDS:.0f} s: this one ends, the other continues"
                )
            self._me = msgspec.structs.replace(self._me, beat=self._me.beat + 1, released=released)
            self._store.put_bytes(self._key(number), msgspec.json.encode(self._me))

    def _outwait(self, number: int, holder: Holder, stale_seconds: float) -> None:
        """Wait until the lease is free, or does not change for ``stale_seconds`` of our own clock.

        Raises:
            Held: it changes, so the holder is alive.
        """
        give_up = time.monotonic() + stale_seconds
        wait = f"waiting up to {stale_seconds:.0f} s for a heartbeat of {holder}"
        print(f"{wait}, which holds the lease of this training", file=sys.stderr, flush=True)
        while time.monotonic() < give_up:
            time.sleep(WATCH_SECONDS)
            now, found = self._newest()
            if found is None or found.released or _is_dead(found, self._me):
                return
            if (now, found) != (number, holder):
                raise Held(
                    f"training {self._training[:12]} is being written by {found}: wait until it ends or stop "
                    "it; then the same command resumes from its newest checkpoint"
                )

    def _newest(self) -> tuple[int, Holder | None]:
        """Return (number, holder) of the lease; (0, None) if nobody ever held it."""
        while numbers := self._numbers():
            with suppress(FileNotFoundError):  # taken over between the two calls
                return numbers[-1], records.read(self._store, self._key(numbers[-1]), Holder, DELETE)
        return 0, None

    def _numbers(self) -> list[int]:
        names = [key.rsplit("/", 1)[1] for key in self._store.list(f"{self._prefix}/")]
        # a key such as 7 would be looked up as 00000007 and never found; nobody gets to 99999999
        if strange := [name for name in names if not NUMBER.fullmatch(name)]:
            raise DataError(f"{self._store.uri(f'{self._prefix}/{strange[0]}')} is not a lease: delete it")
        return [int(name) for name in names]

    def _key(self, number: int) -> str:
        return f"{self._prefix}/{number:08d}"

    @property
    def _prefix(self) -> str:
        return f"trainings/{self._training}/lease"


@contextmanager
def held(store: Store, training_id: str) -> Iterator[Lease]:
    """Hold the lease of a training, with a heartbeat thread; raises the errors of ``acquire``."""
    lease = Lease(store, training_id)
    lease.acquire()
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(lease, ended), name="lease", daemon=True)
    heart.start()
    try:
        yield lease
    finally:
        ended.set()
        heart.join()
        with suppress(StoreError):  # then the next holder waits until it is stale
            lease.release()


def release_run(store: Store, run: str) -> list[str]:
    """Release the leases held by pods of ``run``, all of which have ended; return the trainings.

    A killed pod does not release its lease, and another run's pods would have to wait STALE_SECONDS for it.
    Unreadable leases are left alone: they may be of any training, and its own run will report them.
    """
    released, newest = [], {}
    for key in store.list("trainings/"):  # sorted, so a training's highest number comes last
        _, training, *below = key.split("/")
        if below[:1] == ["lease"]:
            newest[training] = key
    for training, key in newest.items():
        with suppress(FileNotFoundError, DataError):  # taken over between the two calls, or damaged
            holder = records.read(store, key, Holder, DELETE)
            if holder.run == run and not holder.released:
                store.put_bytes(key, msgspec.json.encode(msgspec.structs.replace(holder, released=True)))
                released.append(training)
    return released


def _beat(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        with suppress(StoreError):  # the next save reports it
            lease.renew()


def _this_process() -> Holder:
    run = os.environ.get(RUN) or os.environ.get("JOB_UID", "")
    return Holder(node.pod_name(), _place(), os.getpid(), process_start(), secrets.token_hex(8), run)


def _place() -> str:
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    return f"{boot.read_text().strip()} {namespace.readlink()}" if boot.exists() else ""


def _is_dead(holder: Holder, me: Holder) -> bool:
    """Tell whether the holder is surely gone: an earlier pod of this task, or a dead process on this host.

    An earlier pod on a lost node may still run; it finds the lease taken at its next save, and ends.
    """
    if holder.run and holder.run == me.run and holder.host != me.host:
        return True
    if (holder.host, holder.place) != (me.host, me.place):
        return False
    if holder.pid == me.pid:
        return abs(holder.started - me.started) > SAME_START_SECONDS
    try:
        os.kill(holder.pid, 0)  # signal 0 only checks
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
