"""Write files and folders atomically, and hash them."""

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
"""Prefix of the names of unfinished outputs."""


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; it is renamed to ``path`` if the body succeeds.

    A killed step may leave a ``.staging-…`` file behind, but never a half-written output.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = staging_place(path)
    try:
        yield staging
        sync(staging)
        if path.is_dir() or staging.is_dir():
            remove(path)  # os.replace moves a folder onto neither a file nor a folder that is not empty
        os.replace(staging, path)
        sync_folder(path.parent)
    finally:
        remove(staging)


def staging_place(path: Path) -> Path:
    """Return an unused path next to ``path``; random, because the process id is 1 in every container.

    A long name is cut: most file systems allow 255 bytes.
    """
    name = os.fsdecode(os.fsencode(path.name)[:NAME_BYTES])
    return path.parent / f"{STAGING}{name}-{secrets.token_hex(4)}"


def sync(path: Path) -> None:
    """Flush a file, or every file and folder under a folder, to disk (fsync)."""
    for name in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if name.is_dir():
            sync_folder(name)
        else:
            with name.open("rb") as file:
                os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush a folder itself to disk (fsync), so that a rename in it survives a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file or folder if it exists, even while another process is deleting it."""
    while path.is_dir() and not path.is_symlink():
        with suppress(FileNotFoundError):  # the other process deleted one first
            shutil.rmtree(path)
    path.unlink(missing_ok=True)


def digest(path: Path) -> str:
    """Hash (SHA-256, hex) a file, or a folder's sorted (name, SHA-256) pairs; its own name is ignored."""
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
    """Return a file's posix path relative to a folder, as used in digests and manifests.

    Raises:
        DataError: it is not UTF-8, which no object store accepts.
    """
    name = path.relative_to(folder).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{folder}: the file name {name!r} is not UTF-8: rename it") from error
    return name


def size_bytes(path: Path) -> int:
    """Return the size of a file, or of all files under a folder."""
    return (
        path.stat().st_size
        if path.is_file()
        else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    )
