"""Where models and data are: paths, URIs and names of the hub, made what a pipeline takes."""

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
"""Schemes that are not read, and what brings them here."""
LIKE_S3 = ("r2", "oss", "b2", "cos", "obs", "swift")
"""Schemes of stores that speak S3 under another name."""
ON_HUB = ("base_uri", "teacher_uri", "student_uri", "embedder_uri", "data_uri")
"""Parameters that may be a repository of the hub."""
COMMITS = "hub-commits.json"
"""In the folder of the runs: the commit of each ``hf://`` URI that was given without one."""


def anchored(arguments: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return ``arguments`` with the paths of ``…uri`` as ``file://`` URIs, and names of the hub as ``hf://``.

    ``~`` and ``$HOME`` are understood; ``org/name`` is a repository of the hub where no such path begins.
    What cannot be understood stays as it is, for ``check`` to name.
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
    """Say what to do where a place is of a kind that is not read.

    Raises:
        ValueError: a variable is not set, a path is one of Windows, or a scheme is not read.
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
            f"{name}: {scheme}:// is not read: copy it here ({command}) and give the folder, or to an "
            "S3 bucket and give s3://bucket/prefix"
        )
    if WINDOWS.match(text):
        seen = "mount the share" if text.startswith("\\") else f"under WSL /mnt/{text[0].lower()}/…"
        raise ValueError(f"{name}: {text!r} is a path of Windows: give it as this system sees it, {seen}")


def is_hub_name(text: str, path: Path, folder: Path) -> bool:
    """Tell ``org/name`` from a path: nothing is there, its first folder is not either, it is no data file."""
    if not HUB_NAME.fullmatch(text) or path.exists() or text.startswith("."):
        return False
    return not (folder / text.partition("/")[0]).is_dir() and not datafiles.data_suffix(text)


def local(uri: str) -> Path | None:
    """Return the path on this machine that a URI names; None where it names none."""
    if uri.startswith("file:///"):
        return Path(unquote(uri.removeprefix("file://")))
    return EXAMPLES / uri.removeprefix("example://") if uri.startswith("example://") else None


def check_there(name: str, value: object) -> None:
    """Raise FileNotFoundError where a place on this machine is empty."""
    path = local(value) if isinstance(value, str) else None
    if path and not path.exists():
        hub = ", or give org/name for one of the hub" if name in ON_HUB else ""
        raise FileNotFoundError(f"{name}: nothing at {path}: check the path{hub}")


def pinned(
    arguments: Mapping[str, Any], record: Path | None, say: Callable[[str], None], *, again: bool = False
) -> dict[str, Any]:
    """Return ``arguments`` with each ``hf://`` URI at a commit: the one in ``record``, else its newest.

    A run that is resumed must find the commit it began with, so the first answer of the hub is kept.

    Args:
        record: Where the commits are kept; None to keep none.
        say: Called with a line for each commit that was looked up.
        again: Ask, whatever is kept.

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
    """Ask the hub for the commit of an ``hf://`` URI; ``HF_TOKEN`` opens private and gated ones.

    Raises:
        ValueError: there is no such repository or revision, or it may not be read.
        StoreError: the hub does not answer, or the machine is offline.
    """
    import httpx  # with the hub's client half a second, which other commands do not wait for
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
            f"{name} {uri!r}: no {kind} {parts['repo']} at {revision} that may be read (HTTP {status}, "
            f"{token}): check the name; a gated one wants its licence accepted on the hub and HF_TOKEN; a "
            "path must be there"
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
