"""Carry: between the store and this container, around the step of a Job (``pipelines/kubeflow/jobs.py``).

``python -m deepcuts.components.core.carry get URI PATH URI PATH …`` before it, ``put`` with the same words
after it.
"""

import sys
from pathlib import Path

from deepcuts.components.core import escape, files
from deepcuts.components.core.errors import exit_code
from deepcuts.components.core.manifest import MANIFEST
from deepcuts.components.core.store import open_store, replace, retrieve, withdraw


def get(uri: str, path: Path) -> None:
    """Bring an object, or a folder: as it was put, verified; one that no ``put`` made, object by object.

    Raises:
        FileNotFoundError: nothing is there.
        Torn: a ``put`` is under way or was cut short, or an object is not what was put.
    """
    parent, _, name = uri.rstrip("/").rpartition("/")
    store = open_store(parent)
    if store.exists(name):
        store.get(name, path)
        return
    if store.exists(f"{name}/{MANIFEST}"):
        retrieve(store, name, path)
        files.remove(path / MANIFEST)  # the folder that was put had none: its digest stays
        return
    keys = store.list(f"{name}/")
    if not keys:
        raise FileNotFoundError(f"nothing at {uri}: check the URI")
    for key in keys:
        store.get(key, path / key.removeprefix(f"{name}/"))


def put(uri: str, path: Path) -> None:
    """Take away a file or a folder, in place of whatever was put there before.

    Where the step made none, nothing is put, and what an earlier run of that name put stays.

    Raises:
        ValueError: the folder has a file of the manifest's name, which would be lost.
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
        store.delete(name)  # a file of that name would be taken for it
    replace(store, path, name)


def main(words: list[str]) -> int:
    """Exit code; what went wrong is on stderr."""
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
