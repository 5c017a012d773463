"""Carry: between the store and this container, around the step of a Job (``pipelines/kubeflow/jobs.py``).

``python -m components.core.carry get URI PATH URI PATH …`` before it, ``put`` with the same words after it.
"""

import sys
from pathlib import Path

from components.core.errors import exit_code
from components.core.store import open_store


def get(uri: str, path: Path) -> None:
    """Bring an object, or all objects below a folder.

    Raises:
        FileNotFoundError: nothing is there.
    """
    parent, _, name = uri.rstrip("/").rpartition("/")
    store = open_store(parent)
    if store.exists(name):
        store.get(name, path)
        return
    keys = store.list(f"{name}/")
    if not keys:
        raise FileNotFoundError(f"nothing at {uri}: check the URI")
    for key in keys:
        store.get(key, path / key.removeprefix(f"{name}/"))


def put(uri: str, path: Path) -> None:
    """Take away a file, or a folder's files."""
    parent, _, name = uri.rstrip("/").rpartition("/")
    store = open_store(parent)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            below = f"/{file.relative_to(path).as_posix()}" if path.is_dir() else ""
            store.put(f"{name}{below}", file)


def main(words: list[str]) -> int:
    """Exit code; what went wrong is on stderr."""
    way = {"get": get, "put": put}[words[0]]
    try:
        for uri, path in zip(words[1::2], words[2::2], strict=True):
            way(uri, Path(path))
    except Exception as error:
        if exit_code(error) == 1:
            raise
        print(f"carry: {error}", file=sys.stderr)
        return exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
