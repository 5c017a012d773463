"""Scheduled retraining by kubectl alone: manifests/base/retrain*.yaml on a real cluster."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core import carry, files
from components.core.store import open_store
from components.publish import releases
from tests.cluster.conftest import Kubectl
from tests.conftest import ROOT
from tests.training import tiny

pytestmark = pytest.mark.cluster
BASE = ROOT / "manifests" / "base"
Json = dict[str, Any]
RECIPE = json.dumps(tiny.RECIPE | {"budget_tokens": 6000})


@pytest.fixture(scope="module")
def bucket(kubectl: Kubectl, namespace: str, store: str, tag: str, tmp_path_factory: Any) -> str:
    """The bucket and the CronJobs as their owner fills them in; returns the bucket."""
    folder: Path = tmp_path_factory.mktemp("bucket")
    base = tiny.base(folder / "release")
    digest = files.digest(base)
    (base / "ledger.json").write_text(json.dumps({"total": {"usd": 12.5, "unknown": 0}}))
    releases.release(open_store(f"{store}/store"), "model", base, "first", digest)
    tiny.write_sums(folder / "window.jsonl", 40, seed=1)
    (folder / "labels.json").write_text("[]")
    (folder / "corpus").mkdir()
    tiny.write_sums(folder / "corpus" / "train.jsonl", 60)
    tiny.write_sums(folder / "corpus" / "valid.jsonl", 8, seed=2)
    for name in ("window.jsonl", "labels.json", "corpus"):
        carry.put(f"{store}/retrain/{name}", folder / name)
    pools = BASE / "nodepools.yaml"
    kubectl("-n", namespace, "create", "configmap", "deepcuts-nodepools", f"--from-file={pools}")
    apply(kubectl, namespace, store, tag, {"--recipe": RECIPE, "--policy": "always"})
    return store


def apply(kubectl: Kubectl, namespace: str, store: str, tag: str, changed: Mapping[str, str]) -> None:
    for name in ("retrain", "retrain-train", "retrain-judge"):
        text = (BASE / f"{name}.yaml").read_text().replace("s3://deepcuts", store).replace(":dev", f":{tag}")
        cron = yaml.safe_load(text)
        for container in containers(cron["spec"]["jobTemplate"]):
            words = container["args"]
            words[:] = [changed.get(before, word) for before, word in zip(["", *words], words, strict=False)]
            # the nodes of the test cluster are smaller than what a training asks for
            container["resources"]["requests"] |= {"cpu": "100m", "memory": "64Mi"}
        kubectl("-n", namespace, "apply", "-f", "-", text=json.dumps(cron))


def containers(job: Json) -> list[Json]:
    pod = job["spec"]["template"]["spec"]
    return [*pod["initContainers"], *pod["containers"]]


def fire(kubectl: Kubectl, namespace: str, name: str) -> None:
    kubectl("-n", namespace, "create", "job", "--from=cronjob/retrain", name)


def ended(kubectl: Kubectl, namespace: str, title: str, seconds: float = 400) -> tuple[str, Json]:
    """(Complete or Failed, the Job), also of a Job that another will make."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = kubectl("-n", namespace, "get", "job", title, "--ignore-not-found", "-o", "json")
        job = json.loads(found or "{}")
        for condition in job.get("status", {}).get("conditions", []):
            if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
                return condition["type"], job
        time.sleep(0.5)
    raise TimeoutError(kubectl("-n", namespace, "describe", "jobs,pods"))


def logs(kubectl: Kubectl, namespace: str, title: str) -> str:
    return kubectl("-n", namespace, "logs", f"job/{title}", "--all-containers")


def test_three_jobs_on_their_pools_bring_a_new_model_into_service(kubectl, namespace, bucket):
    name = "retrain-29654910"
    fire(kubectl, namespace, name)
    for title in (name, f"{name}-train", f"{name}-judge"):
        how, _ = ended(kubectl, namespace, title)
        assert how == "Complete", logs(kubectl, namespace, title)
    version = releases.version_of(open_store(f"{bucket}/store"), "model", "latest")
    ledger = json.loads(open_store(bucket).get_bytes(f"store/releases/model/{version}/ledger.json"))
    assert version != "first" and ledger["comparisons"]["after"]["non_inferior"]
    assert ledger["total"]["unknown"] == 0 and ledger["total"]["usd"] > 0
    pods = json.loads(kubectl("-n", namespace, "get", "pods", "-o", "json"))["items"]
    nodes = {p["metadata"]["labels"]["batch.kubernetes.io/job-name"]: p["spec"]["nodeName"] for p in pods}
    assert nodes == {name: "cpu-0", f"{name}-train": "gpu-0", f"{name}-judge": "cpu-0"}


def test_where_it_is_not_worth_it_no_job_follows(kubectl, namespace, bucket, tag):
    apply(kubectl, namespace, bucket, tag, {"--recipe": RECIPE, "--policy": "never"})
    fire(kubectl, namespace, "retrain-29664990")
    assert ended(kubectl, namespace, "retrain-29664990")[0] == "Complete"
    assert "not worth it" in kubectl("-n", namespace, "logs", "job/retrain-29664990", "-c", "start")
    assert "retrain-29664990-train" not in kubectl("-n", namespace, "get", "jobs", "-o", "name")


def test_what_cannot_succeed_fails_at_once_whichever_container_it_is(kubectl, namespace, bucket, tag):
    apply(kubectl, namespace, bucket, tag, {"--recipe": RECIPE, "--policy": "always", "--usd-per-unit": "0"})
    fire(kubectl, namespace, "retrain-29675070")
    how, job = ended(kubectl, namespace, "retrain-29675070")
    assert (how, job["status"]["failed"]) == ("Failed", 1)
    assert "usd_per_unit" in kubectl("-n", namespace, "logs", "job/retrain-29675070", "-c", "decide")
