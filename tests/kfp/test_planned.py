"""Training and scoring go where their plan says: on a real server pods stand on those pools' nodes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.utils import parse_quantity

from deepcuts.pipelines.kubeflow import pods
from tests.kfp.conftest import EXAMPLES, SMALL, Client, Json, kubectl

pytestmark = pytest.mark.kfp
NVIDIA = "nvidia.com/gpu"


def pod_of(run_id: str, task: str) -> Json:
    """The last pod of a task."""
    items = json.loads(kubectl("get", "pods", "-l", f"pipeline/runid={run_id}", "-o", "json"))["items"]
    found = [
        pod
        for pod in items
        if pods.path_of(pod["metadata"]["annotations"].get(pods.NODE_ANNOTATION, "")) == task
        and any(container["name"] == "main" for container in pod["spec"]["containers"])
        and "-driver" not in pod["metadata"]["name"]
    ]
    last: Json = max(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    return last


def small_run(name: str, pools: Json, seed: int) -> dict[str, Any]:
    """Parameters of a finetune on the bundled example; the seed keeps it out of the cache."""
    return SMALL | {
        "base_uri": str(EXAMPLES / "base"),
        "data_uri": str(EXAMPLES / "support.jsonl"),
        "quantize_candidates": ["off"],
        "release_name": name,
        "seed": seed,
        "nodepools": pools,
    }


def priced(deepcuts: Client, **usd: float) -> Json:
    """The pools of this cluster at these prices."""
    pools: Json = yaml.safe_load(Path(deepcuts.environment["DEEPCUTS_NODEPOOLS"]).read_text())
    for pool in pools["pools"]:
        pool["usd_per_hour"] = usd[pool["name"].replace("-", "_")]
    return pools


def node_of(pool: str) -> str:
    (node,) = json.loads(kubectl("get", "nodes", "-l", f"node-pool={pool}", "-o", "json"))["items"]
    return str(node["metadata"]["name"])


@pytest.mark.parametrize(
    ("wish", "cpu_usd", "expected", "scored"),
    [
        ({}, 5.0, "gpu-spot", "gpu-spot"),  # the cheapest where the CPU node is dear
        ({}, 0.01, "cpu", "cpu"),  # training and its watcher share the node
        ({"spot": "never"}, 5.0, "gpu", "gpu"),
        ({"pool": "gpu"}, 0.01, "gpu", "cpu"),
    ],
)
def test_training_and_scoring_land_on_the_pools_that_their_plan_chose(
    deepcuts: Client, fresh: str, wish: dict[str, str], cpu_usd: float, expected: str, scored: str
):
    pools = priced(deepcuts, cpu=cpu_usd, gpu=0.82, gpu_spot=0.328)
    done = deepcuts.submit(
        "finetune", small_run(f"placed-{expected}-{fresh}", pools, int(fresh[:6], 16) + 11) | wish
    )
    assert done.code == 0, done.told
    pod = pod_of(done.record.run_id, "finetune")
    node = json.loads(kubectl("get", "node", pod["spec"]["nodeName"], "-o", "json"))
    assert node["metadata"]["labels"]["node-pool"] == expected
    assert done.record.tasks["finetune"].pool == expected
    (main,) = [container for container in pod["spec"]["containers"] if container["name"] == "main"]
    limits = main["resources"]["limits"]
    assert int(limits.get(NVIDIA, "0")) == (0 if expected == "cpu" else 1)
    assert parse_quantity(limits["memory"]) < 4 * 2**30  # of the model, not the node
    # a watcher goes where no accelerator is, whatever that costs
    for task, place in (("evaluate-before", scored), ("judge", scored), ("watch", "cpu")):
        pod = pod_of(done.record.run_id, task)
        node = json.loads(kubectl("get", "node", pod["spec"]["nodeName"], "-o", "json"))
        assert node["metadata"]["labels"]["node-pool"] == place, task
        assert done.record.tasks[task].pool == place, task
        (main,) = [container for container in pod["spec"]["containers"] if container["name"] == "main"]
        limits = main["resources"]["limits"]
        assert int(limits.get(NVIDIA, "0")) == (0 if place == "cpu" else 1), task
        assert parse_quantity(limits["memory"]) < 4 * 2**30, task
    row = done.ledger()["by_task"]["finetune"]
    assert row["unknown"] == 0 and row["usd"] > 0
    rows = (done.folder / "tasks/ledger/outputs/ledger/ledger.jsonl").read_text().splitlines()
    charged = {row["pool"] for row in map(json.loads, rows) if row["task"] == "finetune"}
    assert charged == {expected}


def test_the_ledger_bills_the_pool_that_the_nodes_labels_say(deepcuts: Client, fresh: str):
    """Two pools select the node of ``cpu``: the plan takes the cheaper, the labels say the other."""
    root = Path(__file__).parents[2]
    kubectl("apply", "-k", str(root / "manifests/options/node-labels"))
    pools = yaml.safe_load(Path(deepcuts.environment["DEEPCUTS_NODEPOOLS"]).read_text())
    (cpu,) = [pool for pool in pools["pools"] if pool["name"] == "cpu"]
    node = json.loads(kubectl("get", "nodes", "-l", "node-pool=cpu", "-o", "json"))["items"][0]
    name = node["metadata"]["labels"]["kubernetes.io/hostname"]
    exact = cpu | {"name": "exact", "selector": cpu["selector"] | {"kubernetes.io/hostname": name}}
    pools["pools"] = [*pools["pools"], exact | {"usd_per_hour": 7.0}]
    done = deepcuts.submit("finetune", small_run(f"labelled-{fresh}", pools, int(fresh[:6], 16) + 12))
    assert done.code == 0, done.told
    rows = (done.folder / "tasks/ledger/outputs/ledger/ledger.jsonl").read_text().splitlines()
    charged = {row["task"]: row["pool"] for row in map(json.loads, rows)}
    assert charged["evaluate_before"] == "exact", charged
