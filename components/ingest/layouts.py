"""Assign the files of a data set to splits and configurations by name."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from deepcuts.components.core.datafiles import (
    COMPRESSIONS,
    FORMATS,
    advice,
    data_stem,
    data_suffix,
    is_sidecar,
)
from deepcuts.components.core.errors import DataError

SPLITS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "eval": "valid",
    "test": "test",
    "testing": "test",
}
SHARD = r"([-_.]\d+)?([-_.]of[-_.]\d+)?([-_.][0-9a-f]{16,40})?"
"""Suffix of a split's name in a shard: ``-00000-of-00002-b42a775f407cee45``."""
NAMED = re.compile(rf"(?P<split>{'|'.join(SPLITS)})([-_.](?P<variant>[a-z][a-z0-9]*?))?{SHARD}")
PREFIXED = re.compile(rf"(?P<prefix>[^/]+?)[-_.](?P<split>{'|'.join(SPLITS)})(?P<variant>){SHARD}")
"""``gsm8k_train``: the part before the split's name is the configuration."""
OF = re.compile(r"(\d+)[-_.]of[-_.](\d+)")
TOP = "."
"""The configuration of files that are not in a subfolder."""


class SourceFile(NamedTuple):
    """A file, or one split of a JSON file with several."""

    path: Path
    part: str = ""
    """The key of the split in ``{"train": [...], "test": [...]}``."""


class SourceFiles(NamedTuple):
    splits: dict[str, list[SourceFile]]
    """Files of each existing split; a single file is ``train``."""
    skipped: list[str]
    """Other files, which are not read."""


class _Placed(NamedTuple):
    name: str
    split: str
    config: str


def find(raw: Path, config: str = "") -> SourceFiles:
    """Find the files of a data set: ``train.csv``, shards, ``default/train/0000.parquet``, Spark's parts.

    Files may be compressed (.gz, .zst). ``config`` selects one of several configurations: a folder with
    splits, or the part after the split's name (``sft`` in ``train_sft``).

    Raises:
        FileNotFoundError: ``raw`` does not exist.
        DataError: there is no train split, a split has two formats, or there are several configurations.
    """
    if not raw.exists():
        raise FileNotFoundError(f"{raw} does not exist: check the path, or run the step that makes it")
    if raw.is_file():
        if config:
            raise DataError(f"config {config!r}: {raw} is one file: leave config out, or give the folder")
        if not data_suffix(raw.name) and (fix := advice(raw.name)):
            raise DataError(f"{raw}: this format cannot be read: {fix}")
        return SourceFiles({"train": [SourceFile(raw)]}, [])
    names = sorted(path.relative_to(raw).as_posix() for path in raw.rglob("*") if path.is_file())
    chosen = _configured(str(raw), _placed(names), config)
    splits: dict[str, list[SourceFile]] = defaultdict(list)
    for file in chosen:
        splits[file.split].append(SourceFile(raw / file.name))
    used = {file.name for file in chosen}
    skipped = [name for name in names if name not in used]
    if "train" not in splits:
        raise DataError(f"{raw}: no train file among {', '.join(names[:5]) or 'its files'}: {_fix(names)}")
    for split, sources in splits.items():
        if len({source.path.suffix for source in sources}) > 1:
            files = ", ".join(source.path.name for source in sources)
            raise DataError(f"{raw}: {split} exists as {files}: keep one format")
        _check_whole(raw, [source.path.relative_to(raw).as_posix() for source in sources])
    return SourceFiles(dict(splits), skipped)


def of_configuration(where: str, names: list[str], config: str) -> list[str]:
    """Return those of ``names`` that ``find`` would read, or all of them if no name contains a split.

    Raises:
        DataError: there are several configurations and none is named, or the named one does not exist.
    """
    placed = _placed(names)
    return [file.name for file in _configured(where, placed, config)] if placed and len(names) > 1 else names


