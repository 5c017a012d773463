"""How runs end that do not end well: own message, right exit code, what was spent, nothing half-released."""

import csv
import datetime
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepcuts.components.core import files
from deepcuts.components.core.store import open_store
from deepcuts.pipelines.kubeflow import pods
from deepcuts.pipelines.runner import run_record
from tests.kfp.conftest import EXAMPLES, SMALL, Client, Submitted, kubectl, pods_of

pytestmark = pytest.mark.kfp
GIVEN = SMALL | {
    "base_uri": str(EXAMPLES / "base"),
    "data_uri": str(EXAMPLES / "support.jsonl"),
    "quantize_candidates": ["gguf-q8_0"],
}
Start = Callable[[Callable[[], None]], None]


def released(name: str) -> list[str]:
    return open_store("minio://mlpipeline/deepcuts").list(f"releases/{name}/")


def check(done: Submitted, code: int, task: str, word: str) -> None:
    """One task failed with its message, those after it did not run, and the ledger has what was spent."""
    assert done.code == code, done.told
    statuses = done.statuses()
    assert statuses[task] == "failed" and statuses["publish"] == "skipped" and statuses["ledger"] == "done"
    (message,) = [t.message for path, t in done.record.tasks.items() if path.rpartition(".")[2] == task]
    assert word in message, message
    book = done.ledger()
    seconds = book["total"]["node_seconds"] + book["reused"]["node_seconds"]  # a fetch may be cached
    assert seconds > 0 and "fetch_model" in book["by_task"]


def test_bad_data_ends_with_its_own_message_and_the_quarantine_in_the_store(deepcuts: Client, fresh: str):
    with (deepcuts.folder / "bad.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((f"question {i}", "") for i in range(40))])
    name = f"bad-{fresh}"
    done = deepcuts.submit("finetune", GIVEN | {"data_uri": "bad.csv", "release_name": name})
    check(done, 3, "prepare", "minio://mlpipeline/v2/artifacts/finetune/")
    assert not released(name)
    where = [word.strip(",;:()") for word in done.told.split() if "attempts-" in word]
    assert where and open_store("minio://mlpipeline").exists(where[0].removeprefix("minio://mlpipeline/"))


def test_gate_that_refuses_keeps_the_model_in_service(deepcuts: Client, fresh: str):
    name = f"gate-{fresh}"
    given = {
        "service_uri": str(EXAMPLES / "base"),
        "usd_per_unit": 0.01,
        "predictions": 10_000,
        "retraining_usd": 1.0,
        "policy": "always",
        "service": name,
        "release_name": name,
        "window": "2026-W01",
    } | {key: GIVEN[key] for key in ("data_uri", "max_tokens", "max_examples", "recipe")}
    first = deepcuts.submit("retrain", given)
    assert first.code == 0, first.told
    before = released(name)
    spoiled = GIVEN["recipe"] | {"initial": "random", "method": "full", "budget_tokens": 4_000}
    in_service = next(key for key in before if key.endswith("/config.json")).rpartition("/")[0]
    second = deepcuts.submit(
        "retrain",
        given
        | {
            "window": "2026-W02",
            "recipe": spoiled,
            "service_uri": f"minio://mlpipeline/deepcuts/{in_service}",
        },
    )
    assert second.code == 5, second.told
    assert released(name) == before


def test_step_out_of_memory_says_so(deepcuts: Client, pools: Path, fresh: str):
    small = deepcuts.folder / "small-pools.yaml"
    small.write_text(pools.read_text().replace(f"memory_bytes: {20 * 2**30}", f"memory_bytes: {400 * 2**20}"))
    done = deepcuts.submit("finetune", GIVEN | {"seed": int(fresh[:6], 16)}, DEEPCUTS_NODEPOOLS=str(small))
    assert done.code == 4, done.told
    assert "memory" in done.told and done.statuses()["publish"] == "skipped"


def test_unreachable_store_is_named(deepcuts: Client, fresh: str):
    known = kubectl("get", "configmap", "deepcuts-store", "-o", "jsonpath={.data.endpoint}")

    def point_to(endpoint: str) -> None:
        patch = json.dumps({"data": {"endpoint": endpoint}})
        kubectl("patch", "configmap", "deepcuts-store", "--type=merge", "-p", patch)

    point_to("http://nowhere.kubeflow:9000")
    try:
        done = deepcuts.submit("finetune", GIVEN | {"seed": int(fresh[:6], 16) + 1})
    finally:
        point_to(known)
    assert done.code == 4, done.told
    assert "nowhere" in done.told


def changed(deepcuts: Client, name: str, change: Callable[[Any, Any], None]) -> str:
    """Compile finetune, let ``change`` edit the pipeline and its platform part, and return the file."""
    package = deepcuts.folder / f"changed-{name}.yaml"
    assert deepcuts("compile", "finetune", "-o", package).returncode == 0
    pipeline, platform = yaml.safe_load_all(package.read_text())
    change(pipeline["deploymentSpec"]["executors"], platform["platforms"]["kubernetes"]["deploymentSpec"])
    return _file(package, yaml.safe_dump_all([pipeline, platform], sort_keys=False))


def test_driver_that_fails_is_told_with_its_reason(deepcuts: Client, fresh: str):
    """The driver of a task reads its sizes; it never makes the pod of one that it cannot read."""

    def unreadable(executors: Any, _: Any) -> None:
        executors["exec-prepare"]["container"]["resources"]["resourceMemoryLimit"] = "lots"

    package = changed(deepcuts, f"driver-{fresh}", unreadable)
    done = deepcuts.submit(package, GIVEN | {"seed": int(fresh[:6], 16) + 4}, title=f"driver-{fresh}")
    check(done, 4, "prepare", "quantities must match")
    assert done.statuses()["finetune"] == "skipped"


def test_wrong_key_for_the_store_is_named(deepcuts: Client, fresh: str):
    keys = {"accesskey": "nobody", "secretkey": "wrong-secret-key"}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"wrong-{fresh}"},
        "stringData": keys,
    }
    kubectl("apply", "-f", _file(deepcuts.folder / "secret.json", json.dumps(secret)))

    def wrong(_: Any, platform: Any) -> None:
        for settings in platform["executors"].values():
            for entry in settings.get("secretAsEnv", []):
                entry["secretName"] = f"wrong-{fresh}"
                entry["secretNameParameter"] = {"runtimeValue": {"constant": f"wrong-{fresh}"}}

    package = changed(deepcuts, f"secret-{fresh}", wrong)
    name = f"secret-{fresh}"
    try:
        done = deepcuts.submit(
            package, GIVEN | {"release_name": name, "seed": int(fresh[:6], 16) + 5}, title=name
        )
    finally:
        kubectl("delete", "secret", f"wrong-{fresh}")
    assert done.code == 2, done.told  # its settings are wrong: trying again would not help
    assert "AWS_ACCESS_KEY_ID" in done.told and "wrong-secret-key" not in done.told
    assert done.statuses()["publish"] == "skipped" and not released(name)


