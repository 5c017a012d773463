"""What the attempts of one task tell each other through the store: their number, and final ends.

KFP 2.17 shows every failure as exit code 1, uploads nothing of a failed step, and may start a lost or failed
task again at every level of the DAG. So a step that cannot succeed (configuration, data, gate) leaves
``terminal.json``: the next attempt ends at once with the same code, and a client can show the message.
"""

import hashlib
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from components.core.errors import DataError, GateRefused, StoreError
from components.core.receipts import END_REASONS

if TYPE_CHECKING:
    from components.core.store import Store

TERMINAL = "terminal.json"
FINAL: dict[int, type[Exception]] = {2: ValueError, 3: DataError, 5: GateRefused}
"""What a later attempt raises, by the exit code of the one that ended for good."""
OUTAGE_SECONDS = 5.0
"""Bookkeeping waits no longer for the store; what needs the store waits by itself."""
UNREACHABLE = (StoreError, ValueError, OSError)
"""Faults of the store, which the step tells itself if it needs the store."""


class Terminal(msgspec.Struct, frozen=True):
    """A final end: the same inputs would end the same way."""

    step: str
    code: int
    end_reason: str
    message: str
    """One problem a line, each with its fix."""


class Attempts:
    """The attempts of one task of one run, or of one step of one Job, by what they leave under ``prefix``.

    The place belongs to the run: a new run starts afresh, whatever has been mended meanwhile.
    """

    def __init__(self, store: "Store", prefix: str, most: int) -> None:
        self._store, self._prefix, self._most = store, prefix, most

    def begin(self) -> int:
        """The number of this attempt, from 1 on; 1 while the store does not answer.

        Raises:
            ValueError, DataError, GateRefused: as an earlier attempt that ended for good.
            StoreError: ``most`` attempts have begun, and no end of any of them is known.
        """
        try:
            before = self._terminal()
            self._store.put_bytes(f"{self._prefix}/begun/{uuid.uuid4().hex}", b"")
            number = len(self._store.list(f"{self._prefix}/begun/"))
        except UNREACHABLE:
            return 1
        if before:
            raise FINAL[before.code](before.message)
        if number > self._most:
            raise StoreError(f"{self._most} attempts were lost: look at the pool's nodes, then run again")
        return number

    def end(self, step: str, code: int, message: str) -> None:
        """Leave a final end for the attempts to come; any other end leaves nothing."""
        if code in FINAL:
            end = Terminal(step, code, END_REASONS[code], message)
            with suppress(*UNREACHABLE):
                self._store.put_bytes(f"{self._prefix}/{TERMINAL}", msgspec.json.encode(end))

    def _terminal(self) -> Terminal | None:
        try:
            return msgspec.json.decode(self._store.get_bytes(f"{self._prefix}/{TERMINAL}"), type=Terminal)
        except FileNotFoundError:
            return None


def attempts(executor: Mapping[str, Any] | None, step: str) -> Attempts | None:
    """The attempts of a task of KFP's, described by ``executor``, or of ``step`` in a Kubernetes Job.

    A Job's manifest says where they lie: ``DEEPCUTS_ATTEMPTS``, a URI that belongs to the Job. None where
    nothing is known, or where KFP's outputs are no objects.
    """
    uri, prefix = _of_task(executor) if executor else (os.environ.get("DEEPCUTS_ATTEMPTS", ""), step)
    if not uri:
        return None
    from components.core.store import open_store  # 0.2 s for the S3 client, which few runs outside KFP need

    try:
        store = open_store(uri, OUTAGE_SECONDS)
    except ValueError:  # no settings: the step says so if it needs the store
        return None
    return Attempts(store, prefix, int(os.environ.get("DEEPCUTS_MAX_ATTEMPTS", "20")))


def _of_task(executor: Mapping[str, Any]) -> tuple[str, str]:
    """(URI of the bucket, prefix in it); empty where KFP's outputs are no objects.

    An output's URI is ``<pipeline root>/<run>/<task>/<random>/<name>`` (kfp 2.17). The turns of a loop share
    the first three, so the place is also named by the inputs: those, without the ids that change when a whole
    DAG is tried again.
    """
    made = executor["outputs"].get("artifacts", {})
    uri = next((artifact["uri"] for value in made.values() for artifact in value["artifacts"]), "")
    scheme, _, rest = uri.partition("://")
    if scheme not in ("minio", "s3"):
        return "", ""
    given = executor.get("inputs", {})
    artifacts = {n: [a["uri"] for a in v["artifacts"]] for n, v in given.get("artifacts", {}).items()}
    inputs = [given.get("parameterValues", {}), artifacts, sorted(made)]
    identity = hashlib.sha256(msgspec.json.encode(inputs, order="deterministic")).hexdigest()[:16]
    bucket, *folders = rest.split("/")[:-2]
    return f"{scheme}://{bucket}", "/".join([*folders, f"attempts-{identity}"])
