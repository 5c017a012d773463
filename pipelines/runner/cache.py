"""Cache outputs by content: image, command line, input bytes and code."""

import ast
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from deepcuts.components.core import files
from deepcuts.components.core.cli import write_json
from deepcuts.components.core.strict import MALFORMED

LOCKS = ".locks"
"""One file for each first byte of a key."""


class CacheEntry(msgspec.Struct, frozen=True):
    """A task's outputs; its artifacts are next to this file under their names."""

    parameters: dict[str, Any]
    digests: dict[str, str]
    """SHA-256 of each artifact written by the task."""


def key(words: list[str], env: list[dict[str, str]], code: str) -> str:
    """Hash (SHA-256) what determines a task's outputs: image, argv with content for paths, env, code."""
    return hashlib.sha256(json.dumps([words, env, code], sort_keys=True).encode()).hexdigest()


def keep(cache: Path, name: str, entry: CacheEntry, artifacts: Mapping[str, Path]) -> None:
    """Store a task's outputs under its key."""
    with _locked(cache, name), files.staged(cache / name) as staging:
        for artifact in entry.digests:
            _link(artifacts[artifact], staging / artifact)
        write_json(staging / "entry.json", entry)


def restore(cache: Path, name: str, artifacts: Mapping[str, Path]) -> CacheEntry | None:
    """Copy the outputs cached under a key to where the task would write them; None if not complete."""
    if not (cache / name).is_dir():
        return None
    with _locked(cache, name):
        return _restore(cache / name, artifacts)


def forget(cache: Path, name: str, used: float) -> None:
    """Remove an entry unless a run has used or replaced it since ``used`` (mtime of its ``entry.json``)."""
    entry = cache / name / "entry.json"
    with _locked(cache, name):
        if entry.exists() and entry.stat().st_mtime == used:
            files.remove(cache / name)


def _restore(folder: Path, artifacts: Mapping[str, Path]) -> CacheEntry | None:
    try:
        entry = msgspec.json.decode((folder / "entry.json").read_bytes(), type=CacheEntry)
    except (FileNotFoundError, *MALFORMED):  # damaged, so it is made again
        return None
    for artifact, digest in entry.digests.items():
        if not (folder / artifact).exists():
            return None
        files.remove(artifacts[artifact])
        _link(folder / artifact, artifacts[artifact])
        if files.digest(artifacts[artifact]) != digest:  # edited by someone, so not used
            files.remove(folder)
            return None
    os.utime(folder / "entry.json")  # deepcuts clean uses the time of last use
    return entry


@contextlib.contextmanager
def _locked(cache: Path, name: str) -> Iterator[None]:
    """Lock an entry for one process, as replacing one takes several operations."""
    (cache / LOCKS).mkdir(parents=True, exist_ok=True)
    with (cache / LOCKS / name[:2]).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _link(source: Path, target: Path) -> None:
    """Hard-link a file or folder, or copy it where links are not possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        _link_file(source, target)


def _link_file(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def code_digest(modules: Iterable[str], root: Path) -> str:
    """Hash (SHA-256) the steps' folders and all modules under ``root`` that they import, even indirectly.

    Changes in other steps, or in shared modules that these do not load, keep the cache valid. Versions of
    installed packages are not included, as they belong to the image, here to the environment (use --fresh).
    """
    found: set[Path] = set()
    for module in modules:
        start = root / f"{module.replace('.', '/')}.py"
        own = start.parent.rglob("*") if start.name == "step.py" else [start]
        found |= {p for p in own if p.is_file() and "__pycache__" not in p.parts}
    if not found:
        return "not ours"
    todo = [p for p in found if p.suffix == ".py"]
    while todo:
        news = set(_imports(todo.pop(), root)) - found
        found |= news
        todo += news
    total = hashlib.sha256()
    for path in sorted(found):
        total.update(f"{path.relative_to(root).as_posix()}\0{files.digest(path)}\n".encode())
    return total.hexdigest()


def _imports(path: Path, root: Path) -> Iterator[Path]:
    package = path.relative_to(root).parent.parts
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # the step itself reports it, with the line
        return
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                modules = [tuple(alias.name.split(".")) for alias in names]
            case ast.ImportFrom(module=module, names=names, level=level):
                base = (package[: len(package) - level + 1] if level else ()) + tuple(
                    (module or "").split(".")
                )
                base = tuple(part for part in base if part)
                modules = [base, *((*base, alias.name) for alias in names)]
            case _:
                continue
        for parts in modules:
            candidate = root.joinpath(*parts).with_suffix(".py") if parts else root
            if candidate.is_file():
                yield candidate