def test_pod_that_a_quota_keeps_back_says_why_and_can_be_cancelled(
    deepcuts: Client, fresh: str, during: Start
):
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "no-gpu"}}
    quota["spec"] = {"hard": {"requests.nvidia.com/gpu": "0"}}  # type: ignore[assignment]
    kubectl("apply", "-f", _file(deepcuts.folder / "quota.json", json.dumps(quota)))
    name = f"quota-{fresh}"

    def cancel() -> None:
        for _ in range(300):
            time.sleep(2)
            logs = deepcuts.folder.glob("runs/*/tasks/finetune/stderr.log")
            if any("exceeded quota" in log.read_text() for log in logs):
                mine = [line for line in deepcuts("runs").stdout.splitlines() if "RUNNING" in line]
                assert deepcuts("cancel", mine[0].split()[-1]).returncode == 0
                return
        raise AssertionError("the run did not say why it waits")

    during(cancel)
    try:
        given = GIVEN | {"release_name": name, "data_seed": int(fresh[:6], 16), "pool": "gpu"}
        done = deepcuts.submit("finetune", given)
    finally:
        kubectl("delete", "resourcequota", "no-gpu")
    assert done.code == 143 and done.statuses()["publish"] == "skipped", done.told
    assert not released(name)


def test_cancelled_run_is_interrupted(deepcuts: Client, fresh: str, during: Start):
    def cancel() -> None:
        for _ in range(600):
            listed = deepcuts("runs").stdout.splitlines()
            mine = [line for line in listed if f"cancel-{fresh}" in line and "RUNNING" in line]
            if mine:
                run_id = mine[0].split()[-1]
                if pods_of(run_id, "prepare"):
                    assert deepcuts("cancel", run_id[:8]).returncode == 0
                    return
            time.sleep(1)
        raise AssertionError("no run to cancel")

    during(cancel)
    given = GIVEN | {"seed": int(fresh[:6], 16) + 2}
    done = deepcuts.submit("finetune", given, title=f"cancel-{fresh}")
    assert done.code == 143 and done.record.status == "interrupted", done.told
    assert done.statuses()["publish"] == "skipped"
    spent = {name: total["node_seconds"] for name, total in done.ledger()["by_task"].items()}
    assert any(seconds > 0 for name, seconds in spent.items() if name.startswith("prepare")), spent


