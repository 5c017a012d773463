"""Lease: one writer of a training at a time (docs/DESIGN.md, Identity).

Layout: ``trainings/<training_id>/lease/<8 digits>``; the highest number holds. To take over is to write the
next number, which ``put_if_absent`` gives to exactly one; were a single key deleted and written again, a slow
waiter would delete the winner's. The highest is never deleted, so no number comes twice.
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
"""Between two heartbeats: so long a second run waits until it knows that the first one lives."""
STALE_SECONDS = 120.0
"""Without a heartbeat for so long, the holder is gone. A store that is away is waited for 60 s."""
DELETE = "delete it when no process writes this training"
"""What to do with a lease that cannot be read."""
NUMBER = re.compile(r"(?!9{8})[0-9]{8}")
WATCH_SECONDS = 1.0
SAME_START_SECONDS = 5.0
"""Two readings of one process's start differ by less (the clock may be set in between)."""


class Held(StoreError):
    """Another process writes the same training."""


class Holder(msgspec.Struct, frozen=True):
    host: str
    place: str
    """Boot and process namespace (Linux): where equal, ``pid`` means the same process."""
    pid: Annotated[int, Meta(ge=1, lt=2**31)]
    started: float
    """When the process started, by its own clock: process ids come again, every container has a 1."""
    token: str
    run: str = ""
    """Run of Kubeflow's, or Job: it starts a pod of a task only when the one before has ended."""
    beat: int = 0
    released: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """This process's right to write one training; ``acquire``, ``renew`` at every save, ``release``."""

    def __init__(self, store: Store, training_id: str) -> None:
        self._store, self._training = store, training_id
        self._me, self._number = _this_process(), 0
        self._lock = threading.Lock()  # the heartbeat's thread and a save renew at once
        self.waited_seconds = 0.0

    def acquire(self, stale_seconds: float = STALE_SECONDS) -> None:
        """Take the lease when it is free, its holder is dead, or has given no sign for ``stale_seconds``.

        Raises:
            Held: the holder lives.
            StoreError: the store stays away.
        """
        began = time.monotonic()
        while True:
            number, holder = self._newest()
            if holder and not holder.released and not _is_dead(holder, self._me):
                self._outwait(number, holder, stale_seconds)
            if not self._store.put_if_absent(self._key(number + 1), msgspec.json.encode(self._me)):
                continue  # another waiter was faster
            numbers = self._numbers()
            if numbers[-1] > number + 1:  # we slept, and the number we took was deleted before
                self._store.delete(self._key(number + 1))
                continue
            self._number = number + 1
            for older in numbers[:-1]:
                self._store.delete(self._key(older))
            self.waited_seconds = time.monotonic() - began
            return

    def renew(self) -> None:
        """Give a sign of life.

        Raises:
            Held: the lease was taken over while this process slept; it may write no more.
            StoreError: the store stays away.
        """
        self._write(released=False)

    def release(self) -> None:
        """Release the lease, so that the next holder need not wait; raises as ``renew``."""
        self._write(released=True)

    def _write(self, released: bool) -> None:
        with self._lock:
            number, holder = self._newest()
            if number != self._number:
                raise Held(
                    f"training {self._training[:12]} is written by {holder}, for this process was silent "
                    f"for {STALE_SECONDS:.0f} s: this one ends, the other continues"
                )
            self._me = msgspec.structs.replace(self._me, beat=self._me.beat + 1, released=released)
            self._store.put_bytes(self._key(number), msgspec.json.encode(self._me))

    def _outwait(self, number: int, holder: Holder, stale_seconds: float) -> None:
        """Return when nothing changes for ``stale_seconds`` of our own clock, or the lease is free.

        Raises:
            Held: it changes, so the holder lives.
        """
        give_up = time.monotonic() + stale_seconds
        wait = f"waiting up to {stale_seconds:.0f} s for a sign of life of {holder}"
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
        """Return (number, holder) of the lease; (0, None) when nobody ever held it."""
        while numbers := self._numbers():
            with suppress(FileNotFoundError):  # taken over between the two calls
                return numbers[-1], records.read(self._store, self._key(numbers[-1]), Holder, DELETE)
        return 0, None

    def _numbers(self) -> list[int]:
        names = [key.rsplit("/", 1)[1] for key in self._store.list(f"{self._prefix}/")]
        # 7 is a number and no lease: its key would be looked for in vain, for ever; nobody gets to 99999999
        if strange := [name for name in names if not NUMBER.fullmatch(name)]:
            raise DataError(f"{self._store.uri(f'{self._prefix}/{strange[0]}')} is no lease: delete it")
        return [int(name) for name in names]

    def _key(self, number: int) -> str:
        return f"{self._prefix}/{number:08d}"

    @property
    def _prefix(self) -> str:
        return f"trainings/{self._training}/lease"


@contextmanager
def held(store: Store, training_id: str) -> Iterator[Lease]:
    """Hold the lease of a training, with a heartbeat from a thread of its own; raises as ``acquire``."""
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
        with suppress(StoreError):  # then the next one waits until it is stale
            lease.release()


def release_run(store: Store, run: str) -> list[str]:
    """Release what pods of ``run`` hold, all of which have ended; returns the trainings.

    A pod that was killed releases nothing, and the pods of another run would outwait it, STALE_SECONDS. What
    cannot be read is left alone: it may be any training's, and a run of that one names it.
    """
    released, newest = [], {}
    for key in store.list("trainings/"):  # sorted: the highest number of a training comes last
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
    """Return whether the holder is known to be gone: an earlier pod of this task, or a process of this place.

    An earlier pod of a node that was lost may still run: it finds the lease taken at its next save, and ends.
    """
    if holder.run and holder.run == me.run and holder.host != me.host:
        return True
    if (holder.host, holder.place) != (me.host, me.place):
        return False
    if holder.pid == me.pid:
        return abs(holder.started - me.started) > SAME_START_SECONDS
    try:
        os.kill(holder.pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
