"""A training over several nodes: the TrainJob it makes, and how its task follows one to its end."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from deepcuts.components.core import attempts as attempt_files
from deepcuts.components.core import cli, nodepools, pods, receipts, run_records
from deepcuts.components.core.receipts import Facts, Receipt
from deepcuts.components.core.spread import SPREAD, Spread
from deepcuts.components.core.store import open_store
from deepcuts.components.ledger.charges import charges, total
from deepcuts.components.ledger.plans import plan_accuracy
from deepcuts.components.trainjob import follow, launcher
from deepcuts.components.trainjob.job import RUNTIME, trainjob
from deepcuts.components.trainjob.node_task import NodeTask, name_of, node_task
from tests.components.api_server import serving
from tests.components.trainer import NODE_JOB, PodEnd, TrainerServer
from tests.components.trainer import RUNTIME as RUNTIME_OBJECT
from tests.manifests.test_kserve import problems

Json = dict[str, Any]
SPOT = Spread(
    nodes=2,
    pool="gpu",
    selector={"node-pool": "gpu"},
    taints=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    queue="team",
    cpu="4",
    memory="9000Mi",
    accelerator="nvidia.com/gpu",
    devices=1,
)
SECONDS = 10.0
"""Of every pod that a test plays."""
POOLS = nodepools.parse(
    {
        "pools": [
            {
                "name": name,
                "selector": {"node-pool": name},
                "cpu_cores": 8,
                "memory_bytes": 2**30,
                "usd_per_hour": usd,
                "price_source": "test",
                "price_date": "2026-11-30",
            }
            for name, usd in (("gpu", 36.0), ("dear", 72.0), ("cpu", 0.0))
        ]
    }
)


def train(base: Path, model: Path, rate: float) -> Facts:
    """Never runs here: its pods are played."""
    raise AssertionError((base, model, rate))


class NodePods:
    """Plays the pods: what each leaves in the store, and how it ends."""

    def __init__(self) -> None:
        self.ends: dict[int, list[PodEnd | None]] = {0: [], 1: []}
        """Ends to come by node; afterwards they succeed. None: it still runs."""
        self.tasks: list[NodeTask] = []

    def play(self, job: Json, number: int, uid: str) -> PodEnd | None:
        (text,) = job["spec"]["trainer"]["args"]
        task = msgspec.json.decode(text, type=NodeTask)
        self.tasks.append(task)
        end = self.ends[number].pop(0) if self.ends[number] else PodEnd(0)
        if end is None:
            return None
        receipt = msgspec.structs.replace(
            receipts.Meter().receipt("train", end.code if end.code in receipts.END_REASONS else 4, {}),
            pool=task.pool,
            wall_seconds=SECONDS,
        )
        store = open_store(task.root)
        attempts = attempt_files.Attempts(store, f"{task.prefix}{attempt_files.NODE}{number}", uid)
        attempts.begin("train", task.pool, receipt.started_at)
        if end.code != 137:  # killed: it leaves none
            attempts.leave(receipt)
        if end.code == 0 and number == 0:
            store.put_bytes(f"{task.made}/model/weights", b"trained")
            facts: Facts = {"train_seconds": 7.0, "total_tokens": 512, "tokens": 512}
            whole = msgspec.structs.replace(receipt, facts=facts)
            store.put_bytes(f"{task.made}/receipt.json", msgspec.json.encode(whole))
        return end


@pytest.fixture
def nodes() -> NodePods:
    return NodePods()


@pytest.fixture
def trainer(nodes, tmp_path, monkeypatch) -> Iterator[TrainerServer]:
    """A Trainer in the namespace ``team``, to which KUBECONFIG leads; nothing waits."""
    made = TrainerServer(nodes.play)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    with serving(made, tmp_path, "team") as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield made


@pytest.fixture
def executor(tmp_path, s3_url) -> Json:
    """What KFP tells a task that a plan gave two nodes."""
    place = f"{s3_url}/run/finetune/x"
    (tmp_path / "base").mkdir()

    def artifact(uri: str, name: str) -> Json:
        return {"artifacts": [{"uri": uri, "customPath": str(tmp_path / name)}]}

    return {
        "inputs": {
            "parameterValues": {"rate": 0.5, SPREAD: msgspec.to_builtins(SPOT), "placed_on": "cpu"},
            "artifacts": {"base": artifact(f"{s3_url}/run/fetch/x/base", "base")},
        },
        "outputs": {
            "outputFile": str(tmp_path / "out.json"),
            "artifacts": {
                "model": artifact(f"{place}/model", "out/model"),
                "receipt": artifact(f"{place}/receipt", "out/receipt"),
            },
        },
    }


def argv(executor: Json) -> list[str]:
    words = ["--base", "$.base", "--model", "$.model", "--rate", "$.rate"]
    path = executor["outputs"]["artifacts"]["receipt"]["artifacts"][0]["customPath"]
    return [*words, "--receipt", path, "--executor-input", json.dumps(executor)]


def run(executor: Json) -> int:
    words = argv(executor)
    step = launcher.on_nodes(train, "some.module", words, executor, SPOT)
    return cli.run(step, words)


def receipt(executor: Json) -> Receipt:
    return receipts.read(Path(executor["outputs"]["artifacts"]["receipt"]["artifacts"][0]["customPath"]))


def recorded(executor: Json) -> dict[str, list[Receipt]]:
    """The rows of the run in the ledger."""
    root, prefix = attempt_files.of_task(executor)
    store, folder = open_store(root), prefix.rpartition("/")[0]
    return run_records.attempts(store, "finetune", store.list(f"{folder}/"), POOLS)


def test_outputs_and_facts_come_back_and_every_node_is_billed_where_it_ran(trainer, executor, tmp_path):
    trainer.nodes = {"node-0": {"node-pool": "gpu"}, "node-1": {"node-pool": "dear"}}
    assert run(executor) == 0
    assert (tmp_path / "out/model/weights").read_bytes() == b"trained"
    made = receipt(executor)
    assert made.pool == "cpu" and made.facts["total_tokens"] == 512
    assert (made.facts["nodes"], made.facts["trained_on"]) == (2, "gpu")
    assert trainer.jobs == {} and len(trainer.made) == 1
    rows = charges(recorded(executor), POOLS, reused=())
    paid = {row.task: (row.pool, row.usd) for row in rows}
    assert paid["finetune_node_0"] == ("gpu", pytest.approx(0.1))
    assert paid["finetune_node_1"] == ("dear", pytest.approx(0.2))
    assert paid["finetune"] == ("cpu", 0.0) and total(rows).usd == pytest.approx(0.3)
    plan = msgspec.structs.replace(
        rows[0], task="plan", step="plan", facts={"predicted_hours_p50": 1.0, "predicted_hours_p90": 2.0}
    )
    accuracy = plan_accuracy([plan, *rows])
    assert accuracy and accuracy.actual_usd == pytest.approx(0.3)


def test_a_pod_that_left_no_receipt_is_billed_by_its_heartbeats(trainer, nodes, executor):
    nodes.ends[1] = [PodEnd(137, reason="OOMKilled")]
    assert run(executor) == 4
    (lost,) = recorded(executor)["finetune_node_1"]
    assert (lost.end_reason, lost.pool, lost.facts["killed"]) == ("infrastructure", "gpu", True)


@pytest.mark.parametrize(
    ("ends", "code", "words"),
    [
        ([PodEnd(4, "train: connection closed"), PodEnd(3, "x\ntrain: row 7 is bad")], 3, "row 7 is bad"),
        ([PodEnd(2, "train: rate 0: set it"), None], 2, "rate 0: set it"),
        ([PodEnd(5, "train: over the budget"), None], 5, "over the budget"),
        ([PodEnd(1, "Traceback\nKeyError: 'x'"), None], 1, "'x'"),
        ([None, PodEnd(137, "", "OOMKilled")], 4, "node 1: OOMKilled"),
    ],
)
def test_a_failed_training_ends_as_the_pod_that_failed_would_have_alone(
    trainer, nodes, executor, ends, code, words
):
    nodes.ends = {number: [end, *[None] * 9] for number, end in enumerate(ends)}
    assert run(executor) == code
    made = receipt(executor)
    assert words in made.message and made.end_reason == receipts.END_REASONS[code]
    assert trainer.jobs == {}


def test_pods_that_lost_a_peer_or_their_node_are_replaced_and_paid_for(trainer, nodes, executor):
    nodes.ends = {0: [PodEnd(4)], 1: [PodEnd(143)]}
    assert run(executor) == 0
    rows = recorded(executor)
    assert [len(rows[f"finetune_node_{number}"]) for number in (0, 1)] == [2, 2]


def run_until_killed(monkeypatch, place: object, name: str, executor) -> None:
    """Run a launcher that is killed when it calls ``name`` of ``place``."""

    def crash(*words: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(place, name, crash)
        run(executor)


def test_a_killed_launcher_s_successor_goes_on_with_its_trainjob(trainer, executor, monkeypatch, nodes):
    nodes.ends = {0: [None, None], 1: [None, None]}

    run_until_killed(monkeypatch, follow.time, "sleep", executor)
    assert len(trainer.jobs) == 1
    assert run(executor) == 0
    assert len(trainer.made) == 1


def test_outputs_in_the_store_are_taken_though_the_trainjob_is_gone(trainer, executor, tmp_path):
    assert run(executor) == 0
    (tmp_path / "out/model/weights").unlink()
    assert run(executor) == 0
    assert len(trainer.made) == 1 and (tmp_path / "out/model/weights").exists()


def test_a_trainjob_that_left_its_outputs_before_its_launcher_was_killed_is_deleted_by_the_successor(
    trainer, executor, monkeypatch
):
    run_until_killed(monkeypatch, launcher.Trainer, "delete", executor)
    assert len(trainer.jobs) == 1
    assert run(executor) == 0
    assert trainer.jobs == {} and len(trainer.made) == 1


def test_sigterm_deletes_the_trainjob_at_once(trainer, nodes, executor, monkeypatch):
    monkeypatch.setattr(follow, "POLL_SECONDS", 60.0)
    running = threading.Event()

    def play(job: Json, number: int, uid: str) -> None:
        running.set()

    def stop() -> None:
        running.wait(30)
        os.kill(os.getpid(), signal.SIGTERM)

    trainer.play = play
    thread = threading.Thread(target=stop)
    thread.start()
    before = signal.getsignal(signal.SIGTERM)
    assert run(executor) == 143
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
    assert trainer.jobs == {} and "is deleted" in receipt(executor).message


def test_an_outage_of_the_api_server_is_waited_out(trainer, nodes, executor):
    nodes.ends[0] = [None]
    trainer.refuse = [(503, {"message": "apiserver is shutting down"})] * 2
    assert run(executor) == 0


BEFORE: list[Any] = [(404, {}), (200, {"items": []}), (404, {}), "own"]
"""What the launcher hears before it makes a TrainJob: none of that name, twice, no pods, and its own pod."""


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([*BEFORE, (404, {"message": "x"})], "no TrainJobs in this cluster: install"),
        ([(403, {"message": "no"})], "kubectl apply -k manifests/trainer gives the right"),
        ([*BEFORE, (422, {"message": "x"})], "refuses the TrainJob: x"),
    ],
)
def test_a_refusal_says_what_to_do(trainer, executor, answers, words):
    own = trainer.answer("GET", ["pods", "own"], {})
    trainer.refuse = [own if answer == "own" else answer for answer in answers]
    assert run(executor) == 2
    assert words in receipt(executor).message


def test_a_trainjob_deleted_by_somebody_else_ends_the_task(trainer, nodes, executor):
    nodes.ends = {0: [None] * 99, 1: [None] * 99}
    asked = iter(range(99))
    answer = trainer.answer

    def forgetful(method: str, path: list[str], body: Json) -> tuple[int, Json]:
        if method == "GET" and path[0] == "trainjobs" and next(asked) == 4:
            trainer.jobs.clear()
        return answer(method, path, body)

    trainer.answer = forgetful
    assert run(executor) == 3
    assert "was deleted: run again" in receipt(executor).message


def test_a_log_is_shown_once_line_by_line(trainer, nodes, executor, capsys):
    name = f"{name_of(task_of(executor))}-node-0-0-0"
    lines = ["2026-11-30T10:00:00.5Z one", "2026-11-30T10:00:00.51Z two"]
    trainer.logs[name] = lines[0] + "\n"
    nodes.ends = {0: [None, None], 1: [None, None]}
    answer = trainer.answer

    def growing(method: str, path: list[str], body: Json) -> tuple[int, Json]:
        found = answer(method, path, body)
        if path[-1] == "log":
            trainer.logs[name] = "\n".join(lines)
        return found

    trainer.answer = growing
    assert run(executor) == 0
    shown = capsys.readouterr().err.splitlines()
    assert [line for line in shown if line in ("one", "two")] == ["one", "two"]
    assert any(line.startswith("2 nodes: 2 Running") for line in shown)


def task_of(executor: Json) -> NodeTask:
    return node_task(argv(executor), executor, "some.module", "train", SPOT)


def test_pods_get_the_task_s_own_flags_with_files_of_the_store(executor, s3_url):
    task = task_of(executor)
    assert task.flags == {"--base": "inputs/base", "--model": "outputs/model", "--rate": "0.5"}
    assert task.inputs == {"inputs/base": f"{s3_url}/run/fetch/x/base"}
    assert list(task.outputs) == ["outputs/model"]
    assert task.outputs["outputs/model"].startswith(f"{s3_url}/run/finetune/attempts-")


def test_a_name_belongs_to_run_and_task_and_outputs_on_a_disk_are_refused(executor):
    other = json.loads(json.dumps(executor).replace("/run/", "/other/"))
    assert name_of(task_of(executor)) == name_of(task_of(executor)) != name_of(task_of(other))
    local = json.loads(json.dumps(executor).replace("s3://", "file:///"))
    with pytest.raises(ValueError, match="in none: set max_nodes to 1"):
        task_of(local)


def made(spread: Spread = SPOT) -> Json:
    task = NodeTask(
        module="m",
        step="finetune",
        flags={"--rate": "1"},
        inputs={},
        outputs={},
        root="s3://b",
        prefix="p",
        pool="gpu",
        devices=1,
    )
    return trainjob("deepcuts-0123456789ab", "there/train:7", spread, task)


def test_the_trainjob_asks_for_the_plan_s_nodes_and_joins_its_queue():
    job = made()
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"], trainer["image"]) == (2, 1, "there/train:7")
    asked = trainer["resourcesPerNode"]["limits"]
    assert asked.items() >= {"cpu": "4", "memory": "9000Mi", "nvidia.com/gpu": "1"}.items()
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]
    assert pod["spec"] == {"nodeSelector": SPOT.selector, "tolerations": SPOT.taints}
    assert pod["metadata"]["labels"][pods.POOL_LABEL] == "gpu"
    quiet = made(msgspec.structs.replace(SPOT, queue="", accelerator="", devices=0, taints=[]))
    assert "kueue.x-k8s.io/queue-name" not in quiet["metadata"]["labels"]
    assert quiet["spec"]["trainer"]["numProcPerNode"] == 1  # not one for each core


def test_the_runtime_has_what_our_jobs_have():
    spec = NODE_JOB["template"]["spec"]
    assert made()["spec"]["runtimeRef"]["name"] == RUNTIME
    pod = spec["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == pods.GRACE_SECONDS
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == (pods.ACCOUNT, False)
    (container,) = pod["containers"]
    assert container["securityContext"] == pods.LOCKED
    ignore, fail = spec["podFailurePolicy"]["rules"]
    assert (ignore["action"], fail["action"]) == ("Ignore", "FailJob")
    assert set(fail["onExitCodes"]["values"]) == {*pods.FINAL_CODES, 137}


def schema_of(kind: str) -> Json:
    """The OpenAPI schema of Trainer's CRD, from the clone in ``DEEPCUTS_TRAINER`` (bare or not)."""
    if not (clone := os.environ.get("DEEPCUTS_TRAINER")):
        pytest.skip("no CRDs of Trainer to check against: DEEPCUTS_TRAINER names no clone of it")
    path = f"HEAD:manifests/base/crds/trainer.kubeflow.org_{kind}.yaml"
    show = ["git", "-C", clone, "show", path]
    text = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    crd = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    found: Json = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def test_trainjob_and_runtime_are_what_the_crds_take():
    assert list(problems(made(), schema_of("trainjobs"))) == []
    assert list(problems(RUNTIME_OBJECT, schema_of("trainingruntimes"))) == []
    wrong = made()
    wrong["spec"]["runtimePatches"][0]["podSpecOverrides"] = []
    assert list(problems(wrong, schema_of("trainjobs")))
