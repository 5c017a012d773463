"""Releases of a name: immutable folders in the store, and a log of which one is in service.

``releases/NAME/VERSION/`` holds a release, with its manifest written last. ``releases/NAME/log/000007.json``
is one move, written only if absent: of two concurrent writers one loses, reads again, and moves after the
other. Each entry is then copied to ``log-copies/000007.json``, so that a log shorter than its copies is known
to have lost its newest entries.

There is no object called ``latest``. The release in service follows from the log, and ``latest`` stands for
it as a version (``version_of``). An object would have to be overwritten, and S3 has no compare-and-swap that
every server supports: the later of two publishers would win silently, a rollback could remove a release
published in between, and the earlier target would be lost.
"""

import re
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from deepcuts.components.core import clock, records
from deepcuts.components.core.errors import DataError, StoreError
from deepcuts.components.core.manifest import Manifest, encoded, manifest_of
from deepcuts.components.core.store import Store, manifest_at, retrieve
from deepcuts.components.core.store import publish as upload

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""Also valid as the name of a Kubernetes object."""
ENTRY = re.compile(r"\d{6,}\.json")
VERSION = re.compile(r"[\w.+-]*\w[\w.+-]*")
"""A single folder name."""

RESTORE = (
    "restore it from log-copies/, the bucket's versions or a backup; if it is lost for good, move the "
    "folders log/ and log-copies/ away and publish the release that should be in service again"
)
"""What to do about a missing or damaged entry; entries after it cannot be trusted."""


class Move(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    action: Literal["release", "rollback"]
    version: str
    """The release in service afterwards."""
    model_digest: str
    writer: str
    """Random, to tell apart two writers of the same move."""
    at: str = ""
    """UTC, ISO 8601; empty in logs of versions before 0.2."""


def in_service(moves: Sequence[Move]) -> list[Move]:
    """Return the releases that rollbacks have left, oldest first; the last one is in service."""
    kept: list[Move] = []
    for move in moves:
        if move.action == "release":
            kept.append(move)
        else:
            kept.pop()
    return kept


def _check(store: Store, name: str, moves: Sequence[Move]) -> None:
    """Refuse a last move that cannot follow the earlier ones, as an entry must have been lost.

    Raises:
        DataError: names the entry.
    """
    *before, move = moves
    if not VERSION.fullmatch(move.version):
        raise DataError(
            f"{store.uri(_entry(name, len(before)))} names no version, {move.version!r}: {RESTORE}"
        )
    if move.action == "rollback":
        kept = in_service(before)
        if len(kept) < 2 or kept[-2].version != move.version:
            known = kept[-2].version if len(kept) > 1 else "nothing"
            raise DataError(
                f"{store.uri(_entry(name, len(before)))} goes back to {move.version}, but the log has "
                f"{known} before: an entry was lost or changed: {RESTORE}"
            )


def read(store: Store, name: str) -> list[Move]:
    """Return every move of ``name``, in order; empty if nothing was released.

    Raises:
        DataError: an entry of the log is missing, is not a move, or cannot follow the earlier ones.
    """
    copies = _copies(store, name)  # read before the log, as a copy is written after its entry
    keys = store.list(f"{checked_name(name)}/log/")
    for number, key in enumerate(keys):
        if not ENTRY.fullmatch(key.rpartition("/log/")[2]):
            raise DataError(f"{store.uri(key)} is not an entry of the log of releases: move it elsewhere")
        if key != _entry(name, number):
            raise _missing(store, name, number, f"where {key.rpartition('/')[2]} comes next", copies)
    if copies and (last := copies[-1]) >= _copy(name, len(keys)):
        raise _missing(store, name, len(keys), f"of which there is {store.uri(last)}", copies)
    moves = [records.read(store, key, Move, RESTORE) for key in keys]
    for number in range(len(moves)):
        _check(store, name, moves[: number + 1])
    return moves


def release(store: Store, name: str, folder: Path, version: str, model_digest: str) -> Manifest:
    """Upload ``folder``, read it back, and only then put it in service; repeating it changes nothing.

    Raises:
        StoreError: the store is unreachable, or returns other bytes than were uploaded.
    """
    prefix = f"{checked_name(name)}/{version}"
    upload(store, folder, prefix)  # reads every file back
    manifest = manifest_at(store, prefix)
    if encoded(manifest) != encoded(manifest_of(folder)):
        raise DataError(f"{store.uri(prefix)} holds another release: somebody wrote there; publish again")
    while True:
        moves = read(store, name)
        current = in_service(moves)
        if current and current[-1].version == version:
            return manifest
        if _append(
            store, name, len(moves), Move("release", version, model_digest, uuid.uuid4().hex, clock.utc())
        ):
            return manifest


def rollback(store: Store, name: str) -> tuple[str, str]:
    """Put the previous release back in service after verifying it; return both versions (from, to).

    Raises:
        ValueError: there is no previous release.
        Torn: the previous release is damaged; the one in service stays.
    """
    while True:
        moves = read(store, name)
        kept = in_service(moves)
        if len(kept) < 2:
            known = f"only {kept[0].version} was released" if kept else "nothing was released"
            raise ValueError(f"{name!r} cannot go back: {known} under {store.uri(checked_name(name))}")
        before = kept[-2]
        verify(store, name, before.version)
        move = Move("rollback", before.version, before.model_digest, uuid.uuid4().hex, clock.utc())
        if _append(store, name, len(moves), move):
            return kept[-1].version, before.version


def verify(store: Store, name: str, version: str) -> None:
    """Check a release against its manifest; raises the errors of ``store.retrieve``."""
    prefix = f"{checked_name(name)}/{version}"
    for file, entry in manifest_at(store, prefix)["files"].items():
        if (found := store.sha256(f"{prefix}/{file}")) != entry["sha256"]:
            raise DataError(
                f"{store.uri(f'{prefix}/{file}')} has SHA-256 {found}: it is not what was released"
            )


def version_of(store: Store, name: str, version: str) -> str:
    """Return ``version`` itself, or for ``latest`` the one in service.

    Raises:
        FileNotFoundError: nothing was released under that name.
    """
    if version != "latest":
        return version
    kept = in_service(read(store, name))
    if not kept:
        raise FileNotFoundError(f"no release {name!r} under {store.uri('releases')}: check name and store")
    return kept[-1].version


def download(store: Store, name: str, version: str, folder: Path) -> str:
    """Download a release, verified, to ``folder``; ``version`` may be ``latest``. Return the version."""
    chosen = version_of(store, name, version)
    retrieve(store, f"{checked_name(name)}/{chosen}", folder)
    return chosen


def checked_name(name: str) -> str:
    """Return the prefix of a release's name, ``releases/NAME``.

    Raises:
        ValueError: the name is not valid.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"release name {name!r}: give lower-case letters, digits and dashes, at most 63")
    return f"releases/{name}"


def _copies(store: Store, name: str) -> list[str]:
    keys = store.list(_copy(name, 0).removesuffix("000000.json"))
    return [key for key in keys if ENTRY.fullmatch(key.rpartition("/")[2])]


def _missing(store: Store, name: str, number: int, why: str, copies: Collection[str]) -> DataError:
    there = (copy := _copy(name, number)) in copies
    return DataError(
        f"{store.uri(_entry(name, number))} is missing from the log of releases, {why}: "
        + (f"restore it, a copy is {store.uri(copy)}" if there else RESTORE)
    )


def _append(store: Store, name: str, before: int, move: Move) -> bool:
    data = msgspec.json.encode(move)
    if not store.put_if_absent(_entry(name, before), data):
        return False
    with suppress(StoreError, OSError):  # the move is made, and repeating it would go back twice
        store.put_bytes(_copy(name, before), data)
    return True


def _entry(name: str, number: int) -> str:
    return f"{checked_name(name)}/log/{number:06d}.json"


def _copy(name: str, number: int) -> str:
    return f"{checked_name(name)}/log-copies/{number:06d}.json"
