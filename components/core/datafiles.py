"""Names of data files: which format a name promises, and which files belong to no data set."""

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
    (".txt", ".md", ".html", ".pdf"): 'write its texts as JSON Lines, {"text": "..."} a line',
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
"""What to do about files that hold data and are not read, by suffix."""


def data_suffix(name: str) -> str:
    """Return the format that a file name promises: lower case, no compression; empty for other files.

    ``a.JSONL.gz`` is ``.jsonl``; ``a.gz`` and ``a.txt`` are no data. Spark's bare
    ``part-00000`` is ``.part``, of a format that its first bytes tell.
    """
    path = PurePosixPath(name.lower())
    if path.suffix in COMPRESSIONS:
        path = path.with_suffix("")
    if path.suffix in FORMATS:
        return path.suffix
    return ".part" if path.name.startswith("part-") and not path.suffix else ""


def data_stem(name: str) -> str:
    """Return a name without format and compression, lower case: ``train.en.jsonl.gz`` is ``train.en``."""
    path = PurePosixPath(name.lower())
    path = path.with_suffix("") if path.suffix in COMPRESSIONS else path
    return path.stem if path.suffix in FORMATS else path.name


def is_sidecar(name: str) -> bool:
    """Tell whether a file is a writer's marker or hidden: ``_SUCCESS``, ``.part-0.crc``, ``state.json``."""
    path = PurePosixPath(name)
    return path.name in SIDECARS or any(part[:1] in (".", "_") for part in path.parts)


def advice(name: str) -> str:
    """Return what to do about a file that is not read; empty where its name says nothing."""
    suffix = PurePosixPath(name.lower()).suffix
    return next((fix for suffixes, fix in ADVICE.items() if suffix in suffixes), "")
