"""Store: objects by key under ``file://`` or S3, and folders published atomically."""

import os
import shutil
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from deepcuts.components.core import files
from deepcuts.components.core.errors import StoreError
from deepcuts.components.core.keys import absent, checked, checked_prefix
from deepcuts.components.core.manifest import MANIFEST, FileEntry, Manifest, encoded, manifest_of
from deepcuts.components.core.progress import Heard, ProgressLog, unheard
from deepcuts.components.core.retry import OUTAGE_SECONDS
from deepcuts.components.core.s3 import S3Store
from deepcuts.components.core.strict import MALFORMED


class Torn(StoreError):
    """Published content is damaged: an object is missing or differs from its manifest."""


class Store(Protocol):
    """Objects by key; a key is a relative posix path (``trainings/ab12/stop``).

    Every method raises StoreError if the store is unreachable, ValueError if the key or a setting is wrong.
    """

    def uri(self, key: str) -> str:
        """Return the full URI of ``key``, whether it exists or not."""

    def put(self, key: str, path: Path) -> None:
        """Store a file; readers see the old object or the new one, never a part."""

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store ``data`` as ``put`` stores a file."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store ``data`` unless ``key`` exists; True for exactly one writer (give each its own ``data``)."""

    def get(self, key: str, path: Path, heard: Heard = unheard) -> None:
        """Write the object to ``path`` atomically, reporting to ``heard``; FileNotFoundError if absent."""

    def size(self, key: str) -> int:
        """Return the object's size in bytes; FileNotFoundError if absent."""

    def get_bytes(self, key: str) -> bytes:
        """Return the object's bytes; FileNotFoundError if absent."""

    def sha256(self, key: str) -> str:
        """Read the object back and hash it (SHA-256, hex); FileNotFoundError if absent."""

    def list(self, prefix: str) -> list[str]:
        """List the keys that start with ``prefix`` ("" for all), sorted; end a folder's name with a slash."""

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Remove the object, if there is one."""


def open_store(url: str, outage_seconds: float = OUTAGE_SECONDS) -> Store:
    """Return the store at ``file:///path``, ``s3://bucket/prefix`` or ``minio://bucket/prefix``.

    S3 takes S3_ENDPOINT (``http://`` or ``https://`` decides on TLS), AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY and, if the key may not look up the bucket's region, AWS_REGION.

    Raises:
        ValueError: the URL has another form, or a variable is missing.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment or "@" in parts.netloc:
        what = "a query, a fragment, or a user"
        raise ValueError(f"{url!r} has {what}: leave it off, keys and settings come from the environment")
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return FileStore(Path(unquote(parts.path)))
    if parts.scheme in ("s3", "minio") and parts.netloc:
        prefix = parts.path.strip("/")
        return S3Store(parts.scheme, parts.netloc, checked(prefix) if prefix else "", outage_seconds)
    fix = "give file:///path, s3://bucket/prefix or minio://bucket/prefix"
    raise ValueError(f"{url!r} is not a store: {fix}")


def open_shared(url: str, why: str) -> Store:
    """Open a store that pods can share, which is needed because of ``why``.

    Raises:
        ValueError: it is a local folder.
    """
    if not url.startswith(("s3://", "minio://")):
        raise ValueError(f"store {url!r}: {why}: give s3://bucket/prefix")
    return open_store(url)


class FileStore:
    """Objects as files below ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def uri(self, key: str) -> str:
        return self._path(key).as_uri()

    def put(self, key: str, path: Path) -> None:
        with files.staged(self._path(key)) as staging:
            shutil.copyfile(path, staging)

    def put_bytes(self, key: str, data: bytes) -> None:
        with files.staged(self._path(key)) as staging:
            staging.write_bytes(data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        final = self._path(key)
        final.parent.mkdir(parents=True, exist_ok=True)
        staging = files.staging_place(final)
        try:
            staging.write_bytes(data)
            files.sync(staging)
            os.link(staging, final)  # unlike O_EXCL, never exposes a partly written object
            files.sync_folder(final.parent)
        except FileExistsError:
            return False
        finally:
            files.remove(staging)
        return True

    def get(self, key: str, path: Path, heard: Heard = unheard) -> None:
        with files.staged(path) as staging:
            shutil.copyfile(self._existing(key), staging)
            heard(files.size_bytes(staging))

    def size(self, key: str) -> int:
        return files.size_bytes(self._existing(key))

    def get_bytes(self, key: str) -> bytes:
        return self._existing(key).read_bytes()

    def sha256(self, key: str) -> str:
        return files.digest(self._existing(key))

    def list(self, prefix: str) -> list[str]:
        folder = self._root / checked_prefix(prefix).rpartition("/")[0]
        found = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(files.STAGING))
        keys = (p.relative_to(self._root).as_posix() for p in found)
        return sorted(key for key in keys if key.startswith(prefix))

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._root / checked(key)

    def _existing(self, key: str) -> Path:
        if not self.exists(key):
            raise absent(self.uri(key))
        return self._path(key)


def publish(store: Store, folder: Path, prefix: str) -> None:
    """Upload ``folder`` under ``prefix`` atomically.

    Every file is read back and its SHA-256 checked; the manifest comes last. Publishing the same content
    again only reads; other or damaged content under the prefix is withdrawn first.

    Raises:
        StoreError: the store is unreachable, or returns other bytes than were uploaded.
    """
    manifest, seal = manifest_of(folder), f"{prefix}/{MANIFEST}"
    if store.exists(seal):
        if _holds(store, prefix, manifest):
            return
        withdraw(store, prefix)
    _upload(store, folder, prefix, manifest)


def replace(store: Store, folder: Path, prefix: str) -> None:
    """Publish ``folder`` in place of the content under ``prefix``, to which nobody else writes.

    A reader during a replacement, or after an interrupted one, gets ``Torn``, never a mix of new and old
    files. Raises the errors of ``publish``.
    """
    manifest, seal = manifest_of(folder), f"{prefix}/{MANIFEST}"
    wanted = {seal, *(f"{prefix}/{name}" for name in manifest["files"])}
    there = store.list(f"{prefix}/")
    if wanted == set(there) and _holds(store, prefix, manifest):
        return
    store.put_bytes(seal, b"being replaced\n")
    for key in there:
        if key != seal:
            store.delete(key)
    _upload(store, folder, prefix, manifest)


def upload(store: Store, path: Path, key: str, entry: FileEntry, heard: Heard = unheard) -> None:
    """Upload one file, whose entry of the manifest is ``entry``, and read it back; ``heard`` counts both.

    Raises:
        StoreError: the store is unreachable, or returns other bytes than were uploaded.
    """
    store.put(key, path)
    heard(entry["bytes"])
    if (back := store.sha256(key)) != entry["sha256"]:
        raise StoreError(
            f"{store.uri(key)} came back with SHA-256 {back}, not {entry['sha256']}: publish again"
        )
    heard(entry["bytes"])


def commit(store: Store, prefix: str, manifest: Manifest) -> None:
    """Publish what was uploaded under ``prefix``, in place of what was published there."""
    store.put_bytes(f"{prefix}/{MANIFEST}", encoded(manifest))


def _upload(store: Store, folder: Path, prefix: str, manifest: Manifest) -> None:
    """Upload a folder's files, then commit them."""
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    progress = ProgressLog(2 * total, "bytes sent and read back", brief=True)
    for name, entry in manifest["files"].items():
        upload(store, folder / name, f"{prefix}/{name}", entry, progress.add)
    commit(store, prefix, manifest)


def _holds(store: Store, prefix: str, manifest: Manifest) -> bool:
    try:
        return store.get_bytes(f"{prefix}/{MANIFEST}") == encoded(manifest) and all(
            store.sha256(f"{prefix}/{name}") == entry["sha256"] for name, entry in manifest["files"].items()
        )
    except FileNotFoundError:
        return False


def withdraw(store: Store, prefix: str) -> None:
    """Remove a published folder, manifest first, so that nobody starts to read it."""
    store.delete(f"{prefix}/{MANIFEST}")
    for key in store.list(f"{prefix}/"):
        store.delete(key)


def retrieve(store: Store, prefix: str, folder: Path) -> None:
    """Download the folder published under ``prefix`` to ``folder``, verified and atomically.

    Raises:
        FileNotFoundError: there is no manifest, so nothing was published there.
        Torn: the manifest or an object it lists is damaged.
    """
    manifest = manifest_at(store, prefix)
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    arrived = ProgressLog(total, "bytes", brief=True).add
    with files.staged(folder) as staging:
        staging.mkdir()
        for name, entry in manifest["files"].items():
            get_verified(store, f"{prefix}/{name}", entry, staging / name, arrived)
        (staging / MANIFEST).write_bytes(encoded(manifest))


def manifest_at(store: Store, prefix: str) -> Manifest:
    """Return the manifest published under ``prefix``; raises the errors of ``retrieve``."""
    seal = f"{prefix}/{MANIFEST}"
    text = store.get_bytes(seal)
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
        for name in manifest["files"]:
            checked(name)  # ../x would lead out of the folder
    except (*MALFORMED, ValueError) as error:
        raise Torn(f"{store.uri(seal)} is not a manifest ({error}): publish again") from error
    return manifest


def get_verified(store: Store, key: str, entry: FileEntry, path: Path, heard: Heard = unheard) -> None:
    """Download one object listed in a manifest; raises Torn if it is missing or differs."""
    try:
        store.get(key, path, heard)
    except FileNotFoundError as error:
        raise Torn(f"{store.uri(key)} is in the manifest but gone: publish again") from error
    if (found := files.digest(path)) != entry["sha256"]:
        files.remove(path)
        raise Torn(f"{store.uri(key)} has SHA-256 {found}, not {entry['sha256']} as published: publish again")
