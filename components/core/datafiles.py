"""Names of data files: which format a name stands for, and which files are not data."""

from pathlib import PurePosixPath

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
COMPRESSIONS = (".gz", ".zst")
SIDECARS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What the ``datasets`` library writes next to the data."""
ADVICE = {
    (".zip", ".tar", ".tgz", ".7z", ".rar"): "unpack it",
    (".bz2", ".xz", ".lz4"): "unpack it, or pack it with gzip or zstd",
    (".xlsx", ".xls", ".ods"): "save the sheet as CSV",
    (".arrow", ".feather"): "load it (datasets.load_from_disk, pyarrow.feather) and save it with to_parquet",
    (".txt", ".md", ".html", ".pdf"): 'write its texts as JSON Lines, one {"text": "..."} per line',
    (
        ".xml",
        ".yaml",
        ".yml",
        ".sql",
        ".db",
        ".sqlite",
        ".pkl",
        ".npy",
    ): "export its rows as JSON Lines or CSV",
}
"""What to do with data files that cannot be read, by suffix."""


def data_suffix(name: str) -> str:
    """Return the format suffix of a file name, in lower case, without compression; empty if it is not data.

    ``a.JSONL.gz`` is ``.jsonl``; ``a.gz`` and ``a.txt`` are not data. Spark's bare ``part-00000`` is
    ``.part``; its first bytes show the format.
    """
    path = PurePosixPath(name.lower())
    if path.suffix in COMPRESSIONS:
        path = path.with_suffix("")
    if path.suffix in FORMATS:
        return path.suffix
    return ".part" if path.name.startswith("part-") and not path.suffix else ""


def data_stem(name: str) -> str:
    """Return a name in lower case without format and compression: ``train.en`` for ``train.en.jsonl.gz``."""
    path = PurePosixPath(name.lower())
    path = path.with_suffix("") if path.suffix in COMPRESSIONS else path
    return path.stem if path.suffix in FORMATS else path.name


def is_sidecar(name: str) -> bool:
    """Tell whether a file is a writer's marker or hidden: ``_SUCCESS``, ``.part-0.crc``, ``state.json``."""
    path = PurePosixPath(name)
    return path.name in SIDECARS or any(part[:1] in (".", "_") for part in path.parts)


def advice(name: str) -> str:
    """Return what to do with a file that cannot be read; empty if its name gives no hint."""
    suffix = PurePosixPath(name.lower()).suffix
    return next((fix for suffixes, fix in ADVICE.items() if suffix in suffixes), "")
