"""Share inputs of trials through the store, by content."""

import shutil
import tempfile
from pathlib import Path

from deepcuts.components.core import files
from deepcuts.components.core.manifest import MANIFEST
from deepcuts.components.core.store import Store, Torn, publish, retrieve

ONE_FILE = "file"


def deposit(store: Store, path: Path) -> str:
    """Upload a file or a folder to the store unless it exists; return its digest."""
    digest = files.digest(path)
    if path.is_dir():
        publish(store, path, f"inputs/{digest}")
        return digest
    with tempfile.TemporaryDirectory(prefix="deposit-") as scratch:
        shutil.copyfile(path, Path(scratch) / ONE_FILE)
        publish(store, Path(scratch), f"inputs/{digest}")
    return digest


def bring(store: Store, digest: str, folder: Path) -> Path:
    """Download the file or folder uploaded by ``deposit``, so that a training has one identity everywhere.

    Raises:
        FileNotFoundError: nothing has that digest.
        Torn: its content is different.
    """
    retrieve(store, f"inputs/{digest}", folder)
    (folder / MANIFEST).unlink()
    found = folder / ONE_FILE if [p.name for p in folder.iterdir()] == [ONE_FILE] else folder
    if files.digest(found) != digest:
        raise Torn(f"{store.uri(f'inputs/{digest}')} is not what its name says: delete it, then run again")
    return found
