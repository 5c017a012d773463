"""RayJobs: the object, its life on a KubeRay that a test plays, and a step whose work is done there."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from deepcuts.components.core import examples, nodepools, pods
from deepcuts.components.core.api_server import connect
from deepcuts.components.core.attempts import POD_RECEIPTS
from deepcuts.components.core.cancel import sigterm
from deepcuts.components.core.errors import DataError, Preempted, StoreError
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.receipts import Receipt
from deepcuts.components.core.store import open_store
from deepcuts.components.rayjob import elsewhere, follow, work
from deepcuts.components.rayjob.cluster import RayJobs
from deepcuts.components.rayjob.job import rayjob
from deepcuts.components.rayjob.settings import RayCluster
from tests.components import test_ingest_ray
from tests.components.api_server import serving
from tests.components.kuberay import Json, KubeRay, ended
from tests.manifests.test_kserve import problems
from tests.training import tiny

POOL = {
    "name": "cpu",
    "selector": {"node-pool": "cpu"},
    "tolerations": [{"key": "dedicated", "value": "data"}],
    "cpu_cores": 8,
    "memory_bytes": 2**34,
    "queue": "deepcuts",
}
CLUSTER = RayCluster(workers=3, cpu=2, memory="4Gi", max_hours=2)
CRD = "ray-operator/config/crd/bases/ray.io_rayjobs.yaml"
SUCCEEDED = ended("Complete", "SUCCEEDED")


def made(**changed: Any) -> Json:
    pool = nodepools.parse({"pools": [POOL]})["cpu"]
    cluster = msgspec.structs.replace(CLUSTER, **changed)
    return rayjob("deepcuts-1", cluster, pool, "localhost/deepcuts/train:dev", "2.60.0", "s3://b/rayjobs/1")


def templates(job: Json) -> list[Json]:
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.fixture
def kuberay(tmp_path, monkeypatch):
    """A KubeRay in the namespace ``team``, to which KUBECONFIG leads; nothing waits."""
    server = KubeRay(lambda job: SUCCEEDED)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    with serving(server, tmp_path, "team") as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        connect("")
        yield server


def test_rayjob_cleans_up_after_itself_and_works_on_the_workers_alone():
    spec = made()["spec"]
    assert spec["entrypoint"] == "python -m deepcuts.components.rayjob.work s3://b/rayjobs/1"
    assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] == 600
    assert spec["activeDeadlineSeconds"] == 7200
    cluster = spec["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (workers,) = cluster["workerGroupSpecs"]
    assert {workers[key] for key in ("replicas", "minReplicas", "maxReplicas")} == {3}


def test_pods_of_a_rayjob_are_placed_and_locked_as_all_pods_of_steps_and_kueue_admits_the_whole():
    job = made()
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "deepcuts"
    for template in templates(job):
        assert template["metadata"]["labels"] == pods.LABELS | {"node-pool": "cpu"}
        spec = template["spec"]
        assert spec["nodeSelector"] == POOL["selector"] and spec["serviceAccountName"] == pods.ACCOUNT
        assert spec["tolerations"][0]["value"] == "data" and spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == pods.NOBODY
        (container,) = spec["containers"]
        assert container["securityContext"] == pods.LOCKED
        assert container["resources"]["limits"]["cpu"] == "2"
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
        assert {entry["name"] for entry in container["env"]} >= {"AWS_ACCESS_KEY_ID", "S3_ENDPOINT"}


def schema() -> Json:
    """KubeRay's own, from the clone in DEEPCUTS_KUBERAY."""
    if not (clone := os.environ.get("DEEPCUTS_KUBERAY")):
        pytest.skip("no CRD of KubeRay to check against: DEEPCUTS_KUBERAY names no clone of it")
    show = ["git", "-C", clone, "show", f"{os.environ.get('DEEPCUTS_KUBERAY_REF', 'HEAD')}:{CRD}"]
    text = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    crd = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # 1.4 MB
    (found,) = (v for v in crd["spec"]["versions"] if v["name"] == "v1" and v["served"])
    value: Json = found["schema"]["openAPIV3Schema"]
    return value


