"""Trainings in pods of a real cluster, by Trainer's CRDs and a controller of ours."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from kubernetes import client
from safetensors.torch import load_file

from deepcuts.components.core import attempts as attempt_files
from deepcuts.components.core import carry, executor_input, receipts, run_records
from deepcuts.components.core.spread import SPREAD, Spread
from deepcuts.components.core.store import open_store
from deepcuts.components.trainjob.job import trainjob
from deepcuts.components.trainjob.node_task import NodeTask
from tests.cluster import task_pods
from tests.cluster.conftest import RUNNER, Kubectl
from tests.cluster.task_pods import kill, start, task_pod
from tests.cluster.trainer import TrainerController, definitions
from tests.components.trainer import CPUS
from tests.conftest import ROOT
from tests.training import tiny

pytestmark = pytest.mark.cluster
Json = dict[str, Any]
NODES = msgspec.structs.replace(CPUS, cpu="500m", memory="1500Mi")
FOUR = msgspec.structs.replace(CPUS, nodes=4, cpu="250m", memory="1200Mi")
PAIR = msgspec.structs.replace(
    NODES,
    selector={"test-pair": "yes"},
    taints=[
        {"key": key, "operator": "Exists", "effect": "NoSchedule"}
        for key in ("nvidia.com/gpu", "cloud.google.com/gke-spot")
    ],
    queue="team",
    accelerator="nvidia.com/gpu",  # a number in the node's status, one a node: no room for two pods on one
    devices=1,
)
STEP = "deepcuts.components.finetune.step"
NAMES = ("base", "train", "valid")
CRDS = ["trainjobs.trainer.kubeflow.org", "trainingruntimes.trainer.kubeflow.org"]


@pytest.fixture(scope="module")
def controller(kubectl: Kubectl, namespace: str) -> Iterator[TrainerController]:
    """Trainer in the namespace, as far as a training needs it, with our manifests."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=definitions())
    kubectl("wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{name}" for name in CRDS))
    for name in ("access", "network", "runtime"):
        told = kubectl("-n", namespace, "apply", "-f", str(ROOT / "manifests/trainer" / f"{name}.yaml"))
        assert "Warning" not in told
    made = TrainerController(namespace)
    yield made
    made.stop()
    kubectl("delete", "crd", *CRDS, "--wait=false")


@pytest.fixture
def pair(kubectl: Kubectl) -> Iterator[None]:
    """Nodes of a pool for two, of which each has room for one pod."""
    nodes = ("node/gpu-0", "node/spot-0")
    kubectl("label", *nodes, *(f"{key}={value}" for key, value in PAIR.selector.items()), "--overwrite")
    yield
    kubectl("label", *nodes, *(f"{key}-" for key in PAIR.selector))


def executor(folder: Path, place: str, nodes: Spread, **recipe: object) -> Json:
    """What KFP tells the task; its inputs lie in the store."""
    tiny.base(folder / "base")
    tiny.write_sums(folder / "train", 60)
    (folder / "valid").write_text("")
    for name in NAMES:
        carry.put(f"{place}/run/prepare/x/{name}", folder / name)

    def artifact(task: str, name: str) -> Json:
        own = {"uri": f"{place}/run/{task}/x/{name}", "customPath": f"/scratch/{task}/{name}"}
        return {"artifacts": [own]}

    values = {
        "store": f"{place}/store",
        "recipe": tiny.RECIPE | {"strategy": "ddp", "precision": "fp32"} | recipe,
        SPREAD: msgspec.to_builtins(nodes),
        "placed_on": "cpu",
    }
    made = {name: artifact("finetune", name) for name in ("model", "curve", "receipt")}
    given = {name: artifact("prepare", name) for name in NAMES}
    return {
        "inputs": {"parameterValues": values, "artifacts": given},
        "outputs": {"outputFile": "/scratch/out.json", "artifacts": made},
    }


