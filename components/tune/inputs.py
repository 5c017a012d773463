"""Inputs: what trials start from, in the store by content, for trials that share nothing else."""

import shutil
import tempfile
from pathlib import Path

from deepcuts.components.core import files
from deepcuts.components.core.manifest import MANIFEST
from deepcuts.components.core.store import Store, Torn, publish, retrieve

ONE_FILE = "file"


def deposit(store: Store, path: Path) -> str:
    """Upload a file or a folder to the store unless it is there; returns its digest."""
    digest = files.digest(path)
    if path.is_dir():
        publish(store, path, f"inputs/{digest}")
        return digest
    with tempfile.TemporaryDirectory(prefix="deposit-") as scratch:
        shutil.copyfile(path, Path(scratch) / ONE_FILE)
        publish(store, Path(scratch), f"inputs/{digest}")
    return digest


def bring(store: Store, digest: str, folder: Path) -> Path:
    """Get what ``deposit`` put: the same file or folder, so a training has one identity everywhere.

    Raises:
        FileNotFoundError: nothing of that digest is there.
        Torn: it is there, and is something else.
    """
    retrieve(store, f"inputs/{digest}", folder)
    (folder / MANIFEST).unlink()
    found = folder / ONE_FILE if [p.name for p in folder.iterdir()] == [ONE_FILE] else folder
    if files.digest(found) != digest:
        raise Torn(f"{store.uri(f'inputs/{digest}')} is not what its name says: delete it, then run again")
    return found
