"""The main pipeline as pods on real nodes: placement, artifacts in MinIO, lost pods, outages, memory."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core.store import open_store
from pipelines import pools
from tests.cluster.conftest import Kubectl
from tests.cluster.kfp import BUCKET, Ended, Run
from tests.conftest import ROOT

pytestmark = pytest.mark.cluster
EXAMPLES = ROOT / "pipelines" / "examples"
RECIPE = {
    "method": "lora",
    "lora_rank": 4,
    "learning_rate": 5e-3,
    "budget_tokens": 40_000,
    "batch_tokens": 1024,
    "block_length": 256,
    "save_every_seconds": 0.2,  # a checkpoint a step or two: whatever happens, happens near one
}
Compile = Callable[..., Path]


@pytest.fixture(scope="module")
def compiled(tag: str, tmp_path_factory: pytest.TempPathFactory) -> Compile:
    def compile_finetune(**swapped: str) -> Path:
        """The main pipeline with our images; ``gpu="gpu-spot"`` puts tasks of the one pool on the other."""
        folder = tmp_path_factory.mktemp("compiled")
        known = yaml.safe_load(pools.NODEPOOLS.read_text())["pools"]
        by_name = {pool["name"]: pool for pool in known}
        chosen = [by_name[swapped.get(name, name)] | {"name": name} for name in by_name]
        (folder / "nodepools.yaml").write_text(yaml.safe_dump({"pools": chosen}))
        environment = os.environ | {"DEEPCUTS_TAG": tag, "DEEPCUTS_NODEPOOLS": str(folder / "nodepools.yaml")}
        words = ["compile", "finetune", "--output", str(folder / "finetune.yaml")]
        code = "from pipelines.command.cli import main; main()"
        subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, env=environment, check=True)
        return folder / "finetune.yaml"

    return compile_finetune


@pytest.fixture(scope="module")
def arguments(store: str) -> dict[str, Any]:
    """Of a run on the bundled example, 400 conversations of it, small enough for seconds a task."""
    objects = open_store(store)
    for path in (EXAMPLES / "base").iterdir():
        objects.put(f"base/{path.name}", path)
    lines = (EXAMPLES / "support.jsonl").read_text().splitlines(keepends=True)[:400]
    objects.put_bytes("data.jsonl", "".join(lines).encode())
    return {
        "base_uri": f"{store}/base",
        "data_uri": f"{store}/data.jsonl",
        "store_uri": f"{store}/main",
        "max_tokens": 256,
        "max_examples": 20,
        "recipe": RECIPE,
        "nodepools": yaml.safe_load(pools.NODEPOOLS.read_text()),
    }


@pytest.fixture(scope="module")
def main_run(compiled: Compile, arguments: dict[str, Any], namespace: str) -> tuple[Run, dict[str, Ended]]:
    run = Run(compiled(), arguments, namespace)
    return run, run.all()


def test_every_step_of_the_main_pipeline_ends_well_as_a_pod(main_run):
    _, ended = main_run
    assert set(ended) >= {"fetch-model", "ingest", "finetune", "watch", "evaluate", "accept", "ledger"}


def test_training_holds_the_gpu_node_and_everything_else_the_cpu_node(main_run):
    _, ended = main_run
    assert {name: pod.node for name, pod in ended.items()} == {
        name: "gpu-0" if name == "finetune" else "cpu-0" for name in ended
    }


def test_watch_scores_checkpoints_while_the_training_still_runs(main_run):
    run, ended = main_run
    assert ended["watch"].span[0] < ended["finetune"].span[1]
    assert receipt(run, "watch")["facts"]["scored_checkpoints"] >= 1


def test_artifacts_and_receipts_with_their_pool_are_in_the_store(main_run):
    run, ended = main_run
    pools = {name: receipt(run, name)["pool"] for name in ended}
    assert pools == {name: "gpu" if name == "finetune" else "cpu" for name in ended}
    ledger = json.loads(objects().get_bytes(f"{run.key('ledger', 'ledger')}/ledger.json"))
    assert {"before", "after", "served"} == set(ledger["scorecards"])


def test_drained_spot_node_another_one_goes_on_to_the_same_weights(
    main_run, compiled, arguments, namespace, store, kubectl
):
    lost = retry_of(
        main_run[0], compiled(gpu="gpu-spot"), arguments | {"store_uri": f"{store}/spot"}, namespace
    )
    lost.start("finetune")
    wait_for_checkpoint(f"{store}/spot")
    with drained(kubectl, "spot-0"):
        kubectl("label", "node", "gpu-0", "node-pool=gpu-spot", "--overwrite")
        kubectl("taint", "node", "gpu-0", "cloud.google.com/gke-spot=true:NoSchedule")
        try:
            second = lost.run("finetune")  # what Argo does about a lost pod
        finally:
            kubectl("taint", "node", "gpu-0", "cloud.google.com/gke-spot-")
            kubectl("label", "node", "gpu-0", "node-pool=gpu", "--overwrite")
    assert (second.node, second.code) == ("gpu-0", 0), second.log
    facts = receipt(lost, "finetune")
    assert facts["attempt"] == 2 and facts["facts"]["resumed_at_step"] > 0
    assert weights(lost) == weights(main_run[0])


def test_store_away_for_30_seconds_amid_checkpoints_changes_no_weight(
    main_run, compiled, arguments, namespace, store, kubectl
):
    run = retry_of(main_run[0], compiled(), arguments | {"store_uri": f"{store}/outage"}, namespace)
    pod = run.start("finetune")
    wait_for_checkpoint(f"{store}/outage")
    kubectl("-n", "kubeflow", "scale", "deployment", "minio", "--replicas=0")
    try:
        time.sleep(30)
    finally:
        kubectl("-n", "kubeflow", "scale", "deployment", "minio", "--replicas=1")
        kubectl("-n", "kubeflow", "rollout", "status", "deployment", "minio", "--timeout=60s")
    ended = run.wait(pod)
    assert ended.code == 0, ended.log
    assert "trying again" in ended.log
    assert weights(run) == weights(main_run[0])


def test_step_killed_for_memory_is_told_as_such_and_goes_on_with_more(
    main_run, compiled, arguments, namespace, store
):
    run = retry_of(main_run[0], compiled(), arguments | {"store_uri": f"{store}/memory"}, namespace)
    killed = run.run("finetune", memory="200Mi")
    assert (killed.code, killed.reason) == (137, "OOMKilled")
    again = run.run("finetune")
    assert again.code == 0, again.log
    assert weights(run) == weights(main_run[0])


def test_wrong_credentials_end_a_step_within_seconds_and_name_the_variable(compiled, arguments, namespace):
    run = Run(compiled(), arguments, namespace)
    ended = run.run("fetch-model", env={"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert ended.code == 2
    assert "SignatureDoesNotMatch" in ended.log and "check AWS_SECRET_ACCESS_KEY" in ended.log
    assert (ended.span[1] - ended.span[0]).total_seconds() < 15


def test_attempt_after_a_final_end_does_no_work(compiled, arguments, namespace):
    run = Run(compiled(), arguments | {"base_uri": arguments["base_uri"] + "-nowhere"}, namespace)
    first, second = run.run("fetch-model"), run.run("fetch-model")
    assert (first.code, second.code) == (3, 3)
    (message,) = {
        line for pod in (first, second) for line in pod.log.splitlines() if line.startswith("fetch")
    }
    assert "nowhere" in message


def objects() -> Any:
    return open_store(f"minio://{BUCKET}")


def receipt(run: Run, task: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(objects().get_bytes(run.key(task, "receipt")))
    return found


def weights(run: Run) -> str:
    """SHA-256 of the trained adapter."""
    (key,) = [
        k for k in objects().list(run.key("finetune", "model") + "/") if k.endswith("model.safetensors")
    ]
    return str(objects().sha256(key))


def retry_of(done: Run, package: Path, arguments: dict[str, Any], namespace: str) -> Run:
    """A run to which the tasks of ``done`` count as done, as if from KFP's cache."""
    run = Run(package, arguments, namespace)
    run.made = {name: made for name, made in done.made.items() if name != "finetune"}
    return run


def wait_for_checkpoint(url: str, seconds: float = 120) -> None:
    store, end = open_store(url), time.monotonic() + seconds
    while not any(key.endswith("/manifest.json") for key in store.list("trainings/")):
        assert time.monotonic() < end, f"no checkpoint under {url} after {seconds} s"
        time.sleep(0.1)


@contextmanager
def drained(kubectl: Kubectl, node: str) -> Iterator[None]:
    """Take a node's pods away as its cloud does; the node comes back at the end."""
    try:
        kubectl("drain", node, "--force", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s")
        yield
    finally:
        kubectl("uncordon", node)