def test_rayjob_is_what_the_crd_of_kuberay_takes():
    crd = schema()
    assert list(problems(made(), crd)) == []
    wrong = made()
    wrong["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["nodeSelectors"] = {}
    assert ["nodeSelectors is not known" in problem for problem in problems(wrong, crd)] == [True]


def test_a_core_count_that_no_node_has_is_refused():
    with pytest.raises(ValueError, match="cpu 9"):
        made(cpu=9.0)


def test_rayjob_is_followed_to_its_end_and_one_that_runs_already_is_adopted(kuberay, capsys):
    states = [{}, {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, SUCCEEDED]
    kuberay.operate = lambda job: states.pop(0)
    jobs = RayJobs("team")
    jobs.create(made())
    end = follow.follow(jobs, made())
    assert end == follow.RayJobEnd("", 60.0, "uid-1") and len(kuberay.made) == 1
    said = capsys.readouterr().err
    assert "Running, job RUNNING" in said and "kubectl -n team get rayjob deepcuts-1" in said


def test_what_is_left_of_a_deleted_rayjob_is_waited_for(kuberay):
    jobs = RayJobs("team")
    jobs.create(made())
    kuberay.jobs["deepcuts-1"]["metadata"]["deletionTimestamp"] = "2026-11-30T10:00:00Z"

    def leave(job: Json) -> Json:
        if "deletionTimestamp" in job["metadata"]:
            kuberay.jobs.clear()
        return SUCCEEDED

    kuberay.operate = leave
    assert follow.follow(jobs, made()).uid == "uid-2"


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (404, "404 page not found", "install KubeRay"),
        (403, "rayjobs is forbidden", "kubectl apply -k manifests/options/ray"),
        (422, "spec.rayClusterSpec is invalid", "KubeRay refuses the RayJob: spec.rayClusterSpec is invalid"),
    ],
)
def test_what_the_cluster_refuses_is_said_with_the_remedy(kuberay, status, said, message):
    kuberay.refuse = [(404, "not found"), (status, said)]
    with pytest.raises(ValueError, match=message):
        follow.follow(RayJobs("team"), made())
    assert kuberay.made == []


def test_a_rayjob_that_was_deleted_meanwhile_is_not_waited_for(kuberay):
    kuberay.operate = lambda job: kuberay.jobs.clear() or {"jobDeploymentStatus": "Running"}
    with pytest.raises(DataError, match="was deleted"):
        follow.follow(RayJobs("team"), made())


def test_a_cancelled_step_deletes_its_rayjob_at_once(kuberay, monkeypatch):
    monkeypatch.setattr(follow, "POLL_SECONDS", 60.0)

    def operate(job: Json) -> Json:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}

    kuberay.operate = operate
    with pytest.raises(Preempted, match="deepcuts-1 is deleted"), sigterm():
        follow.follow(RayJobs("team"), made())
    assert len(kuberay.made) == 1 and kuberay.jobs == {}


CORPUS = [
    Example(str(n), (Message("user", f"what is {n % 5}?"), Message("assistant", str(n % 5))))
    for n in range(9)
]


@pytest.fixture
def given(tmp_path, s3_url) -> Json:
    """The values of a selection; its engine is local, so that no Ray is started where it is run."""
    pytest.importorskip("ray", reason="its version goes into the RayJob")
    tiny.base(tmp_path / "base")
    examples.write(tmp_path / "corpus", CORPUS)
    for name in ("valid", "test"):
        (tmp_path / name).write_text("")
    places = {name: tmp_path / name for name in ("base", "corpus", "valid", "test")}
    places |= {name: tmp_path / "out" / name for name in ("cut", "dropped", "report")}
    settings = {
        "method": "deduplicate-only",
        "budget_tokens": 0,
        "embedder_uri": "",
        "engine": "local",
        "seed": 0,
    }
    thresholds = {f"{name}_threshold": 1.0 for name in ("near", "word", "semantic")}
    pool = msgspec.convert({"pools": [POOL]}, nodepools.NodePools)
    cluster = {
        "ray": CLUSTER,
        "ray_image": "localhost/deepcuts/train:dev",
        "nodepools": pool,
        "store": s3_url,
    }
    return places | settings | thresholds | cluster


SELECT = "deepcuts.components.select.step", ("base", "corpus", "valid", "test"), ("cut", "dropped", "report")


def run(given: Json) -> Any:
    module, inputs, outputs = SELECT
    return elsewhere.run(module, given, inputs, outputs)


