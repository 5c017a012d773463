"""Find what runs leave behind and nothing needs any more, with sizes, and delete it on request."""

import contextlib
import fcntl
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import unquote, urlsplit

import typer
from rich.table import Table
from rich.text import Text

from deepcuts.components.core import clock, files
from deepcuts.components.core.store import Store, Torn, manifest_at, open_store, withdraw
from deepcuts.components.ledger import formatting
from deepcuts.components.publish import releases
from deepcuts.components.training.run_messages import RunMessages
from deepcuts.pipelines.command.options import RELEASES, Folder, Releases, out
from deepcuts.pipelines.runner import cache, run_record

DAY_SECONDS = 24 * 3600.0
STAGING_DAYS = 1.0
"""An unfinished output this old belongs to a process that was killed."""


class Leftover(NamedTuple):
    """Something to delete."""

    kind: str
    name: str
    bytes: int
    days: float | None
    """Age; None if only its number decides."""
    delete: Callable[[], None]


def clean(
    folder: Folder = Path("runs"),
    store: Releases = RELEASES,
    older_days: Annotated[
        float, typer.Option(min=0, help="Minimum age of runs, cache entries and ended trainings.")
    ] = 30.0,
    keep_releases: Annotated[
        int, typer.Option(min=2, help="Releases of each name to keep; a rollback needs 2.")
    ] = 3,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only list.")] = False,
) -> None:
    """Delete old runs, cache entries, checkpoints of ended trainings and releases out of service."""
    found = leftovers(folder, open_store(store), older_days, keep_releases)
    rows = Table("kind", "name", "size", "days old")
    for kind in dict.fromkeys(item.kind for item in found):
        for item in (item for item in found if item.kind == kind):
            age = "–" if item.days is None else f"{item.days:.0f}"
            rows.add_row(kind, Text(item.name), formatting.size(item.bytes), age)
    rows.add_section()
    rows.add_row("total", f"{len(found)}", formatting.size(sum(item.bytes for item in found)), "")
    out.print(rows)
    if not yes:
        out.print("nothing was deleted: add --yes", highlight=False)
        return
    places = [folder, *_local(store)]
    known = [*itertools.chain.from_iterable(map(folders, places))]
    for item in found:
        item.delete()
    prune(known)
    out.print(f"deleted {len(found)}", highlight=False)


def leftovers(folder: Path, store: Store, older_days: float, keep_releases: int) -> list[Leftover]:
    """List everything that may be deleted, by kind, except of runs and trainings still under way.

    Args:
        folder: Folder of runs and their cache.
        store: Store with trainings and releases.
        older_days: Minimum age of runs, cache entries and ended trainings.
        keep_releases: Newest releases of a name to keep, among those that rollbacks have left.
    """
    return [
        *old_runs(folder, older_days),
        *cache_entries(folder / "cache", older_days),
        *unfinished(folder),
        *checkpoints(store, older_days),
        *old_releases(store, keep_releases),
    ]


def old_runs(folder: Path, older_days: float) -> Iterator[Leftover]:
    """Yield the folders of runs with a record older than ``older_days`` that no process holds."""
    for path in sorted(folder.glob("*/run.json")):
        # records of another version are not ours to delete; another process may be cleaning, too
        with contextlib.suppress(ValueError, FileNotFoundError):
            days = _days(path)
            run_record.read(path.parent)
            if days > older_days and not _is_held(path.parent / ".lock"):
                yield _tree("run", path.parent, days)


def cache_entries(folder: Path, older_days: float) -> Iterator[Leftover]:
    """Yield entries that no run has used for ``older_days``."""
    for path in sorted(folder.glob("[0-9a-f]*")):
        with contextlib.suppress(FileNotFoundError):
            if (days := _days(path / "entry.json")) > older_days:
                yield _entry(path, days)


def unfinished(folder: Path) -> Iterator[Leftover]:
    """Yield unfinished outputs of killed processes."""
    for path in sorted(folder.rglob(f"{files.STAGING}*")):
        with contextlib.suppress(FileNotFoundError):
            if (days := _days(path)) > STAGING_DAYS:
                yield _tree("unfinished", path, days)


