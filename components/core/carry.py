"""Carry files between the store and this container, before and after the step of a Job (kubeflow/jobs.py).

``python -m deepcuts.components.core.carry get URI PATH URI PATH …`` runs before it, ``put …`` after it.
"""

import sys
from pathlib import Path

from deepcuts.components.core import escape, files
from deepcuts.components.core.errors import exit_code
from deepcuts.components.core.manifest import MANIFEST
from deepcuts.components.core.store import open_store, replace, retrieve, withdraw


def get(uri: str, path: Path) -> None:
    """Download an object or a folder; a folder that ``put`` made is verified.

    Raises:
        FileNotFoundError: there is nothing at ``uri``.
        Torn: a ``put`` is under way or was interrupted, or an object has changed since.
    """
    parent, _, name = uri.rstrip("/").rpartition("/")
    store = open_store(parent)
    if store.exists(name):
        store.get(name, path)
        return
    if store.exists(f"{name}/{MANIFEST}"):
        retrieve(store, name, path)
        files.remove(path / MANIFEST)  # the original folder had none, and its digest must stay the same
        return
    keys = store.list(f"{name}/")
    if not keys:
        raise FileNotFoundError(f"nothing at {uri}: check the URI")
    for key in keys:
        store.get(key, path / key.removeprefix(f"{name}/"))


def put(uri: str, path: Path) -> None:
    """Upload a file or a folder, replacing what was there before.

    If the step made no such output, nothing is uploaded and what an earlier run uploaded stays.

    Raises:
        ValueError: the folder has a file with the manifest's name, which would be overwritten.
    """
    parent, _, name = uri.rstrip("/").rpartition("/")
    store = open_store(parent)
    if not path.exists():
        return
    if not path.is_dir():
        store.put(name, path)
        if store.list(f"{name}/"):
            withdraw(store, name)
        return
    if (path / MANIFEST).exists():
        raise ValueError(f"{path} holds a {MANIFEST}, which is what a put seals a folder with: rename it")
    if store.exists(name):
        store.delete(name)  # else ``get`` would take an older file of that name
    replace(store, path, name)


def main(words: list[str]) -> int:
    """Run the command; return its exit code. Errors go to stderr."""
    way = {"get": get, "put": put}[words[0]]
    try:
        for uri, path in zip(words[1::2], words[2::2], strict=True):
            way(uri, Path(path))
    except Exception as error:
        if exit_code(error) == 1:
            raise
        print(escape.terminal(escape.redacted(f"carry: {error}")), file=sys.stderr)
        return exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