def launcher(name: str, tag: str, task: Json) -> Json:
    """A pod of the task, with its name for the container."""
    flags = (*NAMES, "model", "curve", "store", "recipe")
    words = [word for flag in flags for word in (f"--{flag}", f"$.{flag}")]
    words += ["--receipt", "/scratch/finetune/receipt", "--executor-input", json.dumps(task)]
    given = [value["artifacts"][0] for value in task["inputs"]["artifacts"].values()]
    inputs = {one["uri"]: str(executor_input.path_of(one)) for one in given}
    own = {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    return task_pod(name, tag, STEP, words, inputs, [own])


until = functools.partial(task_pods.until, kinds="pods,jobs,trainjobs")
end_of = functools.partial(task_pods.end_of, kinds="pods,jobs,trainjobs")


def receipt(log: str) -> Json:
    """The receipt of the task, after that of the first node, whose log it shows."""
    found: Json = json.loads([line for line in log.splitlines() if line.startswith('{"step"')][-1])
    return found


def rows(task: Json) -> dict[str, list[receipts.Receipt]]:
    """Receipts of every pod by node."""
    root, prefix = attempt_files.of_task(task)
    objects = open_store(root)
    return run_records.attempts(objects, "finetune", objects.list(f"{prefix.rpartition('/')[0]}/"))


def has_saved(task: Json) -> bool:
    """Whether a checkpoint is committed."""
    objects = open_store(task["inputs"]["parameterValues"]["store"])
    return any(key.endswith("manifest.json") for key in objects.list("trainings/"))


def alone(folder: Path, task: Json) -> None:
    """Train what the task trains, in one process here."""
    names = {name: folder / name for name in (*NAMES, "model", "curve", "receipt")}
    recipe = json.dumps(task["inputs"]["parameterValues"]["recipe"])
    words = tiny.argv({**names, "store": (folder / "store").as_uri(), "recipe": recipe})
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", STEP, *words], cwd=ROOT, env=environment, check=True)


def test_trainjob_and_its_pods_pass_the_api_servers_dry_run(kubectl, namespace, controller):
    words = ["create", "--dry-run=server", "--validate=strict", "-f", "-"]
    task = NodeTask(
        module="m",
        step="finetune",
        flags={},
        inputs={},
        outputs={},
        root="s3://b",
        prefix="p",
        pool="cpu",
        devices=0,
    )
    made = trainjob("deepcuts-0123456789ab", "localhost/deepcuts/train:dev", NODES, task)
    told = kubectl("-n", namespace, *words, text=json.dumps(made))
    assert "created (server dry run)" in told and "Warning" not in told, told
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "pods"}}
    job |= {"spec": controller.spec(made, {"jobset.sigs.k8s.io/jobset-name": "x"})}
    told = kubectl("-n", namespace, *words, text=json.dumps(job))
    assert "created (server dry run)" in told and "Warning" not in told, told  # not what restricted refuses
    made["spec"]["podSpecOverrides"] = []
    with pytest.raises(AssertionError, match="podSpecOverrides"):
        kubectl("-n", namespace, *words, text=json.dumps(made))


def test_rights_are_enough_to_train_on_nodes_and_no_more(kubectl, namespace, controller):
    def may(verb: str, kind: str) -> bool:
        account = f"system:serviceaccount:{namespace}:{RUNNER}"
        try:
            told = kubectl("-n", namespace, "auth", "can-i", verb, kind, f"--as={account}")
        except AssertionError:  # kubectl says no by its exit code
            return False
        return "yes" in told

    kind = "trainjobs.trainer.kubeflow.org"
    assert all(may(verb, kind) for verb in ("create", "get", "delete"))
    assert may("list", "pods") and may("get", "pods/log")
    assert not may("update", kind) and not may("delete", "pods") and not may("create", "pods")


def test_a_cancelled_training_leaves_nothing_behind(here, store, controller, tag, tmp_path):
    def get(kind: str) -> str:
        return here("get", kind, "--ignore-not-found", "-o", "name")

    task = executor(tmp_path, f"{store}/cancelled", NODES, budget_tokens=500_000, schedule_tokens=500_000)
    start(here, launcher("cancelled", tag, task))
    until(here, lambda: "job.batch" in get("jobs"))
    here("delete", "pod", "cancelled", "--wait=false")
    until(here, lambda: not get("trainjobs") and not get("jobs"), seconds=120)


