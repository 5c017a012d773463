"""A spot node that is drained, and a pool that is full: on a real server the run continues."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepcuts.components.core.store import open_store
from tests.kfp.conftest import Client, kubectl
from tests.kfp.test_failures import LONG, Start
from tests.kfp.test_planned import node_of, pod_of, priced, small_run

pytestmark = pytest.mark.kfp


def test_a_run_on_a_spot_node_that_is_drained_goes_on_from_its_checkpoint(
    deepcuts: Client, fresh: str, during: Start
):
    """A drained pod ends by itself, so Argo takes it for failed and does not retry: the client does."""
    pools = priced(deepcuts, cpu=5.0, gpu=0.82, gpu_spot=0.328)
    node, title = node_of("gpu-spot"), f"drained-{fresh}"

    store_uri = f"minio://mlpipeline/{title}"

    def drain() -> None:
        end = time.monotonic() + 900
        while not saved(store_uri):
            assert time.monotonic() < end, "no checkpoint to resume from"
            time.sleep(1)
        kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s")
        kubectl("uncordon", node)

    during(drain)
    given = small_run(title, pools, int(fresh[:6], 16) + 21)
    given |= {"recipe": LONG["recipe"], "store_uri": store_uri}
    drained = deepcuts.submit("finetune", given, "--resubmit", 1, title=title)
    assert drained.code == 0, drained.told
    last = deepcuts.folder / "runs" / f"{title}-2"
    for folder in (drained.folder, last):
        rows = (folder / "tasks/ledger/outputs/ledger/ledger.jsonl").read_text().splitlines()
        attempts = [row for row in map(json.loads, rows) if row["task"] == "finetune"]
        assert attempts and {row["pool"] for row in attempts} == {"gpu-spot"}
    assert drained.ledger()["wasted"]["node_seconds"] > 0
    receipt = json.loads((last / "tasks/finetune/receipt.json").read_text())
    assert receipt["facts"]["resumed_at_step"] > 0


def saved(store_uri: str) -> bool:
    """Tell whether a training has committed a checkpoint."""
    keys = open_store(store_uri).list("trainings/")
    return any("/step-" in key and key.endswith("/manifest.json") for key in keys)


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
    done = deepcuts("submit", "finetune", "-f", f"{title}.yaml", "--name", title, "--next-pool-after", 10)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "pool gpu had no room for 10 minutes: submitting again without it" in told
    run = json.loads((deepcuts.folder / "runs" / f"{title}-2" / "run.json").read_text())
    assert run["tasks"]["finetune"]["pool"] == "gpu-spot"
    node = pod_of(run["run_id"], "finetune")["spec"]["nodeName"]
    assert node == node_of("gpu-spot")