def _placed(names: list[str]) -> list[_Placed]:
    """Return the data files with their splits and configurations."""
    data = [name for name in names if data_suffix(name) and not is_sidecar(name)]
    placed = [found for name in data if (found := _place(name, NAMED))]
    if not any(file.split == "train" for file in placed):
        prefixed = [found for name in data if (found := _place(name, PREFIXED))]
        if any(file.split == "train" for file in prefixed):
            return prefixed
    return placed or [_Placed(name, "train", TOP) for name in _one_table(data)]


def _place(name: str, pattern: re.Pattern[str]) -> _Placed | None:
    """Return split and configuration by the file's name, else by the nearest folder named like a split."""
    path = PurePosixPath(name)
    folders = [folder for folder in path.parts[:-1] if folder.lower() != "data"]
    if found := pattern.fullmatch(data_stem(path.name)):
        variant = [part for part in (found.groupdict().get("prefix"), found["variant"]) if part]
        while folders and folders[-1].lower() == found["split"]:
            folders.pop()
        return _Placed(name, SPLITS[found["split"]], "/".join([*folders, *variant]) or TOP)
    for depth in range(len(folders) - 1, -1, -1):
        if folder := NAMED.fullmatch(folders[depth].lower().removeprefix("split=")):
            variant = [folder["variant"]] if folder["variant"] else []
            return _Placed(name, SPLITS[folder["split"]], "/".join([*folders[:depth], *variant]) or TOP)
    return None


def _fix(names: list[str]) -> str:
    """Return what to do if no file is of the train split."""
    if partitions := sorted(
        {part for name in names for part in PurePosixPath(name).parts[:-1] if "=" in part}
    ):
        return (
            f"it is a table in partitions ({', '.join(partitions[:3])}), whose values are in no row: write "
            "it without partitions, or give the folder of one"
        )
    data = [name for name in names if not is_sidecar(name)]
    fixes = dict.fromkeys(filter(None, map(advice, data)))
    if fixes and not any(map(data_suffix, data)):
        return "; ".join(fixes)
    return (
        f"name it train with one of {', '.join(FORMATS)} (or {', '.join(COMPRESSIONS)} of them), or give the "
        "file itself"
    )


def _check_whole(raw: Path, names: list[str]) -> None:
    """Raise DataError if some shards ``-00000-of-00003`` are missing: rows would be lost silently."""
    shards = defaultdict(set)
    for name in names:
        if found := OF.search(name):
            shards[name[: found.start()], int(found[2])].add(int(found[1]))
    for (stem, total), numbers in shards.items():
        if len(numbers) < total:
            raise DataError(
                f"{raw}: {stem}* has {len(numbers)} of {total} shards: fetch the others, or rename these "
                "to use them alone"
            )


def _one_table(names: list[str]) -> list[str]:
    """Return ``names`` if they are one file or shards of a table: one folder and format, numbered."""
    kinds = {(str(PurePosixPath(name).parent), data_suffix(name)) for name in names}
    stems = {re.sub(r"[0-9a-f-]{30,}|\d+", "#", PurePosixPath(name).name) for name in names}
    if len(names) == 1 or (len(kinds) == 1 and (len(stems) == 1 or _spark(names))):
        return names
    return []


def _spark(names: Iterable[str]) -> bool:
    return all(PurePosixPath(name).name.startswith("part-") for name in names)


def _configured(where: str, placed: list[_Placed], config: str) -> list[_Placed]:
    """Return the files of the named or only configuration; a configuration must have a train split."""
    known = sorted({file.config for file in placed if file.split == "train"})
    if config:
        if config not in known:
            raise DataError(f"config {config!r}: {where} has {', '.join(known) or 'none'}: name one of them")
        return [file for file in placed if file.config == config]
    if len(known) > 1:
        raise DataError(
            f"{where} has several configurations, which are different data: {', '.join(known)}: name one, "
            f"config: {known[0]}"
        )
    return [file for file in placed if file.config in known]
