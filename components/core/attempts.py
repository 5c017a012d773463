"""Attempts of one task: their number, heartbeats, receipts and final ends, kept under the run.

KFP 2.17 reports every failure as exit code 1, uploads nothing from a failed step, and may retry a lost or
failed task at every level of the DAG. So each attempt records what it did for ``run_records.py``, and a step
that cannot succeed (configuration, data, gate) leaves ``terminal.json``: the next attempt exits at once with
the same code, and a client can show the message.

Layout, below ``<run>/<task>/attempts-<identity>/``::

    begun/<id>              Begun: an attempt started
    alive/<id>              Alive: its seconds so far, every 10 s
    receipts/<id>/<name>    its Receipt; one per step if the task has several
    inputs.json             URIs of its input artifacts, by input name
    labels/<id>             labels of its node, where the pod may not read them itself
    left/<name>             outputs of a failed attempt, which KFP does not upload
    terminal.json           Terminal: a final end

A task over several nodes has a folder like this for each, ``attempts-<identity>-node-<number>/``.
"""

import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from deepcuts.components.core.bounds import NonNegative
from deepcuts.components.core.errors import DataError, GateRefused, StoreError
from deepcuts.components.core.executor_input import path_of
from deepcuts.components.core.node import labels
from deepcuts.components.core.receipts import END_REASONS, Receipt
from deepcuts.components.core.strict import MALFORMED

if TYPE_CHECKING:
    from deepcuts.components.core.store import Store

TERMINAL = "terminal.json"
INPUTS = "inputs.json"
RECEIPT = "receipt"
"""Name of the receipt of a task with a single step."""
FINAL: dict[int, type[Exception]] = {2: ValueError, 3: DataError, 5: GateRefused}
"""Error a later attempt raises, by exit code of the attempt that ended for good."""
OUTAGE_SECONDS = 5.0
"""Longest wait for the store in bookkeeping; code that needs the store has its own, longer one."""
ALIVE_SECONDS = 10.0
"""Time between heartbeats: the precision to which a killed attempt's seconds are known."""
MAX_LOST = 20
"""Lost attempts after which a task gives up. A task's own retry limit is no bound: KFP 2.17 also retries lost
pods at every level of the DAG, and 11 pods used up one of two retries."""
UNREACHABLE = (StoreError, ValueError, OSError)
"""Store errors to ignore here; a step that needs the store reports them itself."""
OBJECT_STORES = ("minio", "s3")
NODE = "-node-"
"""Before the number of a node in the name of its folder."""
POD_RECEIPTS = "DEEPCUTS_POD_RECEIPTS"
"""Environment variable with the URI under which a step leaves receipts of other pods that it started."""
RUN = "DEEPCUTS_RUN"
"""Environment variable with the run's name for ``training/lease.py``; in a Job it is the Job's uid."""


class Begun(msgspec.Struct, frozen=True):
    """The start of an attempt."""

    step: str
    pool: str
    number: int
    started_at: str
    """UTC, ISO 8601."""
    node: dict[str, str] = {}
    """Labels of the node; empty if they may not be read."""


class Alive(msgspec.Struct, frozen=True):
    """A heartbeat."""

    seconds: NonNegative
    """Wall seconds of the attempt so far."""


class Terminal(msgspec.Struct, frozen=True):
    """A final end: the same inputs would end the same way."""

    step: str
    code: int
    end_reason: str
    message: str
    """One problem a line, each with its fix."""


class Attempts:
    """The attempts of one task of a run, or one step of a Job, as recorded under ``prefix``.

    The prefix belongs to the run, so a new run starts afresh.
    """

    def __init__(self, store: "Store", prefix: str, own_id: str = "") -> None:
        self._store, self._prefix = store, prefix
        self._id = own_id or uuid.uuid4().hex

    def begin(self, step: str, pool: str, started_at: str) -> int:
        """Return the number of this attempt, counted from 1; 1 if the store does not answer.

        Raises:
            ValueError, DataError, GateRefused: an earlier attempt ended for good with this error.
            StoreError: MAX_LOST attempts have begun and none is known to have ended.
        """
        try:
            before = self._terminal()
            number = len(self._store.list(f"{self._prefix}/begun/")) + 1
            self._put(f"begun/{self._id}", Begun(step, pool, number, started_at, labels()))
        except UNREACHABLE:
            return 1
        if before:
            raise FINAL[before.code](before.message)
        if number > MAX_LOST:
            raise StoreError(f"{MAX_LOST} attempts were lost: look at the pool's nodes, then run again")
        return number

    @contextmanager
    def alive(self, seconds: Callable[[], float]) -> Iterator[None]:
        """Write a heartbeat now and every ALIVE_SECONDS, from a thread, while the body runs."""
        ended = threading.Event()

        def beat() -> None:
            while True:
                with suppress(*UNREACHABLE):
                    self._put(f"alive/{self._id}", Alive(round(seconds(), 3)))
                if ended.wait(ALIVE_SECONDS):
                    return

        heart = threading.Thread(target=beat, name="alive", daemon=True)
        heart.start()
        try:
            yield
        finally:
            ended.set()
            heart.join()

    def given(self, executor: Mapping[str, Any]) -> None:
        """Record the URIs of the input artifacts, by which the ledger finds what came from KFP's cache."""
        artifacts = executor.get("inputs", {}).get("artifacts", {})
        uris = {name: [item["uri"] for item in value["artifacts"]] for name, value in artifacts.items()}
        with suppress(*UNREACHABLE):
            self._put(INPUTS, uris)

    def leave(self, receipt: Receipt, name: str = RECEIPT) -> None:
        """Record the receipt of the task, or of its step ``name``."""
        with suppress(*UNREACHABLE):
            self._put(f"receipts/{self._id}/{name}", receipt)

    def receipts_uri(self) -> str:
        """Return the URI of the folder in which ``leave`` puts receipts."""
        return self._store.uri(f"{self._prefix}/receipts/{self._id}")

    def end(self, step: str, code: int, message: str) -> None:
        """Record a final end for later attempts; any other end is not recorded."""
        if code in FINAL:
            with suppress(*UNREACHABLE):
                self._put(TERMINAL, Terminal(step, code, END_REASONS[code], message))

    def keep_outputs(self, executor: Mapping[str, Any], message: str) -> str:
        """Store the outputs of a failed attempt; return ``message`` with their URIs in place of paths."""
        for name, value in executor["outputs"].get("artifacts", {}).items():
            for artifact in value["artifacts"]:
                path = Path(path_of(artifact) or "/nowhere")
                key = f"{self._prefix}/left/{name}"
                if name != RECEIPT and path.is_file() and str(path) in message:
                    with suppress(*UNREACHABLE):
                        self._store.put(key, path)
                        message = message.replace(str(path), self._store.uri(key))
        return message

    def _put(self, name: str, value: object) -> None:
        self._store.put_bytes(f"{self._prefix}/{name}", msgspec.json.encode(value))

    def _terminal(self) -> Terminal | None:
        """Return the final end of an earlier attempt; a damaged record counts as none."""
        try:
            end = msgspec.json.decode(self._store.get_bytes(f"{self._prefix}/{TERMINAL}"), type=Terminal)
        except (FileNotFoundError, *MALFORMED):
            return None
        return end if end.code in FINAL else None


