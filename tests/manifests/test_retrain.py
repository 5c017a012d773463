"""Scheduled retraining, manifests/base/retrain*.yaml: its three Jobs, container by container, on a store."""

import importlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from deepcuts.components.core import carry, cli, files, pods
from deepcuts.components.core.store import open_store
from deepcuts.components.publish import releases
from deepcuts.components.retrain import start
from deepcuts.pipelines import pools
from deepcuts.pipelines.kubeflow import jobs, retraining
from deepcuts.pipelines.placement import Size
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
    spoil,
    template,
)
from tests.test_contract import declared, extras_of, foreign_packages
from tests.training import tiny

ALWAYS = TINY | {"--policy": "always"}
OF_CHAIN = {"WINDOW": start.WINDOW_LABEL, "RELEASE": start.RELEASE_LABEL}
IF_WORTH = ["sh", "-c", 'grep -qx true /carry/retrain || exit 0; exec "$@"', "--"]


def argv(container: Json) -> list[str]:
    """What a container runs, where it is worth it."""
    words: list[str] = [*container["command"], *container["args"]]
    return words[len(IF_WORTH) :] if words[0] == "sh" else words


STEPS = [
    (link, container)
    for link in LINKS
    for container in containers(template(link))
    if argv(container)[2].endswith((".step", ".pull"))
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
        self.cluster.jobs = {name: template("retrain")}
        codes: dict[str, list[int]] = {}
        while waiting := self.cluster.jobs.keys() - codes.keys():
            (title,) = waiting
            codes[title] = self.pod(title, changed)
        return codes

    def pod(self, title: str, changed: Mapping[str, str]) -> list[int]:
        """Exit codes of the containers of a new pod of a Job."""
        labels = self.cluster.jobs[title]["spec"]["template"]["metadata"]["labels"]
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        places = {"s3://deepcuts": self.place, "/carry/": f"{folder}/", "/nodepools/": f"{BASE}/"}
        places |= {f"$({name})": labels.get(label, "") for name, label in OF_CHAIN.items()}
        places |= {"$(JOB_NAME)": title}

        def read(word: str) -> str:
            for name, value in places.items():
                word = word.replace(name, value)
            return word

        self.patch.setenv("DEEPCUTS_POOL", labels[pods.POOL_LABEL])
        codes: list[int] = []
        for container in containers(self.cluster.jobs[title]):
            (attempts,) = [e["value"] for e in container["env"] if e["name"] == "DEEPCUTS_ATTEMPTS"]
            self.patch.setenv("DEEPCUTS_ATTEMPTS", read(attempts))
            if container["command"][0] == "sh" and (folder / "retrain").read_text() != "true":
                codes.append(0)
                continue
            _, _, module, *words = map(read, altered(argv(container), changed))
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

    def charges(self, name: str) -> list[Json]:
        """The lines of a chain's ledger."""
        lines = self.store.get_bytes(f"retrain/runs/{name}/ledger/ledger.jsonl").splitlines()
        return [json.loads(line) for line in lines]


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
    assert codes == {name: [0] * 8, f"{name}-train": [0] * 5, f"{name}-judge": [0] * 7}
    version = in_service(bucket.place)
    assert version != "first"
    ledger = json.loads(bucket.store.get_bytes(f"store/releases/model/{version}/ledger.json"))
    assert ledger == bucket.told(name, "ledger/ledger.json")
    change = ledger["comparisons"]["after"]
    assert change["non_inferior"] and change["worse_by"] < 0 and change["examples"] == 40
    assert ledger["total"]["unknown"] == 0
    pools = {charge["task"]: charge["ResourceName"] for charge in bucket.charges(name)}
    judged = ("pull", "evaluate_after", "accept")
    decided = ("pull_before", "evaluate_before", "retrain", "fetch", "select")
    assert pools == dict.fromkeys(decided + judged, "cpu") | dict.fromkeys(("pull_train", "finetune"), "gpu")


def test_the_next_decision_weighs_what_the_release_in_service_cost(bucket):
    assert bucket.fire("retrain-29654910", TINY) == {"retrain-29654910": [0] * 8}
    first = bucket.told("retrain-29654910", "decision.json")
    assert first["cost_usd"] == RELEASE_USD and first["retrain"] is False
    assert in_service(bucket.place) == "first"
    assert first["seen"]["usd_lost"] == pytest.approx(first["seen"]["loss"] * 0.001 * 10_000)
    bucket.fire("retrain-29664990", ALWAYS)
    assert len(bucket.told("retrain-29664990", "decision.json")["cycle_usd"]) == 2
    bucket.fire("retrain-29675070", TINY)
    spent = bucket.told("retrain-29664990", "ledger/ledger.json")["total"]["usd"]
    assert bucket.told("retrain-29675070", "decision.json")["cost_usd"] == spent > 0


def test_a_worse_model_is_refused_and_the_old_one_stays_in_service(bucket):
    bucket.fire("retrain-29654910", ALWAYS)
    good, name = in_service(bucket.place), "retrain-29664990"
    spoil(bucket.place, bucket.folder)
    assert bucket.fire(name, ALWAYS)[f"{name}-judge"] == [0] * 6 + [5]
    assert in_service(bucket.place) == good
    assert bucket.told(name, "accept.json")["facts"]["accepted"] is False


def test_what_of_the_window_is_in_the_corpus_is_not_trained_on(bucket):
    window, corpus = bucket.folder / "window.jsonl", bucket.folder / "corpus" / "train.jsonl"
    corpus.write_text(corpus.read_text() + window.read_text())
    carry.put(f"{bucket.place}/retrain/corpus", bucket.folder / "corpus")
    name = "retrain-29654910"
    bucket.fire(name, ALWAYS)
    trained = bucket.store.get_bytes(f"retrain/runs/{name}/train.jsonl").decode()
    asked = [
        example["messages"][0]["content"] for example in map(json.loads, window.read_text().splitlines())
    ]
    assert trained and not any(json.dumps(question) in trained for question in asked)


def test_pods_that_were_lost_are_in_the_ledger_and_change_nothing_else(bucket):
    name = "retrain-29654910"
    bucket.cluster.jobs[name] = template("retrain")
    for title in (name, f"{name}-train", f"{name}-judge"):
        assert set(bucket.pod(title, ALWAYS)) == {0}  # lost just before it ended, and run again
        version = in_service(bucket.place)
        if title != f"{name}-judge":
            assert set(bucket.pod(title, ALWAYS)) == {0}
    assert list(bucket.cluster.jobs) == [name, f"{name}-train", f"{name}-judge"]
    assert version == in_service(bucket.place) != "first"
    unknown = {c["task"] for c in bucket.charges(name) if c["EffectiveCost"] is None}
    assert unknown == {
        "pull_before",
        "evaluate_before",
        "retrain",
        "fetch",
        "select",
        "pull_train",
        "finetune",
    }
    assert bucket.told(name, "ledger/ledger.json")["total"]["unknown"] == len(unknown)


def test_a_chain_trains_and_judges_against_the_release_it_decided_on(bucket):
    name = "retrain-29654910"
    bucket.cluster.jobs[name] = template("retrain")
    bucket.pod(name, ALWAYS)
    other = tiny.base(bucket.folder / "other", seed=1)
    releases.release(open_store(f"{bucket.place}/store"), "model", other, "second", files.digest(other))
    assert set(bucket.pod(f"{name}-train", ALWAYS)) == set(bucket.pod(f"{name}-judge", ALWAYS)) == {0}
    pulled = [
        bucket.told(name, f"{receipt}.json")["facts"]["version"] for receipt in ("pull-before", "pull-train")
    ]
    assert pulled == ["first", "first"]
    # decided again on the newer release: what it says is about another model
    assert bucket.pod(name, ALWAYS) == [0] * 8
    assert bucket.told(name, "retrain.json")["facts"]["retrain"] == "false"


def test_without_a_release_nothing_is_decided_and_the_reason_is_said(bucket, capsys):
    assert bucket.fire("retrain-29654910", TINY | {"--name": "other"}) == {"retrain-29654910": [3]}
    assert "no release 'other'" in capsys.readouterr().err


@pytest.mark.parametrize("name", retraining.FILES)
def test_manifest_is_what_the_code_that_makes_jobs_writes(name):
    path = BASE / name
    written = retraining.text(name, retraining.comments_of(path))
    assert path.read_text() == written, "run python -m deepcuts.pipelines.kubeflow.retraining"


@pytest.mark.parametrize("link", LINKS)
def test_link_waits_for_its_owner_and_runs_as_a_job_of_its_pool_does(link):
    spec = LINKS[link]["spec"]
    assert (spec["suspend"], spec["concurrencyPolicy"], spec["timeZone"]) == (True, "Forbid", "Etc/UTC")
    assert spec["startingDeadlineSeconds"] == 600 and LINKS[link]["metadata"]["name"] == link
    job, made = template(link), a_job(pools.named("gpu" if link == "retrain-train" else "cpu"))
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
        names = [variable["name"] for variable in container["env"]]
        missing = [e["name"] for e in pod_of(made)["containers"][0]["env"] if e not in container["env"]]
        assert missing == ["JOB_UID", "DEEPCUTS_ATTEMPTS"] and names[-1] == missing[1]


def a_job(pool: Any) -> Json:
    """What ``compile --to job`` writes of a step on ``pool``."""
    given = {"uri": "s3://b/x", "data": "s3://b/y", "receipt": "s3://b/z", "config": ""}
    return jobs.manifest("fetch_data", "a", given, pool, Size(2, "8Gi", 6))


@pytest.mark.parametrize(("link", "container"), STEPS, ids=ids)
def test_container_runs_a_step_in_an_image_that_can_with_values_that_it_takes(link, container):
    module = argv(container)[2]
    image = container["image"].rpartition("/")[2].removesuffix(":dev")
    assert foreign_packages(ROOT / f"{module.replace('.', '/')}.py") - declared(*extras_of(image)) == set()
    step = getattr(importlib.import_module(module), module.removesuffix(".step").rpartition(".")[2])
    words = [word.replace("/nodepools/", f"{BASE}/") for word in argv(container)[3:]]
    flags, problems = cli.pairs(words)
    flags.pop("--receipt")
    cli.parse(step, flags, problems)


def test_the_training_alone_asks_for_an_accelerator():
    asking = [
        (link, container["name"])
        for link in LINKS
        for container in containers(template(link))
        if "nvidia.com/gpu" in container["resources"]["limits"]
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


def test_links_that_are_started_are_all_that_may_be_asked_for():
    (role,) = [
        value
        for value in yaml.safe_load_all((BASE / "access.yaml").read_text())
        if (value["kind"], value["metadata"]["name"]) == ("Role", "deepcuts-retrain")
    ]
    started = [argv(c)[3] for link in LINKS for c in containers(template(link)) if c["name"] == "start"]
    assert role["rules"] == [
        {"apiGroups": ["batch"], "resources": ["cronjobs"], "resourceNames": started, "verbs": ["get"]},
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create"]},
    ]


def test_what_follows_a_decision_runs_only_where_it_says_so():
    guarded = [
        (link, c["name"]) for link in LINKS for c in containers(template(link)) if c["command"] == IF_WORTH
    ]
    assert guarded == [("retrain", name) for name in ("fetch", "select", "start")]
