"""Scheduled retraining, manifests/base/retrain*.yaml: its three Jobs, container by container, on a store."""

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from components.core import carry, cli, pods
from components.core.store import open_store
from components.retrain import start
from pipelines import jobs, settings
from tests.components.api_server import CronJobs, serving
from tests.conftest import ROOT
from tests.manifests.retraining import (
    BASE,
    LINKS,
    RELEASE_USD,
    TINY,
    Json,
    altered,
    containers,
    fill,
    in_service,
    pod_of,
    template,
)
from tests.test_contract import declared, foreign_packages

ALWAYS = TINY | {"--policy": "always"}
STEPS = [
    (link, container)
    for link in LINKS
    for container in containers(template(link))
    if container["command"][2].endswith((".step", ".pull"))
]


def ids(value: object) -> str:
    return value["name"] if isinstance(value, dict) else str(value)


class Bucket:
    """The bucket as its owner fills it, and the cluster that runs the Jobs, one after the other."""

    def __init__(self, place: str, folder: Path, cluster: CronJobs, patch: pytest.MonkeyPatch) -> None:
        self.place, self.folder, self.cluster, self.patch = place, folder, cluster, patch
        self.store = open_store(place)
        fill(place, folder)

    def fire(self, name: str, changed: Mapping[str, str]) -> dict[str, list[int]]:
        """Exit codes by Job: the one that Monday makes, and those that it leads to."""
        self.cluster.jobs[name] = template("retrain")
        codes: dict[str, list[int]] = {}
        while waiting := self.cluster.jobs.keys() - codes.keys():
            (title,) = waiting
            codes[title] = self._pod(title, self.cluster.jobs[title], changed)
        self.cluster.jobs.clear()
        return codes

    def _pod(self, title: str, job: Json, changed: Mapping[str, str]) -> list[int]:
        window = job["spec"]["template"]["metadata"]["labels"].get(start.WINDOW_LABEL, "")
        self.patch.setenv("DEEPCUTS_POOL", job["spec"]["template"]["metadata"]["labels"][pods.POOL_LABEL])
        folder = self.folder / title
        folder.mkdir()
        places = {"s3://deepcuts": self.place, "/carry/": f"{folder}/", "/nodepools/": f"{BASE}/"}
        places |= {"$(JOB_NAME)": title, "$(WINDOW)": window}
        codes: list[int] = []
        for container in containers(job):
            _, _, module, *words = [*container["command"], *altered(container["args"], changed)]
            for name, value in places.items():
                words = [word.replace(name, value) for word in words]
            found = importlib.import_module(module)
            if hasattr(found, "main"):
                codes.append(found.main(words))
            else:
                codes.append(cli.run(getattr(found, module.removesuffix(".step").rpartition(".")[2]), words))
            if codes[-1]:
                break
        return codes

    def told(self, name: str, file: str) -> Json:
        found: Json = json.loads(self.store.get_bytes(f"retrain/runs/{name}/{file}"))
        return found