def checkpoints(store: Store, older_days: float) -> Iterator[Leftover]:
    """Yield checkpoints of ended trainings, whose result is in the model they made.

    Without them, a larger budget of the same training starts from the beginning.
    """
    steps: dict[str, set[str]] = {}
    for key in store.list("trainings/"):
        match key.split("/"):
            case [_, training, step, _, *_] if step.startswith("step-"):
                steps.setdefault(training, set()).add(step)
    for training, names in sorted(steps.items()):
        messages = RunMessages(store, training, 0)
        beat = messages.heartbeat()
        ended = store.exists(f"trainings/{training}/done") or messages.failed() is not None
        days = _since(beat.at) if beat else 0.0
        if ended and days > older_days:
            prefixes = [f"trainings/{training}/{name}" for name in sorted(names)]
            name = f"{training[:12]}, {len(prefixes)} checkpoints"
            size = _stored_bytes(store, prefixes)
            yield Leftover("checkpoints", name, size, days, _withdrawal(store, prefixes))


def old_releases(store: Store, keep: int) -> Iterator[Leftover]:
    """Yield the releases of each name except the ``keep`` newest in its log."""
    versions: dict[str, set[str]] = {}
    for key in store.list("releases/"):
        match key.split("/"):
            case [_, name, version, _, *_] if version != "log" and releases.NAME.fullmatch(name):
                versions.setdefault(name, set()).add(version)
    for name, there in sorted(versions.items()):
        kept = [move.version for move in releases.in_service(releases.read(store, name))]
        if kept:  # a release that is being published is in no log yet
            logged = {move.version for move in releases.read(store, name)}
            for version in sorted((there & logged) - set(kept[-keep:])):
                prefixes = [f"releases/{name}/{version}"]
                size = _stored_bytes(store, prefixes)
                yield Leftover("release", f"{name}/{version}", size, None, _withdrawal(store, prefixes))


def folders(place: Path) -> Iterator[Path]:
    """Yield the folders below ``place``, deepest first, except those in which a run may still write.

    A run under way creates a folder before writing to it.
    """
    for path, inner, names in os.walk(place, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            if Path(path) != place and (inner or names or _days(Path(path)) > STAGING_DAYS):
                yield Path(path)


def prune(known: Iterable[Path]) -> None:
    """Remove those of the known folders that are now empty."""
    for path in known:
        with contextlib.suppress(OSError):  # it is not empty
            path.rmdir()


def _local(url: str) -> list[Path]:
    return [Path(unquote(urlsplit(url).path))] if url.startswith("file://") else []


def _tree(kind: str, path: Path, days: float) -> Leftover:
    return Leftover(kind, path.name, _freed_bytes(path), days, lambda: files.remove(path))


def _entry(path: Path, days: float) -> Leftover:
    used = (path / "entry.json").stat().st_mtime
    size = _freed_bytes(path)
    return Leftover("cache", path.name, size, days, lambda: cache.forget(path.parent, path.name, used))


def _freed_bytes(path: Path) -> int:
    """Return the bytes freed with a tree, without files that hard links share with another run or cache."""
    stats = [p.lstat() for p in ([path] if path.is_file() else path.rglob("*")) if not p.is_dir()]
    here = Counter(stat.st_ino for stat in stats)
    once = {stat.st_ino: stat for stat in stats}.values()
    return sum(stat.st_size for stat in once if stat.st_nlink <= here[stat.st_ino])


def _stored_bytes(store: Store, prefixes: Sequence[str]) -> int:
    """Return the bytes by the manifests; a damaged one counts as 0."""
    total = 0
    for prefix in prefixes:
        with contextlib.suppress(FileNotFoundError, Torn):
            total += sum(entry["bytes"] for entry in manifest_at(store, prefix)["files"].values())
    return total


def _withdrawal(store: Store, prefixes: Sequence[str]) -> Callable[[], None]:
    def delete() -> None:
        for prefix in prefixes:
            withdraw(store, prefix)

    return delete


def _is_held(lock: Path) -> bool:
    if not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _days(path: Path) -> float:
    return (time.time() - path.lstat().st_mtime) / DAY_SECONDS


def _since(at: str) -> float:
    return clock.seconds_since(at) / DAY_SECONDS
