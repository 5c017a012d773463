"""Names of data files: which format a name promises, and which files belong to no data set."""

from pathlib import PurePosixPath

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
COMPRESSIONS = (".gz", ".zst")


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


def is_sidecar(name: str) -> bool:
    """Tell whether a file is a writer's marker or hidden: ``_SUCCESS``, ``_metadata``, ``.part-0.crc``."""
    return any(part[:1] in (".", "_") for part in PurePosixPath(name).parts)