def attempts(executor: Mapping[str, Any] | None, step: str) -> Attempts | None:
    """Return the attempts of the task in ``executor``, or of ``step`` in a Kubernetes Job; None if unknown.

    A Job's manifest sets ``DEEPCUTS_ATTEMPTS``, a URI that belongs to the Job.
    """
    uri, prefix = of_task(executor) if executor else (os.environ.get("DEEPCUTS_ATTEMPTS", ""), step)
    if not uri:
        return None
    # imported here: the S3 client takes 0.2 s, and few runs outside KFP need it
    from deepcuts.components.core.store import open_store

    try:
        store = open_store(uri, OUTAGE_SECONDS)
    except ValueError:  # no settings: the step reports that if it needs the store
        return None
    return Attempts(store, prefix)


@contextmanager
def named_run(executor: Mapping[str, Any] | None) -> Iterator[None]:
    """Name the run to leases taken in the body, so that they can take over one left by an earlier pod of it.

    The variable is restored afterwards. A task whose outputs are not in an object store has no earlier pods.
    """
    root, prefix = of_task(executor) if executor else ("", "")
    if not root or RUN in os.environ:
        yield
        return
    os.environ[RUN] = run_of(root, prefix)
    try:
        yield
    finally:
        del os.environ[RUN]


def run_of(root: str, prefix: str) -> str:
    """Return the run's name from what ``of_task`` returns."""
    return f"{root}/{prefix.rsplit('/', 2)[0]}"


@contextmanager
def pods_charged(attempts: Attempts | None) -> Iterator[None]:
    """Tell the body, and processes that it starts, where receipts of pods that it starts go."""
    if not attempts:
        yield
        return
    before = os.environ.get(POD_RECEIPTS)
    os.environ[POD_RECEIPTS] = before or attempts.receipts_uri()
    try:
        yield
    finally:
        if before is None:
            del os.environ[POD_RECEIPTS]


def of_task(executor: Mapping[str, Any]) -> tuple[str, str]:
    """Return (URI of the bucket, prefix in it); both empty if outputs are not in an object store.

    The local runner records its attempts itself. An output's URI is ``<pipeline
    root>/<run>/<task>/<random>/<name>`` (kfp 2.17). Iterations of a loop share the first three parts, so the
    prefix also has a hash of the inputs, without the ids that change when a whole DAG is retried.
    """
    made = executor["outputs"].get("artifacts", {})
    uri = next((artifact["uri"] for value in made.values() for artifact in value["artifacts"]), "")
    given = executor.get("inputs", {})
    artifacts = {n: [a["uri"] for a in v["artifacts"]] for n, v in given.get("artifacts", {}).items()}
    inputs = [given.get("parameterValues", {}), artifacts, sorted(made)]
    root, folders = split_uri(uri)
    if not root or root.startswith("file://"):
        return "", ""
    identity = hashlib.sha256(msgspec.json.encode(inputs, order="deterministic")).hexdigest()[:16]
    return root, "/".join([*folders[:-2], f"attempts-{identity}"])


def split_uri(uri: str) -> tuple[str, list[str]]:
    """Split an artifact's URI into (URI of the store, path in it); ("", []) if it is in no store.

    For ``file://`` the store is the run's folder, so keys are ``<task>/<folder>/<name>``.
    """
    scheme, _, rest = uri.partition("://")
    if scheme in OBJECT_STORES:
        bucket, *folders = rest.split("/")
        return f"{scheme}://{bucket}", folders
    if scheme == "file":
        path = Path(unquote(rest) if not Path(rest).exists() and Path(unquote(rest)).exists() else rest)
        return path.parents[2].as_uri(), list(path.parts[-3:])
    return "", []
