"""Convert places of models and data (paths, URIs, hub names) to the form pipelines accept."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from deepcuts.components.core import datafiles
from deepcuts.components.core.cli import write_json
from deepcuts.components.core.errors import StoreError
from deepcuts.components.core.strict import MALFORMED

EXAMPLES = Path(__file__).parents[1] / "examples"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?:@[\w./-]+)?")
HUB_PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<datasets>datasets/)?(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:/tree/(?P<revision>[\w./-]+?))?/?"
)
SCHEME = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]+):(?P<slashes>/*)(?P<rest>.*)")
"""Of two letters or more: one is a drive of Windows."""
READ = {name: name for name in ("file", "s3", "minio", "hf", "example")} | {
    "huggingface": "hf",
    "s3a": "s3",
    "s3n": "s3",
}
"""Schemes that are read, as people write them."""
HUB_URI = re.compile(r"hf://(?P<datasets>datasets/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
UNSET = re.compile(r"\$(\w+|\{\w+\})")
SHELL = re.compile(r"\$\{[^}]*\}|\$\([^)]*\)|`[^`]*`|^%[A-Z_]{3,}%")
COPIES = {
    "gs": "gcloud storage cp -r {uri} FOLDER",
    "az": "azcopy copy URL FOLDER --recursive",
    "azure": "azcopy copy URL FOLDER --recursive",
    "abfs": "azcopy copy URL FOLDER --recursive",
    "abfss": "azcopy copy URL FOLDER --recursive",
    "wasbs": "azcopy copy URL FOLDER --recursive",
    "https": "curl -LO {uri}",
    "http": "curl -LO {uri}",
    "ftp": "curl -LO {uri}",
    "ssh": "scp -r HOST:PATH FOLDER",
    "hdfs": "hdfs dfs -get {uri} FOLDER",
    "dbfs": "databricks fs cp -r {uri} FOLDER",
    "models": "mlflow artifacts download -u {uri} -d FOLDER",
    "runs": "mlflow artifacts download -u {uri} -d FOLDER",
    "kaggle": "kaggle datasets download -p FOLDER --unzip OWNER/NAME",
}
"""Commands to copy from schemes that are not supported."""
LIKE_S3 = ("r2", "oss", "b2", "cos", "obs", "swift")
"""Schemes of stores that speak S3 under another name."""
ON_HUB = ("base_uri", "teacher_uri", "student_uri", "embedder_uri", "data_uri")
"""Parameters that may be a repository on the hub."""
COMMITS = "hub-commits.json"
"""File in the folder of runs with the commit of each ``hf://`` URI given without one."""


