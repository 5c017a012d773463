"""The laptop overlay as README.md says, on the one node here that has no taint, with KFP's own store."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deepcuts.components.core.nodepools import parse
from tests.kfp.conftest import EXAMPLES, ROOT, SMALL, Client, kubectl

pytestmark = pytest.mark.kfp
OVERLAY = ROOT / "manifests" / "overlays" / "laptop"
REPLACED = ("deepcuts-nodepools", "deepcuts-store")
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "": 1}


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Path]:
    """Deploy a copy of the manifests whose pools have the node's size; the ConfigMaps before come back."""
    before = json.loads(kubectl("get", "configmap", *REPLACED, "-o", "json"))["items"]
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    shutil.copy(ROOT / "Makefile", tmp_path)
    pools = tmp_path / OVERLAY.relative_to(ROOT) / "nodepools.yaml"
    edited = yaml.safe_load(pools.read_text())
    for pool in edited["pools"]:
        pool |= allocatable()
    pools.write_text(yaml.safe_dump(edited, sort_keys=False))
    words = ["make", "deploy", "OVERLAY=laptop", f"TAG={os.environ['DEEPCUTS_TAG']}"]
    subprocess.run(words, cwd=tmp_path, check=True)
    try:
        yield pools
    finally:
        for item in before:
            patch = json.dumps({"data": item["data"]})
            kubectl("patch", "configmap", item["metadata"]["name"], "--type=merge", "-p", patch)


def allocatable() -> dict[str, float]:
    """What ``kubectl describe node`` lists of the node without taints."""
    for node in json.loads(kubectl("get", "nodes", "-o", "json"))["items"]:
        if not node["spec"].get("taints"):
            free = node["status"]["allocatable"]
            unit = free["memory"].lstrip("0123456789")
            size = int(free["memory"].removesuffix(unit)) * UNITS[unit]
            return {"cpu_cores": float(free["cpu"]), "memory_bytes": size}
    pytest.skip("every node has a taint: a laptop's has none")


def test_main_pipeline_is_released_on_the_one_node(deepcuts: Client, deployed: Path, fresh: str):
    pools = {"DEEPCUTS_NODEPOOLS": str(deployed)}
    given = SMALL | {
        "base_uri": str(EXAMPLES / "base"),
        "data_uri": str(EXAMPLES / "support.jsonl"),
        "release_name": f"laptop-{fresh}",
        "seed": int(fresh[:6], 16) + 6,
    }
    (deepcuts.folder / "laptop.yaml").write_text(json.dumps(given))
    planned = deepcuts("plan", "finetune", "-f", "laptop.yaml", **pools)
    assert planned.returncode == 0, planned
    done = deepcuts.submit("finetune", given, title=f"laptop-{fresh}", **pools)
    assert done.code == 0, done.told
    known = parse(yaml.safe_load(deployed.read_text()))
    assert {task.pool for task in done.record.tasks.values()} <= known.keys()
    book = done.ledger()
    assert book["total"]["node_seconds"] > 0
    assert book["total"]["unknown"] > 0, "the overlay's pools have no price, so no dollar is shown"


def test_every_image_of_the_deployed_manifests_has_the_tag_that_was_built(deployed: Path):
    jobs = json.loads(kubectl("get", "cronjobs", "-l", "app.kubernetes.io/managed-by=deepcuts", "-o", "json"))
    specs = [job["spec"]["jobTemplate"]["spec"]["template"]["spec"] for job in jobs["items"]]
    images = {c["image"] for spec in specs for c in [*spec["containers"], *spec.get("initContainers", [])]}
    assert images and all(image.endswith(f":{os.environ['DEEPCUTS_TAG']}") for image in images)
