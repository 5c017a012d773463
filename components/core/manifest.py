"""Manifest: the files of a committed folder with size and SHA-256; it is written last."""

from pathlib import Path
from typing import TypedDict

import msgspec

from deepcuts.components.core import files
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.strict import MALFORMED

MANIFEST = "manifest.json"


class FileEntry(TypedDict):
    sha256: str
    bytes: int


class Manifest(TypedDict):
    """The files of a committed folder; ``manifest.json`` is written last and does not list itself."""

    files: dict[str, FileEntry]


def manifest_of(folder: Path) -> Manifest:
    """Return the manifest of a folder's current files, sorted by posix name."""
    names = sorted(files.name_in(folder, p) for p in folder.rglob("*") if p.is_file())
    return {"files": {name: entry_of(folder / name) for name in names if name != MANIFEST}}


def entry_of(path: Path) -> FileEntry:
    """Return the size and SHA-256 of a file."""
    return {"sha256": files.digest(path), "bytes": path.stat().st_size}


def encoded(manifest: Manifest) -> bytes:
    """Return the bytes of ``manifest.json``: equal manifests give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"


def verify(folder: Path) -> None:
    """Check a committed folder against its ``manifest.json``.

    Raises:
        DataError: there is no manifest, or a file is missing, extra or different; names the first one.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder} has no {MANIFEST}: it was never committed; use another, or make it again")
    try:
        wanted = msgspec.json.decode(path.read_bytes(), type=Manifest)["files"]
    except MALFORMED as error:
        raise DataError(f"{path} is not a manifest ({error}): use another copy, or make it again") from error
    found = manifest_of(folder)["files"]
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise DataError(
                f"{folder / name} does not match {MANIFEST}: {found.get(name, 'missing')}, "
                f"not {wanted.get(name, 'listed')}: use another copy, or make it again"
            )