def test_two_nodes_train_as_one_process_does_and_the_successor_of_a_killed_task_goes_on_with_them(
    here, store, controller, tag, pair, tmp_path
):
    before = len(controller.seen)
    # steps so small that Adam does not make much of the last digit
    small = {"learning_rate": 1e-3, "micro_batch_size": 1, "tokens_per_step": 320}
    task = executor(tmp_path, f"{store}/two", PAIR, **small, budget_tokens=3200, save_every_seconds=0.2)
    start(here, launcher("killed", tag, task))
    until(here, lambda: has_saved(task))
    assert here("get", "trainjobs", "-l", "kueue.x-k8s.io/queue-name=team", "-o", "name").strip()
    nodes = here("get", "pods", "-l", "app=deepcuts-training", "-o", "jsonpath={.items[*].spec.nodeName}")
    assert sorted(nodes.split()) == ["gpu-0", "spot-0"]
    kill(here)
    assert end_of(here, "killed")[0] == 137
    start(here, launcher("next", tag, task))
    code, log = end_of(here, "next")
    assert code == 0, log
    facts = receipt(log)["facts"]
    assert facts["processes"] == facts["nodes"] == 2
    assert "% " in log  # the first node's log
    assert len(controller.seen) == before + 1, "adopted, not made again"
    assert not here("get", "trainjobs", "-o", "name").strip()
    for number in (0, 1):
        (node,) = rows(task)[f"finetune_node_{number}"]
        assert (node.end_reason, node.pool) == ("ok", "cpu") and node.wall_seconds > 1

    root, prefix = attempt_files.of_task(task)
    for name in ("model", "curve"):
        carry.get(f"{root}/{prefix}/made/{name}", tmp_path / "pods" / name)
    alone(tmp_path, task)
    curves = [(folder / "curve").read_text().splitlines() for folder in (tmp_path, tmp_path / "pods")]
    losses = [[json.loads(line)["loss"] for line in curve] for curve in curves]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    one, two = (load_file(f / "model/model.safetensors") for f in (tmp_path, tmp_path / "pods"))
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


def test_bad_data_ends_the_trainjob_and_its_task_with_the_code_and_message_of_a_pod(
    here, store, controller, tag, tmp_path
):
    before = len(controller.seen)
    task = executor(tmp_path, f"{store}/bad", NODES)
    (tmp_path / "train").write_text("{}\n")
    carry.put(task["inputs"]["artifacts"]["train"]["artifacts"][0]["uri"], tmp_path / "train")
    start(here, launcher("bad", tag, task))
    code, log = end_of(here, "bad")
    assert code == 3, log
    assert receipt(log)["end_reason"] == "data" and "node " in receipt(log)["message"]
    assert len(controller.seen) == before + 1
    assert not here("get", "trainjobs", "-o", "name").strip()


def test_four_pods_resume_from_their_shards_when_the_node_of_one_is_taken_away(
    here, namespace, store, controller, tag, tmp_path
):
    long = {"budget_tokens": 8000, "schedule_tokens": 8000, "save_every_seconds": 0.5}
    task = executor(tmp_path, f"{store}/four", FOUR, strategy="fsdp", **long)
    start(here, launcher("four", tag, task))
    until(here, lambda: has_saved(task))
    label = "app=deepcuts-training,batch.kubernetes.io/job-completion-index=2"
    third = here("get", "pods", "-l", label, "-o", "jsonpath={.items[0].metadata.name}").strip()
    eviction = client.V1Eviction(metadata=client.V1ObjectMeta(name=third))
    client.CoreV1Api().create_namespaced_pod_eviction(third, namespace, eviction)  # as drain does
    code, log = end_of(here, "four")
    assert code == 0, log
    facts = receipt(log)["facts"]
    assert (facts["processes"], facts["strategy"]) == (4, "fsdp")
    assert facts["resumed_at_step"] > 0
    found = rows(task)
    assert [len(found[f"finetune_node_{number}"]) for number in range(4)] == [2, 2, 2, 2]
    assert found["finetune_node_2"][0].end_reason == "preempted"
