"""Select and ingest on a RayJob of a real cluster, by KubeRay's own operator."""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deepcuts.components.core import carry, examples, executor_input
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.store import open_store
from tests.cluster import task_pods
from tests.cluster.conftest import Kubectl
from tests.cluster.kuberay import operator
from tests.cluster.task_pods import kill, start, task_pod
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
    """A pod of ``step``."""
    given = given | {"ray_image": f"localhost/deepcuts/train:{tag}"}
    words = [word for flag, value in given.items() for word in (executor_input.flag_of(flag), value)]
    inputs = {f"{place}/{one}": f"/scratch/in/{one}" for one in INPUTS[step]}
    return task_pod(name, tag, f"deepcuts.components.{step}.step", words, inputs, [])


until = functools.partial(task_pods.until, kinds="rayjobs,pods")
end_of = functools.partial(task_pods.end_of, kinds="rayjobs,pods")


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
    here, store, kuberay, tag, corpus
):
    def rayjob() -> Json:
        items: list[Json] = json.loads(kuberay("rayjobs", "-o", "json") or '{"items": []}')["items"]
        return items[0] if items else {}

    place = f"{store}/two"
    given = flags("select", corpus, place) | {"semantic_threshold": "0.8"}
    start(here, launcher("killed", tag, "select", place, given))
    until(here, rayjob)
    first = rayjob()
    kill(here)
    assert end_of(here, "killed")[0] == 137
    start(here, launcher("next", tag, "select", place, given))
    assert first["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "deepcuts"
    assert rayjob()["metadata"]["uid"] == first["metadata"]["uid"]
    code, log = end_of(here, "next")
    assert code == 0, log
    (receipt,) = [json.loads(line) for line in log.splitlines() if line.startswith('{"step"')]
    assert receipt["facts"]["ray_workers"] == 2 and receipt["facts"]["rayjob"] == first["metadata"]["name"]
    assert receipt["facts"]["dropped_semantic_duplicate"] > 0
    until(here, lambda: not rayjob(), seconds=120)
    local = test_select_ray.made(corpus, "local", semantic_threshold=0.8)
    assert outputs(place) == local


def test_a_cancelled_selection_leaves_nothing_behind(here, store, kuberay, tag, corpus):
    place = f"{store}/cancelled"
    start(here, launcher("cancelled", tag, "select", place, flags("select", corpus, place)))
    until(here, lambda: kuberay("pods", "-l", "ray.io/node-type=head"))
    here("delete", "pod", "cancelled", "--wait=false")
    gone = ("pods", "-l", "ray.io/is-ray-node=yes")
    until(here, lambda: not kuberay("rayjobs") and not kuberay(*gone), seconds=300)


def test_data_that_is_refused_on_a_rayjob_ends_the_step_with_its_code_and_a_quarantine(
    here, store, kuberay, tag, tmp_path
):
    tiny.base(tmp_path / "base")
    (tmp_path / "raw").write_text('{"prompt": "a", "completion": "b"}\n' * 9 + '{"prompt": 1,\n')
    place = f"{store}/refused"
    given = flags("ingest", tmp_path, place) | {"max_bad_share": "0.01"}
    start(here, launcher("refused", tag, "ingest", place, given))
    code, log = end_of(here, "refused")
    assert code == 3, log
    assert "1 of 10 rows are bad" in log and "/scratch/out/quarantine" in log
    (row,) = [json.loads(line) for line in outputs(place)["quarantine"].splitlines()]
    assert (row["file"], row["line"]) == ("raw", 10)
