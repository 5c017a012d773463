"""Select and ingest on a RayJob of a real cluster, by KubeRay's own operator."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deepcuts.components.core import carry, examples, pods
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.store import open_store
from tests.cluster.conftest import RUNNER, Kubectl
from tests.cluster.kuberay import operator
from tests.components import test_ingest_ray, test_select_ray
from tests.conftest import ROOT
from tests.training import tiny

pytestmark = pytest.mark.cluster
Json = dict[str, Any]
POOL = {
    "name": "cpu",
    "selector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "nvidia.com/gpu"}, {"key": "cloud.google.com/gke-spot"}],
    "cpu_cores": 2,
    "memory_bytes": 2**33,
    "queue": "deepcuts",
}
"""All nodes of the test cluster, whose two cores do not hold three pods."""
CLUSTER = {"workers": 2, "cpu": 1, "memory": "2Gi", "pool": "cpu", "max_hours": 0.5}
INPUTS = {"select": ("base", "corpus", "valid", "test"), "ingest": ("base", "raw")}


@pytest.fixture(scope="module")
def kuberay(
    kubectl: Kubectl, namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., str]]:
    """``kubectl get`` in a namespace with KubeRay and our manifests for it."""
    for name in ("access", "network"):
        told = kubectl("-n", namespace, "apply", "-f", str(ROOT / "manifests/options/ray" / f"{name}.yaml"))
        assert "Warning" not in told
    with operator(kubectl, namespace, tmp_path_factory.mktemp("kuberay") / "log"):
        yield lambda *words: kubectl("-n", namespace, "get", *words, "--ignore-not-found")
        kubectl("-n", namespace, "delete", "rayjobs,pods", "--all", "--wait=false")


def flags(step: str, folder: Path, place: str) -> dict[str, str]:
    """Flags of ``step``, whose inputs in ``folder`` are put into the store at ``place``."""
    given = (
        test_select_ray.values(folder, "ray") if step == "select" else test_ingest_ray.values(folder, "ray")
    )
    for name in INPUTS[step]:
        carry.put(f"{place}/{name}", folder / name)
        given[name] = f"/scratch/in/{name}"
    made = test_select_ray.OUTPUTS if step == "select" else test_ingest_ray.OUTPUTS
    given |= {name: f"/scratch/out/{name}" for name in made} | {"store": f"{place}/store"}
    given |= {"ray": json.dumps(CLUSTER), "nodepools": json.dumps({"pools": [POOL]})}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}


def launcher(name: str, tag: str, step: str, place: str, given: dict[str, str]) -> Json:
    """A pod of ``step`` as KFP makes it: its account, its inputs on its disk."""
    given = given | {"ray_image": f"localhost/deepcuts/train:{tag}"}
    words = [word for flag, value in given.items() for word in (f"--{flag.replace('_', '-')}", value)]
    asked = {"cpu": "200m", "memory": "1500Mi", "ephemeral-storage": "1Gi"}
    base = {
        "image": given["ray_image"],
        "env": pods.environment(),
        "securityContext": pods.LOCKED,
        "resources": {"requests": asked, "limits": asked | {"cpu": "2"}},
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    }
    # the first process of a container gets no SIGKILL from inside it
    shell = ["sh", "-c", '"$@" & echo $! > /scratch/pid; wait $!', "sh"] if name == "killed" else []
    command = [*shell, "python", "-m", f"deepcuts.components.{step}.step"]
    carried = ["python", "-m", "deepcuts.components.core.carry", "get"]
    brought = [word for one in INPUTS[step] for word in (f"{place}/{one}", f"/scratch/in/{one}")]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": pods.LABELS | {pods.POOL_LABEL: "cpu"}},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": RUNNER,
            "nodeSelector": {"node-pool": "cpu"},
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


def until(holds: Callable[[], object], what: Callable[[], str], seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(what())
        time.sleep(1)


def outputs(place: str) -> dict[str, bytes]:
    """What the RayJobs of a store made, by name."""
    store = open_store(f"{place}/store")
    keys = [key for key in store.list("rayjobs/") if "/outputs/" in key]
    return {key.rpartition("/")[2]: store.get_bytes(key) for key in keys}


@pytest.fixture
def corpus(tmp_path) -> Path:
    """A base and 60 rows, of which a third are copies."""
    tiny.base(tmp_path / "base")
    rows = [(f"what is {n % 40} and {n % 40} times {n % 7}?", f"{n % 40}") for n in range(60)]
    records = [
        Example(str(n), (Message("user", q), Message("assistant", a))) for n, (q, a) in enumerate(rows)
    ]
    examples.write(tmp_path / "corpus", records)
    examples.write(tmp_path / "valid", records[:3])
    examples.write(tmp_path / "test", records[5:7])
    return tmp_path


def test_two_workers_select_as_here_and_the_successor_of_a_killed_step_goes_on_with_them(
    kubectl, namespace, store, kuberay, tag, corpus
):
    def described() -> str:
        return kubectl("-n", namespace, "describe", "rayjobs,pods")

    def phase(name: str) -> str:
        return kuberay("pod", name, "-o", "jsonpath={.status.phase}")

    def rayjob() -> Json:
        items: list[Json] = json.loads(kuberay("rayjobs", "-o", "json") or '{"items": []}')["items"]
        return items[0] if items else {}

    place = f"{store}/two"
    given = flags("select", corpus, place) | {"semantic_threshold": "0.8"}
    for name in ("killed", "next"):
        pod = launcher(name, tag, "select", place, given)
        kubectl("-n", namespace, "create", "-f", "-", text=json.dumps(pod))
        if name == "killed":
            until(lambda: rayjob(), described)
            first = rayjob()
            kubectl(
                "-n",
                namespace,
                "exec",
                "killed",
                "-c",
                "main",
                "--",
                "sh",
                "-c",
                "kill -9 $(cat /scratch/pid)",
            )
            until(lambda: phase("killed") == "Failed", described, 60)
    assert first["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "deepcuts"
    assert rayjob()["metadata"]["uid"] == first["metadata"]["uid"]
    until(lambda: phase("next") in ("Succeeded", "Failed"), described)
    log = kubectl("-n", namespace, "logs", "next", "-c", "main")
    assert phase("next") == "Succeeded", log
    (receipt,) = [json.loads(line) for line in log.splitlines() if line.startswith('{"step"')]
    assert receipt["facts"]["ray_workers"] == 2 and receipt["facts"]["rayjob"] == first["metadata"]["name"]
    assert receipt["facts"]["dropped_semantic_duplicate"] > 0
    until(lambda: not rayjob(), described, 120)
    local = test_select_ray.made(corpus, "local", semantic_threshold=0.8)
    assert outputs(place) == local


def test_a_cancelled_selection_leaves_nothing_behind(kubectl, namespace, store, kuberay, tag, corpus):
    def described() -> str:
        return kubectl("-n", namespace, "describe", "rayjobs,pods")

    place = f"{store}/cancelled"
    pod = launcher("cancelled", tag, "select", place, flags("select", corpus, place))
    kubectl("-n", namespace, "create", "-f", "-", text=json.dumps(pod))
    until(lambda: kuberay("pods", "-l", "ray.io/node-type=head"), described)
    kubectl("-n", namespace, "delete", "pod", "cancelled", "--wait=false")
    until(
        lambda: not kuberay("rayjobs") and not kuberay("pods", "-l", "ray.io/is-ray-node=yes"), described, 300
    )


def test_data_that_is_refused_on_a_rayjob_ends_the_step_with_its_code_and_a_quarantine(
    kubectl, namespace, store, kuberay, tag, tmp_path
):
    def described() -> str:
        return kubectl("-n", namespace, "describe", "rayjobs,pods")

    tiny.base(tmp_path / "base")
    (tmp_path / "raw").write_text('{"prompt": "a", "completion": "b"}\n' * 9 + '{"prompt": 1,\n')
    place = f"{store}/refused"
    pod = launcher(
        "refused", tag, "ingest", place, flags("ingest", tmp_path, place) | {"max_bad_share": "0.01"}
    )
    kubectl("-n", namespace, "create", "-f", "-", text=json.dumps(pod))
    code = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}"
    until(lambda: kuberay("pod", "refused", "-o", code), described)
    log = kubectl("-n", namespace, "logs", "refused", "-c", "main")
    assert kuberay("pod", "refused", "-o", code) == "3", log
    assert "1 of 10 rows are bad" in log and "/scratch/out/quarantine" in log
    (row,) = [json.loads(line) for line in outputs(place)["quarantine"].splitlines()]
    assert (row["file"], row["line"]) == ("raw", 10)
