"""Read models and data sets from a local folder or file, an S3 store, or the Hugging Face hub."""

import glob
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote

import httpx
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile

from deepcuts.components.core import files, store
from deepcuts.components.core.errors import DataError, StoreError
from deepcuts.components.core.keys import absent, checked
from deepcuts.components.core.long_calls import filling
from deepcuts.components.core.manifest import MANIFEST
from deepcuts.components.core.progress import ProgressLog
from deepcuts.components.core.retry import OUTAGE_SECONDS, retry
from deepcuts.components.core.store import Store

T = TypeVar("T")
HUB = re.compile(r"hf://(?P<datasets>datasets/)?(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>.*))?")
EXAMPLES, BUNDLED = Path(__file__).parents[2] / "pipelines" / "examples", ("base", "support.jsonl")
"""Examples in the data image, on which a pipeline with default arguments runs."""
COMMIT = re.compile(r"[0-9a-f]{40}")


class Source(Protocol):
    def names(self) -> list[str]:
        """List the POSIX names of the files; a single file has one."""

    def copy(self, names: list[str], target: Path) -> None:
        """Copy these files into the folder ``target``, or the single file to it."""


def locate(uri: str, kind: str) -> Source:
    """Return the source named by ``uri``; ``kind`` is ``model`` or ``dataset``.

    Raises:
        ValueError: the scheme is not supported, or the hub revision can move.
        FileNotFoundError: there is nothing at ``uri``.
        DataError: a local folder has links that lead out of it.
    """
    scheme, found, rest = uri.partition("://")
    if uri and not found:
        return _local(Path(uri))
    match scheme:
        case "file" if rest.startswith("/"):
            return _local(Path(unquote(rest)))
        case "example" if (EXAMPLES / rest).exists() and rest in BUNDLED:
            return _local(EXAMPLES / rest)
        case "s3" | "minio":
            bucket, _, key = rest.partition("/")
            if not key.strip("/"):
                raise ValueError(f"{uri!r} names a whole bucket: name the object or folder in it")
            return Stored(store.open_store(f"{scheme}://{bucket}"), key.strip("/"))
        case "hf":
            return _hub(uri, kind)
    raise ValueError(
        f"{uri!r} is not fetched: give a path, file:///path, s3://, minio://, hf://org/name@commit, "
        f"or example:// and one of {', '.join(BUNDLED)}"
    )


class Stored:
    """An object or a folder of objects in a store; a published folder is verified by its manifest."""

    def __init__(self, objects: Store, key: str) -> None:
        self._store, self._key = objects, key
        self._single = objects.exists(key)
        self._entries = {}
        if not self._single and objects.exists(f"{key}/{MANIFEST}"):
            self._entries = store.manifest_at(objects, key)["files"]

    def names(self) -> list[str]:
        if self._single:
            return [self._key.rpartition("/")[2]]
        folder = f"{self._key}/"
        names = [*self._entries] or [key.removeprefix(folder) for key in self._store.list(folder)]
        if not names:
            raise absent(self._store.uri(self._key))
        return names

    def copy(self, names: list[str], target: Path) -> None:
        arrived = ProgressLog(sum(map(self._size, names)), "bytes").add
        if self._single:
            return self._store.get(self._key, target, arrived)
        for name in names:
            key, path = f"{self._key}/{name}", target / checked(name)
            if name in self._entries:
                store.get_verified(self._store, key, self._entries[name], path, arrived)
            else:
                self._store.get(key, path, arrived)

    def _size(self, name: str) -> int:
        if name in self._entries:
            return self._entries[name]["bytes"]
        return self._store.size(self._key if self._single else f"{self._key}/{name}")


class HubRepository:
    """One commit of a repository on the Hugging Face hub; HF_TOKEN opens private ones."""

    def __init__(self, kind: str, name: str, commit: str) -> None:
        self._kind, self._name, self._commit = kind, name, commit
        self._sizes: dict[str, int] = {}

    def names(self) -> list[str]:
        list_tree = partial(HfApi().list_repo_tree, revision=self._commit, repo_type=self._kind)
        tree = self._retry(lambda: [*list_tree(self._name, recursive=True)])
        self._sizes = {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
        return [*self._sizes]

    def copy(self, names: list[str], target: Path) -> None:
        patterns = [glob.escape(name) for name in names]
        expected = sum(self._sizes.get(name, 0) for name in names)  # nothing is listed for a config alone
        with filling(target, expected, "bytes"):
            self._retry(
                lambda: snapshot_download(
                    self._name,
                    repo_type=self._kind,
                    revision=self._commit,
                    allow_patterns=patterns,
                    local_dir=target,
                )
            )
        files.remove(target / ".cache")  # the hub client's download metadata

    def _retry(self, action: Callable[[], T]) -> T:
        return retry(action, (httpx.HTTPError, LocalEntryNotFoundError), self._verdict, OUTAGE_SECONDS)

    def _verdict(self, error: Exception) -> Exception:
        where = f"{self._kind} {self._name} at {self._commit[:12]} on the hub"
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403, 404):
            return ValueError(
                f"{where}: HTTP {status}: check name and commit; private and gated ones need HF_TOKEN"
            )
        return StoreError(f"{where}: no answer ({error}): run again when the hub is back")


def _local(path: Path) -> Source:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: check the path")
    root = path.resolve()
    for link in (p for p in root.rglob("*") if p.is_symlink()):
        target = Path(os.path.realpath(link))
        if not target.is_relative_to(root) or target.is_dir():
            raise DataError(f"{link} is a link to {target}: copy the folder with its links followed (cp -rL)")
    return Stored(store.open_store(root.parent.as_uri()), root.name)


def _hub(uri: str, kind: str) -> Source:
    form = "hf://org/name@commit" if kind == "model" else "hf://datasets/org/name@commit"
    parts = HUB.fullmatch(uri)
    if not parts or (kind == "dataset") != bool(parts["datasets"]):
        raise ValueError(f"{uri!r} names no {kind} on the hub: give {form}")
    if not COMMIT.fullmatch(parts["revision"] or ""):
        raise ValueError(
            f"{uri!r}: revision {parts['revision']!r} can move or is short, so the run cannot be repeated: "
            f"give the commit's 40 hexadecimal digits, {form}"
        )
    return HubRepository(kind, parts["repo"], parts["revision"])