def operator(codes: list[int]) -> Any:
    """Run the entrypoint of each RayJob in a thread, once."""
    running: dict[str, threading.Thread] = {}
    done: dict[str, Json] = {}

    def process(job: Json) -> None:
        codes.append(work.main(job["spec"]["entrypoint"].split()[-1]))
        good = codes[-1] == 0
        done[job["metadata"]["uid"]] = SUCCEEDED if good else ended("Failed", "FAILED", reason="AppFailed")

    def operate(job: Json) -> Json:
        uid = job["metadata"]["uid"]
        if uid not in running:
            running[uid] = threading.Thread(target=process, args=(job,))
            running[uid].start()
        return done.get(uid, {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"})

    return operate


def test_a_step_is_run_as_a_rayjob_once_and_every_pod_of_it_is_charged_once(
    given, kuberay, tmp_path, monkeypatch, s3_url
):
    monkeypatch.setenv(POD_RECEIPTS, f"{s3_url}/run/select/attempts-1/receipts/one")
    codes: list[int] = []
    kuberay.operate = operator(codes)
    facts = run(given)
    assert codes == [0] and facts["kept"] == 5 and facts["rayjob"].startswith("deepcuts-")
    assert len(examples.read(tmp_path / "out/cut")) == 5 and (tmp_path / "out/report").exists()
    assert kuberay.jobs == {}

    (tmp_path / "out/cut").unlink()
    assert run(given) == facts and len(kuberay.made) == 1  # a retried pod takes what is there
    assert len(examples.read(tmp_path / "out/cut")) == 5
    store = open_store(f"{s3_url}/run/select/attempts-1/receipts/one")
    receipts = [msgspec.json.decode(store.get_bytes(key), type=Receipt) for key in store.list("")]
    assert [(receipt.pool, receipt.wall_seconds) for receipt in receipts] == [("cpu", 60.0)] * 4


def test_what_the_step_refuses_there_ends_it_here_in_the_same_way_and_a_retry_starts_anew(
    given, kuberay, tmp_path
):
    codes: list[int] = []
    kuberay.operate = operator(codes)
    (tmp_path / "corpus").write_text('{"id": 1}\n')
    with pytest.raises(DataError, match="corpus:1: not an Example"):
        run(given)
    assert codes == [3] and kuberay.jobs == {}
    examples.write(tmp_path / "corpus", CORPUS)
    assert run(given)["kept"] == 5 and codes == [3, 0]


def test_rows_that_are_refused_there_are_set_aside_here_with_the_name_of_their_file(tmp_path, kuberay, given):
    kuberay.operate = operator([])
    raw = tmp_path / "questions.jsonl"
    raw.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": 1,\n')
    made = test_ingest_ray.OUTPUTS
    own = test_ingest_ray.values(tmp_path, "local", raw=raw, max_bad_share=0.1)
    own |= {name: given[name] for name in ("ray", "ray_image", "nodepools", "store")}
    with pytest.raises(DataError, match=f"1 of 2 rows are bad.*see {own['quarantine']}"):
        elsewhere.run("deepcuts.components.ingest.step", own, ("raw", "base"), made)
    assert json.loads(own["quarantine"].read_bytes())["file"] == "questions.jsonl"
    assert not own["train"].exists()


def test_a_rayjob_without_a_receipt_is_run_again(given, kuberay):
    kuberay.operate = lambda job: ended("Failed", "FAILED", reason="DeadlineExceeded", message="2 h are over")
    with pytest.raises(StoreError, match="DeadlineExceeded: 2 h are over"):
        run(given)
    assert kuberay.jobs == {}
    kuberay.operate = operator([])
    assert run(given)["kept"] == 5


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"store": "file:///tmp/x"}, "give s3://"), ({"ray": RayCluster(pool="tpu")}, "'tpu' is not among")],
)
def test_what_no_cluster_could_run_is_refused_before_anything_is_made(given, kuberay, changed, message):
    with pytest.raises(ValueError, match=message):
        run(given | changed)
    assert kuberay.made == []


def test_no_value_of_a_task_is_lost_on_its_way_to_the_flags(given, kuberay, s3_url):
    kuberay.operate = operator([])
    run(given)
    (key,) = [key for key in open_store(s3_url).list("rayjobs/") if key.endswith(work.TASK)]
    task = json.loads(open_store(s3_url).get_bytes(key))
    assert {*task["inputs"], *task["values"], *task["outputs"]} == {f"--{n.replace('_', '-')}" for n in given}
    assert task["values"]["--near-threshold"] == "1.0" and task["values"]["--embedder-uri"] == ""
    assert Path(given["cut"]).exists()
