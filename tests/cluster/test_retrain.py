"""Scheduled retraining by kubectl alone: manifests/base/retrain*.yaml on a real cluster."""

import copy
import json
from collections.abc import Mapping

import pytest

from deepcuts.components.core.store import open_store
from tests.cluster.conftest import Kubectl, ended
from tests.manifests.retraining import BASE, LINKS, TINY, altered, containers, fill, in_service, spoil

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def bucket(kubectl: Kubectl, namespace: str, store: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    fill(store, tmp_path_factory.mktemp("bucket"))
    pools = BASE / "nodepools.yaml"
    kubectl("-n", namespace, "apply", "-f", str(BASE / "quota.yaml"), "-f", str(BASE / "network.yaml"))
    kubectl("-n", namespace, "create", "configmap", "deepcuts-nodepools", f"--from-file={pools}")
    return store


def apply(kubectl: Kubectl, namespace: str, store: str, tag: str, changed: Mapping[str, str]) -> None:
    """The CronJobs with our bucket, images and values."""
    for cron in copy.deepcopy(list(LINKS.values())):
        for container in containers(cron["spec"]["jobTemplate"]):
            words = altered(container["args"], TINY | changed)
            container["args"] = [word.replace("s3://deepcuts", store) for word in words]
            container["image"] = container["image"].replace(":dev", f":{tag}")
            # each node of the test cluster is the whole machine, and smaller than what these ask for
            container["resources"]["requests"] |= {"cpu": "100m", "memory": "64Mi"}
        kubectl("-n", namespace, "apply", "-f", "-", text=json.dumps(cron))


def fire(kubectl: Kubectl, namespace: str, name: str) -> None:
    kubectl("-n", namespace, "create", "job", "--from=cronjob/retrain", name)


def logs(kubectl: Kubectl, namespace: str, title: str) -> str:
    return kubectl("-n", namespace, "logs", f"job/{title}", "--all-containers")


def test_three_jobs_on_their_pools_bring_a_new_model_into_service(kubectl, namespace, bucket, tag):
    name = "retrain-29654910"
    apply(kubectl, namespace, bucket, tag, {"--policy": "always"})
    fire(kubectl, namespace, name)
    for title in (name, f"{name}-train", f"{name}-judge"):
        how, _ = ended(kubectl, namespace, title)
        assert how == "Complete", logs(kubectl, namespace, title)
    version = in_service(bucket)
    ledger = json.loads(open_store(bucket).get_bytes(f"store/releases/model/{version}/ledger.json"))
    assert version != "first" and ledger["comparisons"]["after"]["non_inferior"]
    assert ledger["total"]["unknown"] == 0 and ledger["total"]["usd"] > 0
    pods = json.loads(kubectl("-n", namespace, "get", "pods", "-o", "json"))["items"]
    nodes = {p["metadata"]["labels"]["batch.kubernetes.io/job-name"]: p["spec"]["nodeName"] for p in pods}
    assert nodes == {name: "cpu-0", f"{name}-train": "gpu-0", f"{name}-judge": "cpu-0"}


def test_a_worse_model_is_refused_and_the_job_says_so(kubectl, namespace, bucket, tag, tmp_path):
    name, before = "retrain-29660000", in_service(bucket)
    spoil(bucket, tmp_path)
    apply(kubectl, namespace, bucket, tag, {"--policy": "always"})
    fire(kubectl, namespace, name)
    how, job = ended(kubectl, namespace, f"{name}-judge")
    assert (how, job["status"]["failed"]) == ("Failed", 1)
    assert "refused" in kubectl("-n", namespace, "logs", f"job/{name}-judge", "-c", "publish")
    assert in_service(bucket) == before


def test_where_it_is_not_worth_it_no_job_follows(kubectl, namespace, bucket, tag):
    apply(kubectl, namespace, bucket, tag, {"--policy": "never"})
    fire(kubectl, namespace, "retrain-29664990")
    assert ended(kubectl, namespace, "retrain-29664990")[0] == "Complete"
    assert open_store(bucket).list("retrain/runs/retrain-29664990/train.jsonl") == []
    assert "retrain-29664990-train" not in kubectl("-n", namespace, "get", "jobs", "-o", "name")


def test_what_cannot_succeed_fails_at_once_whichever_container_it_is(kubectl, namespace, bucket, tag):
    apply(kubectl, namespace, bucket, tag, {"--usd-per-unit": "0"})
    fire(kubectl, namespace, "retrain-29675070")
    how, job = ended(kubectl, namespace, "retrain-29675070")
    assert (how, job["status"]["failed"]) == ("Failed", 1)
    assert "usd_per_unit" in kubectl("-n", namespace, "logs", "job/retrain-29675070", "-c", "decide")
