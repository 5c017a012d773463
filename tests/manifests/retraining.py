"""The CronJobs of scheduled retraining, and their bucket and values as an owner fills them in."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from deepcuts.components.core import carry, files
from deepcuts.components.core.store import open_store
from deepcuts.components.publish import releases
from tests.conftest import ROOT
from tests.training import tiny

Json = dict[str, Any]
BASE = ROOT / "manifests" / "base"
LINKS: dict[str, Json] = {
    name: yaml.safe_load((BASE / f"{name}.yaml").read_text())
    for name in ("retrain", "retrain-train", "retrain-judge")
}
"""The CronJobs by name; each starts the next."""
TINY = {"--recipe": json.dumps(tiny.RECIPE | {"budget_tokens": 6000, "method": "lora"})}
RELEASE_USD = 12.5


def template(link: str) -> Json:
    """What a Job of the CronJob is made of."""
    found: Json = LINKS[link]["spec"]["jobTemplate"]
    return found


def pod_of(job: Json) -> Json:
    spec: Json = job["spec"]["template"]["spec"]
    return spec


def containers(job: Json) -> list[Json]:
    """In the order in which they run."""
    return [*pod_of(job)["initContainers"], *pod_of(job)["containers"]]


def altered(words: Sequence[str], changed: Mapping[str, str]) -> list[str]:
    """An argv with other values for some flags."""
    return [changed.get(flag, word) for flag, word in zip(["", *words], words, strict=False)]


def fill(place: str, folder: Path) -> None:
    """A bucket with data and a random model in service, release ``first``; a copy is left in ``folder``."""
    base = tiny.base(folder / "release")
    digest = files.digest(base)
    (base / "ledger.json").write_text(json.dumps({"total": {"usd": RELEASE_USD, "unknown": 0}}))
    releases.release(open_store(f"{place}/store"), "model", base, "first", digest)
    tiny.write_sums(folder / "window.jsonl", 40, seed=1)
    (folder / "labels.json").write_text("[]")
    (folder / "corpus").mkdir()
    tiny.write_sums(folder / "corpus" / "train.jsonl", 60)
    tiny.write_sums(folder / "corpus" / "valid.jsonl", 8, seed=2)
    for name in ("window.jsonl", "labels.json", "corpus"):
        carry.put(f"{place}/retrain/{name}", folder / name)


def spoil(place: str, folder: Path) -> None:
    """A corpus in the bucket whose answers are wrong."""
    path = tiny.write_sums(folder / "corpus" / "train.jsonl", 60)
    path.write_text(path.read_text().replace('"assistant","content":"', '"assistant","content":"no '))
    carry.put(f"{place}/retrain/corpus", folder / "corpus")


def in_service(place: str) -> str:
    """Version of the release."""
    return releases.version_of(open_store(f"{place}/store"), "model", "latest")