LONG = GIVEN | {"recipe": GIVEN["recipe"] | {"budget_tokens": 120_000, "save_every_seconds": 5.0}}


@pytest.fixture(scope="module")
def undisturbed(deepcuts: Client, fresh: str) -> Submitted:
    done = deepcuts.submit("finetune", LONG | {"store_uri": f"minio://mlpipeline/quiet-{fresh}"})
    assert done.code == 0, done.told
    return done


@pytest.mark.parametrize("attempt", range(5))
def test_pods_of_a_training_deleted_at_random_change_nothing(
    deepcuts: Client, fresh: str, undisturbed: Submitted, during: Start, attempt: int
):
    """Three deletions a run; the weights are those of the undisturbed run, the lost seconds in the ledger."""
    draw = random.Random(f"{fresh}-{attempt}")

    def delete() -> None:
        deleted: set[str] = set()
        # a pod is started after some seconds; what is deleted before has no attempt and costs nothing here
        ages = [draw.uniform(12, 30) for _ in range(3)]
        end = time.monotonic() + 1800
        while len(deleted) < 3 and time.monotonic() < end:
            time.sleep(1)
            for name, seconds in training().items():
                if name not in deleted and seconds > ages[len(deleted)]:
                    kubectl("delete", "pod", name, "--wait=false", "--ignore-not-found")
                    deleted.add(name)
                    break
        assert len(deleted) == 3

    during(delete)
    title = f"noisy-{fresh}-{attempt}"
    given = LONG | {"store_uri": f"minio://mlpipeline/{title}"}
    disturbed = deepcuts.submit("finetune", given, "--resubmit", "3", title=title)
    assert disturbed.code == 0, disturbed.told
    runs = [*deepcuts.folder.glob(f"runs/{title}"), *deepcuts.folder.glob(f"runs/{title}-[2-4]")]
    last = max(runs, key=lambda folder: folder.name)
    assert _weights(run_record.read(last).run_id) == _weights(undisturbed.record.run_id)
    books = [folder / "tasks/ledger/outputs/ledger" for folder in runs]  # a run that lost its pod has its own
    wasted = [json.loads((book / "ledger.json").read_text())["wasted"]["node_seconds"] for book in books]
    assert sum(wasted) > 0
    lines = [json.loads(line) for book in books for line in (book / "ledger.jsonl").read_text().splitlines()]
    attempts = {(line["task"], line["attempt"], line["ChargePeriodStart"]) for line in lines}
    assert sum(task == "finetune" for task, _, _ in attempts) >= 4  # an attempt a charge
    receipt = json.loads((last / "tasks/finetune/receipt.json").read_text())
    assert receipt["facts"]["lease_wait_seconds"] < 15


def training() -> dict[str, float]:
    """Pods that train now, and for how many seconds; asked in one call, for a training lasts a minute."""
    running = json.loads(kubectl("get", "pods", "-o", "json", "--field-selector=status.phase=Running"))
    now = datetime.datetime.now(datetime.UTC)
    found = {}
    for pod in running["items"]:
        path = pods.path_of(pod["metadata"].get("annotations", {}).get(pods.NODE_ANNOTATION, ""))
        main = next((c for c in pod["status"]["containerStatuses"] if c["name"] == "main"), {})
        if path == "finetune" and (began := main.get("state", {}).get("running", {}).get("startedAt")):
            found[pod["metadata"]["name"]] = (now - datetime.datetime.fromisoformat(began)).total_seconds()
    return found


def _weights(run_id: str) -> str:
    store = open_store(f"minio://mlpipeline/v2/artifacts/finetune/{run_id}")
    (key,) = [key for key in store.list("finetune/") if key.endswith("adapter_model.safetensors")]
    return store.sha256(key)


def _file(path: Path, text: str) -> str:
    with files.staged(path) as staging:
        staging.write_text(text)
    return str(path)
