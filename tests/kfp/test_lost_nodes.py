"""A spot node that is drained, and a pool that is full: on a real server the run goes on."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kfp.conftest import Client, Json, kubectl
from tests.kfp.test_failures import LONG, Start, training
from tests.kfp.test_planned import pod_of, small_run

pytestmark = pytest.mark.kfp


def priced(deepcuts: Client, **usd: float) -> Json:
    """The pools of this cluster at these prices."""
    pools: Json = yaml.safe_load(Path(deepcuts.environment["DEEPCUTS_NODEPOOLS"]).read_text())
    for pool in pools["pools"]:
        pool["usd_per_hour"] = usd[pool["name"].replace("-", "_")]
    return pools


def node_of(pool: str) -> str:
    (node,) = json.loads(kubectl("get", "nodes", "-l", f"node-pool={pool}", "-o", "json"))["items"]
    return str(node["metadata"]["name"])


def test_a_run_on_a_spot_node_that_is_drained_goes_on_from_its_checkpoint(
    deepcuts: Client, fresh: str, during: Start
):
    pools = priced(deepcuts, cpu=5.0, gpu=0.82, gpu_spot=0.328)
    node, title = node_of("gpu-spot"), f"drained-{fresh}"

    def drain() -> None:
        end = time.monotonic() + 900
        while time.monotonic() < end:  # until it has trained for 20 s, and saved every 5
            if any(seconds > 20 for seconds in training_on(node)):
                break
            time.sleep(1)
        kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s")
        kubectl("uncordon", node)

    during(drain)
    given = small_run(title, pools, int(fresh[:6], 16) + 21)
    given |= {"recipe": LONG["recipe"], "store_uri": f"minio://mlpipeline/{title}"}
    done = deepcuts.submit("finetune", given, title=title)
    assert done.code == 0, done.told
    assert done.record.tasks["finetune"].pool == "gpu-spot"
    rows = (done.folder / "tasks/ledger/outputs/ledger/ledger.jsonl").read_text().splitlines()
    attempts = [row for row in map(json.loads, rows) if row["task"] == "finetune"]
    assert len(attempts) >= 2 and {row["pool"] for row in attempts} == {"gpu-spot"}
    assert done.ledger()["wasted"]["node_seconds"] > 0
    receipt = json.loads((done.folder / "tasks/finetune/receipt.json").read_text())
    assert receipt["facts"]["resumed_at_step"] > 0


def training_on(node: str) -> Iterator[float]:
    """Seconds for which each training on a node has run."""
    for name, seconds in training().items():
        if json.loads(kubectl("get", "pod", name, "-o", "json"))["spec"]["nodeName"] == node:
            yield seconds


@pytest.fixture
def taken(tmp_path: Path) -> Iterator[None]:
    """All accelerators of the GPU pool are in use by others."""
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "other-team"},
        "spec": {
            "nodeName": node_of("gpu"),
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "busy",
                    "image": "localhost/pause:1",
                    "resources": {"limits": {"nvidia.com/gpu": "1", "memory": "64Mi", "cpu": "50m"}},
                }
            ],
        },
    }
    (tmp_path / "pod.json").write_text(json.dumps(pod))
    kubectl("apply", "-f", str(tmp_path / "pod.json"))
    yield
    kubectl("delete", "pod", "other-team", "--ignore-not-found")


def test_a_run_whose_pool_is_full_takes_the_next_best(deepcuts: Client, fresh: str, taken: None):
    pools = priced(deepcuts, cpu=5.0, gpu=0.1, gpu_spot=0.9)
    title = f"full-{fresh}"
    (deepcuts.folder / f"{title}.yaml").write_text(
        json.dumps(small_run(title, pools, int(fresh[:6], 16) + 22))
    )
    done = deepcuts("submit", "finetune", "-f", f"{title}.yaml", "--name", title, "--next-pool-after", 1)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "pool gpu had no room for 1 minutes: submitting again without it" in told
    run = json.loads((deepcuts.folder / "runs" / f"{title}-2" / "run.json").read_text())
    assert run["tasks"]["finetune"]["pool"] == "gpu-spot"
    node = pod_of(run["run_id"], "finetune")["spec"]["nodeName"]
    assert node == node_of("gpu-spot")
