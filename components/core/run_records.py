"""Read what the attempts of a run recorded (``attempts.py``), for the ledger and the command.

An artifact's URI names the run's folder: ``<run>/<task>/<random>/<name>`` on KFP 2.17 and in a local run's
folder. What a task took from KFP's cache was made by an earlier run, found by the URIs of the inputs.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from deepcuts.components.core import carry, node, records
from deepcuts.components.core.attempts import (
    INPUTS,
    NODE,
    OUTAGE_SECONDS,
    RECEIPT,
    TERMINAL,
    Alive,
    Begun,
    Terminal,
    split_uri,
)
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.receipts import Receipt
from deepcuts.components.core.store import Store, open_store

NO_POOLS: Mapping[str, NodePool] = MappingProxyType({})
BY_LABELS = "labels of its node"
"""Fact ``pool_by`` of a receipt; without it, the pool is the one the pod was sent to."""
REUSED = "attempts-reused"
"""Folder with receipts of a task that the local runner took from its cache."""
CHAIN = "chain"
"""Step name in the receipt of a process that runs several steps, for its own overhead."""
START = "_start"
"""Ends the ledger's name for the process that runs a chain."""
INTERRUPTED = "DEEPCUTS_INTERRUPTED"
"""Environment variable for a ledger that is written after the user has stopped the run."""
LOST = "infrastructure"
"""End reason of an attempt without a receipt: its pod or process was taken away."""


class TaskFolder(NamedTuple):
    """A task's folder."""

    root: str
    """URI of the store."""
    run: str
    """Key of the run's folder; empty if the store is that folder."""
    task: str

    @property
    def prefix(self) -> str:
        return f"{self.run}/{self.task}/" if self.run else f"{self.task}/"


class Records(NamedTuple):
    """Receipts and artifacts of a run."""

    receipts: dict[str, list[Receipt]]
    """By task (or by step, if a task has several), in order of start: every attempt, including lost ones."""
    reused: frozenset[str]
    """Keys of ``receipts`` that an earlier run paid for."""
    artifacts: dict[str, str]
    """URI by ``TASK/NAME``."""


def place(uri: str) -> TaskFolder:
    """Return the folder of the task that made the artifact ``uri``.

    Raises:
        ValueError: ``uri`` is not an artifact of a run.
    """
    root, folders = split_uri(uri)
    if len(folders) < 3:
        raise ValueError(f"{uri!r} is not an artifact of a run: give <run>/<task>/<folder>/<name>")
    return TaskFolder(root, "/".join(folders[:-3]), folders[-3])


def read(uri: str, pools: Mapping[str, NodePool] = NO_POOLS) -> Records:
    """Return the records of the run to which ``uri``, an artifact of the calling task, belongs.

    The calling task is left out, as it has not ended. A receipt's pool is the one of ``pools`` that matches
    its node's labels if they are known, else the pool the pod was sent to.

    Raises:
        ValueError: ``uri`` is not an artifact of a run.
        StoreError: the store is unreachable.
    """
    own = place(uri)
    store = open_store(own.root)
    start = f"{own.run}/" if own.run else ""
    keys = store.list(start)
    tasks = sorted({key.removeprefix(start).split("/")[0] for key in keys})
    receipts: dict[str, list[Receipt]] = {}
    reused: dict[str, list[Receipt]] = {}
    artifacts: dict[str, str] = {}
    inputs: list[str] = []
    for task in tasks:
        mine = [key for key in keys if key.startswith(f"{start}{task}/")]
        artifacts |= _outputs(store, own._replace(task=task), mine)
        inputs += _inputs(store, mine)
        if task != own.task:
            cached = [key for key in mine if f"/{REUSED}/" in f"/{key}"]
            reused |= attempts(store, task, cached, pools)
            receipts |= attempts(store, task, [key for key in mine if key not in cached], pools)
    reused |= _earlier(own, inputs, receipts.keys(), artifacts, pools)
    reused = {row: group for row, group in reused.items() if row not in receipts}
    all_receipts = sorted((receipts | reused).items(), key=lambda item: item[1][0].started_at)
    return Records(dict(all_receipts), frozenset(reused), artifacts)