def anchored(arguments: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return ``arguments`` with paths in ``…uri`` as ``file://`` URIs, and names on the hub as ``hf://``.

    ``~`` and ``$HOME`` are expanded; ``org/name`` is a repository on the hub if no such path exists. Other
    values are left for ``check`` to report.
    """
    return {
        name: place(name, value, folder)
        if name.endswith("uri") and isinstance(value, str) and value
        else value
        for name, value in arguments.items()
    }


def place(name: str, value: str, folder: Path) -> str:
    """Return the URI of one place."""
    text = os.path.expandvars(value)
    if UNSET.search(text) or SHELL.search(text) or WINDOWS.match(text):
        return text
    if uri := spelled(text, folder):
        return uri
    path = folder / os.path.expanduser(text)  # Path's own raises RuntimeError for a user who is not there
    if name in ON_HUB and is_hub_name(text, path, folder):
        return f"hf://{'datasets/' if name.startswith('data') else ''}{text}"
    return path.resolve().as_uri()


def spelled(text: str, folder: Path) -> str:
    """Return a URI as it is read, from the ways people write it; empty where ``text`` is a path.

    ``S3://b``, ``s3:/b`` and ``s3a://b`` are ``s3://b``; a page of the hub is its repository.
    """
    if page := HUB_PAGE.fullmatch(text):
        revision = f"@{page['revision']}" if page["revision"] else ""
        return f"hf://{page['datasets'] or ''}{page['repo']}{revision}"
    found = SCHEME.fullmatch(text)
    if not found or (folder / text).exists():
        return ""
    scheme, slashes, rest = found["scheme"].lower(), found["slashes"], found["rest"]
    known = READ.get(scheme)
    if known == "file":
        return f"file:///{rest}" if len(slashes) in (1, 3) else text
    if known:
        return f"{known}://{rest}"
    return text if slashes else ""


def check(name: str, text: str) -> None:
    """Refuse places that cannot be read, saying what to do.

    Raises:
        ValueError: a variable is not set, it is a Windows path, or the scheme is not supported.
    """
    if unset := UNSET.search(text):
        raise ValueError(f"{name}: {unset[0]} in {text!r} is not set: export it, or write the path out")
    if shell := SHELL.search(text):
        raise ValueError(f"{name}: {shell[0]} in {text!r} is for a shell to expand: write the path out")
    uri = SCHEME.fullmatch(text)
    scheme = uri["scheme"].lower() if uri and uri["slashes"] else ""
    if uri and scheme in LIKE_S3:
        raise ValueError(
            f"{name}: {scheme}:// is not read: give s3://{uri['rest']}, with S3_ENDPOINT its address"
        )
    if scheme in COPIES:
        command = COPIES[scheme].format(uri=text)
        raise ValueError(
            f"{name}: {scheme}:// is not supported: copy it here ({command}) and give the folder, or to an "
            "S3 bucket and give s3://bucket/prefix"
        )
    if WINDOWS.match(text):
        seen = "mount the share" if text.startswith("\\") else f"under WSL /mnt/{text[0].lower()}/…"
        raise ValueError(f"{name}: {text!r} is a Windows path: give it as this system sees it, {seen}")


def is_hub_name(text: str, path: Path, folder: Path) -> bool:
    """Tell whether ``org/name`` is a hub name: neither it nor its folder exists, and it is no data file."""
    if not HUB_NAME.fullmatch(text) or path.exists() or text.startswith("."):
        return False
    return not (folder / text.partition("/")[0]).is_dir() and not datafiles.data_suffix(text)


def local(uri: str) -> Path | None:
    """Return the local path named by a URI; None if it is not local."""
    if uri.startswith("file:///"):
        return Path(unquote(uri.removeprefix("file://")))
    return EXAMPLES / uri.removeprefix("example://") if uri.startswith("example://") else None


def check_there(name: str, value: object) -> None:
    """Raise FileNotFoundError if a local place does not exist."""
    path = local(value) if isinstance(value, str) else None
    if path and not path.exists():
        hub = ", or give org/name for one of the hub" if name in ON_HUB else ""
        raise FileNotFoundError(f"{name}: nothing at {path}: check the path{hub}")


def pinned(
    arguments: Mapping[str, Any], record: Path | None, say: Callable[[str], None], *, again: bool = False
) -> dict[str, Any]:
    """Return ``arguments`` with each ``hf://`` URI at a commit: the one in ``record``, else the newest.

    The hub's first answer is kept, as a resumed run must use the commit it began with.

    Args:
        record: File with the commits; None to keep none.
        say: Called with a line for each commit looked up.
        again: Look up all commits, even known ones.

    Raises:
        ValueError: there is no such repository or revision, or it may not be read.
        StoreError: the hub does not answer, or the machine is offline.
    """
    kept = _kept(record)
    ready = dict(arguments)
    for name, value in arguments.items():
        parts = HUB_URI.fullmatch(value) if name.endswith("uri") and isinstance(value, str) else None
        if not parts or COMMIT.fullmatch(parts["revision"] or ""):
            continue
        known = None if again else kept.get(value)
        commit = known or newest(name, value)
        ready[name] = f"{value.partition('@')[0]}@{commit}"
        if not known:
            kept[value] = commit
            if record:
                write_json(record, kept)
            say(f"{name}: {value} is at commit {commit}" + (f", kept in {record}" if record else ""))
    return ready


def newest(name: str, uri: str) -> str:
    """Ask the hub for the commit of an ``hf://`` URI; ``HF_TOKEN`` gives access to private and gated ones.

    Raises:
        ValueError: there is no such repository or revision, or it may not be read.
        StoreError: the hub does not answer, or the machine is offline.
    """
    import httpx  # takes half a second to import with the hub's client
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    parts = HUB_URI.fullmatch(uri)
    assert parts
    kind, revision = ("dataset" if parts["datasets"] else "model"), parts["revision"] or "main"
    fix = f"or give the commit, {uri.partition('@')[0]}@40-hexadecimal-digits, or a folder"
    try:
        found = HfApi().repo_info(parts["repo"], revision=revision, repo_type=kind, timeout=20)
    except OfflineModeIsEnabled as error:
        raise StoreError(
            f"{name} {uri!r}: offline (HF_HUB_OFFLINE is set), so its commit is unknown: unset it, {fix}"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status >= 500 or status == 429:
            raise StoreError(f"{name} {uri!r}: the hub answers HTTP {status}: run again later") from error
        token = (
            "HF_TOKEN is set, but may not read it" if os.environ.get("HF_TOKEN") else "HF_TOKEN is not set"
        )
        raise ValueError(
            f"{name} {uri!r}: no readable {kind} {parts['repo']} at {revision} (HTTP {status}, "
            f"{token}): check the name; a gated one needs its licence accepted on the hub and HF_TOKEN; a "
            "path must exist"
        ) from error
    except (httpx.HTTPError, OSError) as error:
        raise StoreError(
            f"{name} {uri!r}: the hub does not answer ({type(error).__name__}): this machine may be offline: "
            f"connect it, {fix}"
        ) from error
    return str(found.sha)


def _kept(record: Path | None) -> dict[str, str]:
    if not record or not record.exists():
        return {}
    try:
        return msgspec.json.decode(record.read_bytes(), type=dict[str, str])
    except MALFORMED as error:
        raise ValueError(
            f"{record} is damaged ({error}): delete it, and commits are looked up again"
        ) from error
