"""Doctor: find what is missing on this machine, and how to fix it."""

import datetime
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import urllib3
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from deepcuts.components.core import escape
from deepcuts.components.core.errors import StoreError
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.s3 import S3Store
from deepcuts.components.core.store import open_store

CHECKED = {
    "kfp": "",
    "kfp-kubernetes": "",
    "torch": "train",
    "transformers": "train",
    "peft": "train",
    "accelerate": "train",
    "safetensors": "train",
    "pyarrow": "data",
    "jinja2": "",
    "matplotlib": "",
}
"""Packages whose versions matter, and the extra that installs them, if any; pyproject.toml says why."""
SECONDS = 5.0
OLD_DAYS = 90
"""A node price older than this should be checked."""


class Finding(NamedTuple):
    subject: str
    state: str
    fix: str = ""
    """What to do; empty if all is well."""
    missing: bool = False
    """Steps cannot run without it."""


def examine(
    pools: Mapping[str, NodePool], environment: Mapping[str, str], today: datetime.date
) -> list[Finding]:
    """Check this machine; yield findings in the order in which to fix them."""
    return [python(), *packages(), *store(environment), device(), *prices(pools, today)]


def python() -> Finding:
    """Check the version of Python."""
    good = (3, 11) <= sys.version_info < (3, 13)
    fix = "" if good else "install Python 3.11 or 3.12: transformers needs 3.11, kfp is not confirmed on 3.13"
    return Finding("python", platform.python_version(), fix, missing=not good)


def packages() -> Iterator[Finding]:
    """Check the versions of the packages in CHECKED against pyproject.toml."""
    try:
        requirements()
    except importlib.metadata.PackageNotFoundError:
        yield Finding("deepcuts", "not installed", "pip install -e '.[all]'", missing=True)
        return
    for name, wanted in sorted(requirements().items(), key=lambda item: list(CHECKED).index(item[0])):
        fix = f"pip install -U 'deepcuts[{CHECKED[name]}]'" if CHECKED[name] else "pip install -U deepcuts"
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, f"missing, needs {wanted}", fix, missing=True)
            continue
        good = wanted.contains(found, prereleases=True)
        yield Finding(
            name, found if good else f"{found}, needs {wanted}", "" if good else fix, missing=not good
        )


def requirements() -> dict[str, SpecifierSet]:
    """Return the required versions of the packages in CHECKED, from the package metadata."""
    asked = [Requirement(text) for text in importlib.metadata.requires("deepcuts") or []]
    return {
        one.name: one.specifier
        for one in asked
        if one.name in CHECKED
        and (one.marker.evaluate({"extra": CHECKED[one.name]}) if one.marker else not CHECKED[one.name])
    }


def store(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Check that the S3 endpoint answers, if one is set."""
    endpoint = environment.get("S3_ENDPOINT")
    if not endpoint:
        yield Finding("store", "S3_ENDPOINT is not set: runs keep their checkpoints under --runs")
        return
    absent = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not environment.get(name)]
    if absent:
        yield Finding(
            "store keys", f"{' and '.join(absent)} not set", "export them with S3_ENDPOINT", missing=True
        )
    try:
        answer = urllib3.PoolManager(timeout=5, retries=False).request("GET", endpoint)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        said = escape.redacted(f"{endpoint}: {error}")
        yield Finding("store", said, "start the store, or correct S3_ENDPOINT", missing=True)
    else:
        yield Finding("store", escape.redacted(f"{endpoint} answers (HTTP {answer.status})"))
        if not absent:
            yield exclusive(environment.get("DEEPCUTS_STORE", ""))


def exclusive(url: str) -> Finding:
    """Check that the store refuses a second writer, as leases and the log of releases require."""
    subject = "exclusive writes"
    if not url.startswith(("s3://", "minio://")):
        return Finding(subject, "not tried", "set DEEPCUTS_STORE to s3://BUCKET/PREFIX to try it")
    store = open_store(url, outage_seconds=SECONDS)
    assert isinstance(store, S3Store)
    try:
        store.check_exclusive()
    except (ValueError, StoreError) as error:
        return Finding(subject, str(error), "use a store that answers If-None-Match with 412", missing=True)
    return Finding(subject, f"{url}: a second writer is refused")


def device() -> Finding:
    """Return the device for training."""
    cores = f"{os.cpu_count()} CPU cores"
    if not importlib.util.find_spec("torch"):
        return Finding("device", cores)
    import torch  # takes seconds, and only this command needs it

    if not torch.cuda.is_available():
        return Finding("device", f"{cores}, no CUDA device")
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return Finding(
        "device", f"{cores}, " + ", ".join(f"{c.name} {c.total_memory / 2**30:.0f} GiB" for c in cards)
    )


def prices(pools: Mapping[str, NodePool], today: datetime.date) -> Iterator[Finding]:
    """Check how reliable the node prices are."""
    for pool in pools.values():
        subject = f"price of {pool.name}"
        if pool.usd_per_hour is None:
            yield Finding(subject, "unknown", "set usd_per_hour in nodepools.yaml, or accept unknown costs")
            continue
        age = (today - datetime.date.fromisoformat(pool.price_date)).days
        state = f"${pool.usd_per_hour}/h, {pool.price_source}, {age} days old"
        doubtful = age > OLD_DAYS or "assumed" in pool.price_source
        yield Finding(subject, state, "set what you pay in nodepools.yaml" if doubtful else "")