def bring(records: Records, named: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Copy the artifacts named ``TASK/OUTPUT`` in ``named`` to ``folder``; skip those that were never made.

    Raises:
        StoreError: the store is unreachable.
    """
    for name, source in named.items():
        if uri := records.artifacts.get(source.as_posix()):
            carry.get(uri, folder / name)
    return {name: folder / name for name in named}


def attempts(
    store: Store, task: str, keys: list[str], pools: Mapping[str, NodePool] = NO_POOLS
) -> dict[str, list[Receipt]]:
    """Return the receipts of ``task``'s attempts under ``keys`` by ledger row, including lost attempts."""
    found: dict[str, list[Receipt]] = {}
    spent: dict[str, float] = {}
    closed = set()
    keys = [key for key in keys if "/attempts-" in f"/{key}"]
    starts = {key.rpartition("/")[2]: key for key in keys if "/begun/" in key}
    nodes: dict[str, dict[str, str]] = {}
    for attempt, key in starts.items() if pools else ():
        nodes[attempt] = records.read(store, key, Begun, "delete it, and its attempt is not counted").node
    for key in [key for key in keys if "/labels/" in key]:
        fix = "delete it, and its attempt is billed on the pool it was sent to"
        nodes[key.rpartition("/")[2]] = records.read(store, key, dict[str, str], fix)
    for key in keys:
        *_, kind, attempt, name = key.split("/")
        if kind == "receipts":
            receipt = records.read(store, key, Receipt, "delete it, and its attempt counts as lost")
            receipt = _where(receipt, nodes.get(attempt, {}), pools)
            found.setdefault(row(_of_node(task, key), name, receipt.step), []).append(receipt)
            spent[attempt] = spent.get(attempt, 0.0) + receipt.wall_seconds
            closed |= {attempt} if name == RECEIPT else set()
    for key in keys:
        *above, kind, attempt = key.split("/")
        if kind == "begun" and attempt not in closed:
            begun = records.read(store, key, Begun, "delete it, and its attempt is not counted")
            sign = "/".join([*above, "alive", attempt])
            fix = "delete it, and its attempt counts no seconds"
            seconds = records.read(store, sign, Alive, fix).seconds if sign in keys else 0.0
            lost = _lost(begun, round(max(0.0, seconds - spent.get(attempt, 0.0)), 3))
            lost = _where(lost, begun.node, pools)
            found.setdefault(row(_of_node(task, key), RECEIPT), []).append(lost)
    return {name: sorted(group, key=lambda receipt: receipt.attempt) for name, group in found.items()}


def _of_node(task: str, key: str) -> str:
    """Return the task's name, with the number of the node if it runs on several and ``key`` is of one."""
    found = re.search(rf"/attempts-[0-9a-f]+({NODE}[0-9]+)/", f"/{key}")
    return f"{task}{found[1]}" if found else task


def _where(receipt: Receipt, labels: Mapping[str, str], pools: Mapping[str, NodePool]) -> Receipt:
    """Return the receipt with the pool that matches its node's ``labels``, recorded as a fact."""
    if not (labels and pools):
        return receipt
    found = node.pool(labels, receipt.pool, pools)
    return msgspec.structs.replace(receipt, pool=found, facts=receipt.facts | {"pool_by": BY_LABELS})


def terminal(store: Store, keys: Iterable[str]) -> Terminal | None:
    """Return a task's final end among ``keys``, if any."""
    for key in keys:
        if key.endswith(f"/{TERMINAL}"):
            return records.read(store, key, Terminal, "delete it")
    return None


def row(task: str, name: str, step: str = "") -> str:
    """Return the ledger's name for a task, one of its steps, or the process that runs its steps."""
    own = task.replace("-", "_")
    if name != RECEIPT:
        return name
    return f"{own}{START}" if step == CHAIN else own


def _outputs(store: Store, task: TaskFolder, keys: Iterable[str]) -> dict[str, str]:
    """Return the URIs of the task's outputs by ``TASK/NAME``; after retries, the last folder counts."""
    made = {}
    for key in sorted(keys):
        folder, _, rest = key.removeprefix(task.prefix).partition("/")
        if rest and not folder.startswith("attempts-"):
            name = rest.split("/")[0]
            made[f"{task.task}/{name}"] = store.uri(f"{task.prefix}{folder}/{name}")
    return made


def _inputs(store: Store, keys: Iterable[str]) -> list[str]:
    """Return the URIs of the input artifacts of the attempts under ``keys``."""
    found = [key for key in keys if key.endswith(f"/{INPUTS}")]
    fix = "delete it, and what its task took from a cache is not listed"
    given = [records.read(store, key, dict[str, list[str]], fix) for key in found]
    return [uri for inputs in given for uris in inputs.values() for uri in uris]


def _earlier(
    own: TaskFolder,
    uris: list[str],
    here: Iterable[str],
    artifacts: dict[str, str],
    pools: Mapping[str, NodePool],
) -> dict[str, list[Receipt]]:
    """Return the receipts of earlier runs' tasks that made ``uris``, and of everything those depend on.

    Adds their artifacts to ``artifacts``. A task that also ran in this run counts only in this run.
    """
    found: dict[str, list[Receipt]] = {}
    known, pending = set(here), list(uris)
    seen = set()
    while pending:
        uri = pending.pop()
        root, folders = split_uri(uri)
        if len(folders) < 3:
            continue  # an imported artifact
        task = place(uri)
        artifacts.setdefault(f"{task.task}/{folders[-1]}", uri)
        if task.run == own.run or task in seen:
            continue
        seen.add(task)
        store = open_store(root, OUTAGE_SECONDS)
        keys = store.list(task.prefix)
        pending += _inputs(store, keys)
        for name, made in _outputs(store, task, keys).items():
            artifacts.setdefault(name, made)
        made_by = attempts(store, task.task, keys, pools)
        found |= {name: group for name, group in made_by.items() if name not in known}
    return found


def _lost(begun: Begun, seconds: float) -> Receipt:
    return Receipt(
        step=begun.step,
        pool=begun.pool,
        attempt=begun.number,
        started_at=begun.started_at,
        wall_seconds=seconds,
        cpu_seconds=0.0,
        device_seconds=0.0,
        peak_resident_bytes=0,
        peak_device_bytes=0,
        tokens=0,
        end_reason=LOST,
        facts={"killed": True},
        message="its pod or process was taken away; seconds as of its last sign of life",
    )
