"""A training on two pods of a real cluster, by Trainer's CRDs and a controller of ours."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deepcuts.components.core import attempts as attempt_files
from deepcuts.components.core import carry, executor_input, pods, run_records
from deepcuts.components.core.spread import SPREAD, Spread
from deepcuts.components.core.store import open_store
from deepcuts.components.trainjob.job import trainjob
from deepcuts.components.trainjob.node_task import NodeTask
from tests.cluster.conftest import RUNNER, Kubectl
from tests.cluster.trainer import TrainerController, definitions
from tests.conftest import ROOT
from tests.training import tiny

pytestmark = pytest.mark.cluster
Json = dict[str, Any]
NODES = Spread(
    nodes=2,
    pool="cpu",
    selector={"node-pool": "cpu"},
    taints=[],
    queue="",
    cpu="500m",
    memory="1500Mi",
    accelerator="",
    devices=0,
)
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


def executor(folder: Path, place: str, **recipe: object) -> Json:
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
        SPREAD: msgspec.to_builtins(NODES),
        "placed_on": "cpu",
    }
    made = {name: artifact("finetune", name) for name in ("model", "curve", "receipt")}
    given = {name: artifact("prepare", name) for name in NAMES}
    return {
        "inputs": {"parameterValues": values, "artifacts": given},
        "outputs": {"outputFile": "/scratch/out.json", "artifacts": made},
    }


def launcher(name: str, tag: str, task: Json) -> Json:
    """A pod of the task as KFP makes it: its account, its name for the container, its inputs on its disk."""
    flags = (*NAMES, "model", "curve", "store", "recipe")
    words = [word for flag in flags for word in (f"--{flag}", f"$.{flag}")]
    words += ["--receipt", "/scratch/finetune/receipt", "--executor-input", json.dumps(task)]
    given = [value["artifacts"][0] for value in task["inputs"]["artifacts"].values()]
    brought = [word for one in given for word in (one["uri"], executor_input.path_of(one))]
    asked = {"cpu": "200m", "memory": "1500Mi", "ephemeral-storage": "1Gi"}
    base = {
        "image": f"localhost/deepcuts/train:{tag}",
        "env": [
            *pods.environment(),
            {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "securityContext": pods.LOCKED,
        "resources": {"requests": asked, "limits": asked | {"cpu": "2"}},
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    }
    step = ["python", "-m", "deepcuts.components.finetune.step"]
    # the first process of a container gets no SIGKILL from inside it
    shell = ["sh", "-c", '"$@" & echo $! > /scratch/pid; wait $!', "sh"]
    command = [*shell, *step] if name == "killed" else step
    carried = ["python", "-m", "deepcuts.components.core.carry", "get"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": pods.LABELS | {pods.POOL_LABEL: "cpu"}},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": RUNNER,
            "nodeSelector": NODES.selector,
            "securityContext": {
                "runAsUser": pods.NOBODY,
                "runAsGroup": pods.NOBODY,
                "runAsNonRoot": True,
                "fsGroup": pods.NOBODY,
            },
            "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}}],
            "initContainers": [base | {"name": "get", "command": carried, "args": brought}],
            "containers": [base | {"name": "main", "command": command, "args": words}],
        },
    }


def until(holds: Callable[[], object], what: Callable[[], str], seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(what())
        time.sleep(1)


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


def test_a_cancelled_training_leaves_nothing_behind(kubectl, namespace, store, controller, tag, tmp_path):
    def get(*words: str) -> str:
        return kubectl("-n", namespace, "get", *words, "--ignore-not-found", "-o", "name")

    def described() -> str:
        return kubectl("-n", namespace, "describe", "pods,jobs,trainjobs")

    task = executor(tmp_path, f"{store}/cancelled", budget_tokens=500_000, schedule_tokens=500_000)
    pod = launcher("cancelled", tag, task)
    kubectl("-n", namespace, "create", "-f", "-", text=json.dumps(pod))
    until(lambda: "job.batch" in get("jobs"), described)
    kubectl("-n", namespace, "delete", "pod", "cancelled", "--wait=false")
    until(lambda: not get("trainjobs") and not get("jobs"), described, 120)


def test_two_pods_train_and_the_successor_of_a_killed_task_goes_on_with_them(
    kubectl, namespace, store, controller, tag, tmp_path
):
    def described() -> str:
        return kubectl("-n", namespace, "describe", "pods,jobs,trainjobs")

    def phase(name: str) -> str:
        return kubectl("-n", namespace, "get", "pod", name, "-o", "jsonpath={.status.phase}")

    before = len(controller.seen)
    task = executor(tmp_path, f"{store}/two")
    kubectl("-n", namespace, "create", "-f", "-", text=json.dumps(launcher("killed", tag, task)))
    until(lambda: len(controller.seen) > before, described)
    kubectl("-n", namespace, "exec", "killed", "-c", "main", "--", "sh", "-c", "kill -9 $(cat /scratch/pid)")
    until(lambda: phase("killed") == "Failed", described, 60)
    kubectl("-n", namespace, "create", "-f", "-", text=json.dumps(launcher("next", tag, task)))
    until(lambda: phase("next") in ("Succeeded", "Failed"), described)
    log = kubectl("-n", namespace, "logs", "next", "-c", "main")
    assert phase("next") == "Succeeded", log
    (receipt,) = [json.loads(line) for line in log.splitlines() if line.startswith('{"step"')]
    assert receipt["facts"]["processes"] == receipt["facts"]["nodes"] == 2
    assert "% " in log  # the first node's log
    assert len(controller.seen) == before + 1, "adopted, not made again"
    assert not kubectl("-n", namespace, "get", "trainjobs", "-o", "name").strip()
    root, prefix = attempt_files.of_task(task)
    objects = open_store(root)
    keys = objects.list(f"{prefix.rpartition('/')[0]}/")
    rows = run_records.attempts(objects, "finetune", keys)
    for number in (0, 1):
        (node,) = rows[f"finetune_node_{number}"]
        assert (node.end_reason, node.pool) == ("ok", "cpu") and node.wall_seconds > 1
