"""Outputs that are whole or absent, and names made of content."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deepcuts.components.core.errors import DataError

NAME_BYTES = 200
STAGING = ".staging-"
"""How the names of unfinished outputs begin."""


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a place next to ``path`` to write to; it becomes ``path`` only if the body succeeds.

    A killed step leaves at most a ``.staging-…`` name behind, never a half-written output.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = staging_place(path)
    try:
        yield staging
        sync(staging)
        if path.is_dir() or staging.is_dir():
            remove(path)  # os.replace puts a folder neither over a file nor over a folder that is not empty
        os.replace(staging, path)
        sync_folder(path.parent)
    finally:
        remove(staging)


def staging_place(path: Path) -> Path:
    """Return an unused name next to ``path``; random, because every container's process has the same id, 1.

    A long name is cut: most file systems take 255 bytes.
    """
    name = os.fsdecode(os.fsencode(path.name)[:NAME_BYTES])
    return path.parent / f"{STAGING}{name}-{secrets.token_hex(4)}"


def sync(path: Path) -> None:
    """Flush to disk (fsync) a file, or every file and folder under a folder."""
    for name in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if name.is_dir():
            sync_folder(name)
        else:
            with name.open("rb") as file:
                os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush to disk (fsync) a folder itself, so that a rename in it survives a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file or folder if it is there, also while another process deletes it."""
    while path.is_dir() and not path.is_symlink():
        with suppress(FileNotFoundError):  # the other was faster with one of its names
            shutil.rmtree(path)
    path.unlink(missing_ok=True)


def digest(path: Path) -> str:
    """Hash (SHA-256, hex) a file, or a folder's sorted (name, SHA-256) pairs; its own name never counts."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist: check the path, or run the step that makes it")
    total = hashlib.sha256()
    for name in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(f"{name_in(path, name)}\0{digest(name)}\n".encode())
    return total.hexdigest()


def name_in(folder: Path, path: Path) -> str:
    """Return the posix name of a file below a folder, as digests and manifests have it.

    Raises:
        DataError: it is not UTF-8, which no object store takes.
    """
    name = path.relative_to(folder).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{folder}: the file name {name!r} is not UTF-8: rename it") from error
    return name


def size_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files under a folder."""
    return (
        path.stat().st_size
        if path.is_file()
        else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    )