@pytest.fixture
def bucket(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    torch.set_num_threads(1)
    cluster = CronJobs(LINKS)
    with serving(cluster, tmp_path, "kubeflow") as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield Bucket(s3_url, tmp_path, cluster, monkeypatch)


def test_worth_it_a_new_model_is_trained_judged_and_in_service(bucket):
    name = "retrain-29654910"
    codes = bucket.fire(name, ALWAYS)
    assert codes == {name: [0] * 6, f"{name}-train": [0] * 5, f"{name}-judge": [0] * 7}
    assert in_service(bucket.place) != "first"
    release = f"store/releases/model/{in_service(bucket.place)}"
    ledger = json.loads(bucket.store.get_bytes(f"{release}/ledger.json"))
    assert ledger == bucket.told(name, "ledger/ledger.json")
    change = ledger["comparisons"]["after"]
    assert change["non_inferior"] and change["worse_by"] < 0 and change["examples"] == 40
    lines = bucket.store.get_bytes(f"retrain/runs/{name}/ledger/ledger.jsonl").splitlines()
    pools = {line["task"]: line["ResourceName"] for line in map(json.loads, lines)}
    deciding = dict.fromkeys(("evaluate_before", "retrain", "pull", "evaluate_after", "accept"), "cpu")
    assert pools == deciding | dict.fromkeys(("pull_train", "fetch", "finetune"), "gpu")


def test_the_next_decision_weighs_what_the_release_in_service_cost(bucket):
    assert bucket.fire("retrain-29654910", TINY) == {"retrain-29654910": [0] * 6}
    first = bucket.told("retrain-29654910", "decision.json")
    assert (
        first["cost_usd"] == RELEASE_USD and first["retrain"] is False and in_service(bucket.place) == "first"
    )
    assert first["seen"]["usd_lost"] == pytest.approx(first["seen"]["loss"] * 0.001 * 10_000)
    bucket.fire("retrain-29664990", ALWAYS)
    assert len(bucket.told("retrain-29664990", "decision.json")["cycle_usd"]) == 2
    bucket.fire("retrain-29675070", TINY)
    spent = bucket.told("retrain-29664990", "ledger/ledger.json")["total"]["usd"]
    assert bucket.told("retrain-29675070", "decision.json")["cost_usd"] == spent > 0


def test_a_worse_model_is_refused_and_the_old_one_stays_in_service(bucket):
    bucket.fire("retrain-29654910", ALWAYS)
    good, wrong = in_service(bucket.place), bucket.folder / "corpus" / "train.jsonl"
    wrong.write_text(wrong.read_text().replace('"assistant","content":"', '"assistant","content":"no '))
    carry.put(f"{bucket.place}/retrain/corpus", bucket.folder / "corpus")
    name = "retrain-29664990"
    assert bucket.fire(name, ALWAYS)[f"{name}-judge"] == [0] * 6 + [5]
    assert in_service(bucket.place) == good
    assert bucket.told(name, "accept.json")["facts"]["accepted"] is False


def test_without_a_release_nothing_is_decided_and_the_reason_is_said(bucket, capsys):
    assert bucket.fire("retrain-29654910", TINY | {"--name": "other"}) == {"retrain-29654910": [3]}
    assert "no release 'other'" in capsys.readouterr().err


@pytest.mark.parametrize("link", LINKS)
def test_link_waits_for_its_owner_and_runs_as_a_job_of_its_pool_does(link):
    spec = LINKS[link]["spec"]
    assert (spec["suspend"], spec["concurrencyPolicy"], spec["timeZone"]) == (True, "Forbid", "Etc/UTC")
    assert spec["startingDeadlineSeconds"] == 600 and LINKS[link]["metadata"]["name"] == link
    job, made = template(link), a_job(settings.pool("gpu" if link == "retrain-train" else "cpu"))
    for key in ("backoffLimit", "ttlSecondsAfterFinished", "podFailurePolicy"):
        assert job["spec"][key] == made["spec"][key]
    assert job["metadata"]["labels"] == made["metadata"]["labels"]
    ours, theirs = pod_of(job), pod_of(made)
    for key in ("restartPolicy", "nodeSelector", "securityContext", "automountServiceAccountToken"):
        assert ours[key] == theirs[key]
    assert ours.get("tolerations", []) == theirs["tolerations"]
    assert ours["terminationGracePeriodSeconds"] == pods.GRACE_SECONDS
    for container in containers(job):
        assert container["securityContext"] == pods.LOCKED
        assert [e for e in pod_of(made)["containers"][0]["env"] if e not in container["env"]] == []


def a_job(pool: Any) -> Json:
    """What ``compile --to job`` writes of a step on ``pool``."""
    given = {"uri": "s3://b/x", "data": "s3://b/y", "receipt": "s3://b/z"}
    return jobs.manifest("fetch_data", "a", given, pool, jobs.Size(2, "8Gi", 6))


@pytest.mark.parametrize(("link", "container"), STEPS, ids=ids)
def test_container_runs_a_step_in_an_image_that_can_with_values_that_it_takes(link, container):
    module = container["command"][2]
    image = container["image"].rpartition("/")[2].removesuffix(":dev")
    assert foreign_packages(ROOT / f"{module.replace('.', '/')}.py") - declared(image) == set()
    step = getattr(importlib.import_module(module), module.removesuffix(".step").rpartition(".")[2])
    words = [word.replace("/nodepools/", f"{BASE}/") for word in container["args"]]
    flags, problems = cli.pairs(words)
    flags.pop("--receipt")
    cli.parse(step, flags, problems)


def test_the_training_alone_asks_for_an_accelerator():
    asking = [
        (link, container["name"])
        for link in LINKS
        for container in containers(template(link))
        if set(container["resources"]["limits"]) != {"cpu", "memory"}
    ]
    assert asking == [("retrain-train", "finetune")]


def test_only_the_last_container_of_a_link_that_starts_another_has_a_token():
    holding = [
        (link, container["name"])
        for link in LINKS
        for container in containers(template(link))
        if any(mount["name"] == "token" for mount in container["volumeMounts"])
    ]
    assert holding == [("retrain", "start"), ("retrain-train", "start")]
    accounts = {link: pod_of(template(link))["serviceAccountName"] for link in LINKS}
    assert accounts == {
        "retrain": "deepcuts-retrain",
        "retrain-train": "deepcuts-retrain",
        "retrain-judge": pods.ACCOUNT,
    }


def test_links_that_are_started_are_those_that_may_be():
    (role,) = [
        value
        for value in yaml.safe_load_all((BASE / "access.yaml").read_text())
        if (value["kind"], value["metadata"]["name"]) == ("Role", "deepcuts-retrain")
    ]
    started = {c["args"][0] for link in LINKS for c in containers(template(link)) if c["name"] == "start"}
    assert started == set(role["rules"][0]["resourceNames"])
