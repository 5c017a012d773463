"""Katib's objects on a real API server; the controller is not there, so that nothing comes of them."""

import json
import re
from typing import Any

import pytest
import yaml
from kubeflow_katib_api import models
from kubernetes import client

from deepcuts.components.core.api_server import connect
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.tune.asha import Search
from deepcuts.components.tune.space import Dimension
from deepcuts.components.tune.task import TrialTask
from deepcuts.components.tune_katib import algorithms, experiment, register
from deepcuts.components.tune_katib.cluster import Katib
from deepcuts.components.tune_katib.job import job
from deepcuts.components.tune_katib.step import TRIAL
from deepcuts.pipelines import pools
from tests.cluster.conftest import RUNNER, Kubectl
from tests.conftest import ROOT

pytestmark = pytest.mark.cluster
Json = dict[str, Any]
KATIB = ROOT / "manifests" / "katib"
SPACE = {
    "learning_rate": Dimension(kind="float", min=1e-5, max=1e-2, log=True),
    "method": Dimension(kind="choice", values=["lora", "full"]),
    "lora_rank": Dimension(kind="choice", values=[4, 16, 64], when={"method": ["lora"]}),
    "tokens_per_step": Dimension(kind="int", min=512, max=4096),
}


def made(algorithm: str = "asha", pool: str = "gpu-spot") -> models.V1beta1Experiment:
    task = TrialTask(
        store="s3://deepcuts/store",
        search="0" * 64,
        base="b",
        train="t",
        valid="v",
        recipe=Recipe(),
        space=SPACE,
        values={},
        max_tokens=1_000_000,
        db_manager="katib-db-manager.kubeflow:6789",
    )
    levels = (37_037, 111_111, 333_333, 1_000_000)
    search = Search(levels if algorithm == "asha" else levels[-1:], 3, 1, 27)
    trial = job(pools.named(pool), "localhost/deepcuts/train:dev", TRIAL, 1, "1Gi", 24)
    return experiment.experiment("deepcuts-0123456789ab", algorithm, search, task, trial, 3, 0)


def tried(kubectl: Kubectl, namespace: str, value: Json) -> str:
    words = ["create", "--dry-run=server", "--validate=strict", "-f", "-"]
    return kubectl("-n", namespace, *words, text=json.dumps(value))


@pytest.mark.parametrize("algorithm", ["asha", *algorithms.KATIBS_OWN])
@pytest.mark.parametrize("pool", ["cpu", "gpu", "gpu-spot"])
def test_experiment_passes_the_api_servers_dry_run(kubectl, namespace, crds, algorithm, pool):
    told = tried(kubectl, namespace, made(algorithm, pool).to_dict())
    assert "created (server dry run)" in told and "Warning" not in told, told


@pytest.mark.parametrize(
    ("place", "value"),
    [("maxTrailCount", 3), ("maxTrialCount", "three"), ("objective", {"kind": "minimize"})],
)
def test_what_katib_does_not_know_is_refused_by_these_definitions(kubectl, namespace, crds, place, value):
    wrong = made().to_dict()
    wrong["spec"][place] = value
    with pytest.raises(AssertionError, match=place if isinstance(value, int | str) else "kind"):
        tried(kubectl, namespace, wrong)


@pytest.mark.parametrize("pool", ["cpu", "gpu", "gpu-spot"])
def test_trials_job_is_admitted_where_restricted_is_enforced_and_read_as_it_is_written(
    kubectl, namespace, crds, pool
):
    text = json.dumps(made(pool=pool).to_dict()["spec"]["trialTemplate"]["trialSpec"])
    filled = json.loads(re.sub(r"\$\{trialParameters\.\w+\}", "test-value", text))
    filled["metadata"]["name"] = "trial"
    words = ["create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-"]
    told = kubectl("-n", namespace, *words, text=json.dumps(filled))
    read = json.loads(told[: told.rindex("}") + 1])
    assert "Warning" not in told
    assert lost(filled["spec"], read["spec"]) == []  # else Katib's webhook refuses the template


def lost(given: Any, read: Any, path: str = "") -> list[str]:
    """Places where the server keeps something else than it was given; it may add what it likes."""
    if isinstance(given, dict):
        missing = [f"{path}/{key}" for key in given if key not in read]
        return missing + [p for k, v in given.items() if k in read for p in lost(v, read[k], f"{path}/{k}")]
    if isinstance(given, list) and len(given) == len(read):
        return [
            p for n, (a, b) in enumerate(zip(given, read, strict=True)) for p in lost(a, b, f"{path}/{n}")
        ]
    return [] if given == read else [path]


def test_client_makes_reads_and_removes_what_katib_keeps(kubectl, namespace, crds):
    katib, name = Katib(namespace, outage_seconds=5), "deepcuts-0123456789ab"
    assert katib.experiment(name) is None and katib.complaint(name) == ""
    katib.create(made())
    katib.create(made("tpe"))  # one of that name stays as it is
    found = katib.experiment(name)
    assert found and found.spec.algorithm.algorithm_name == "asha"
    api = client.CustomObjectsApi()
    for number, owner in enumerate([name, name, "other"]):
        trial = {
            "apiVersion": "kubeflow.org/v1beta1",
            "kind": "Trial",
            "metadata": {"name": f"t{number}", "labels": {"katib.kubeflow.org/experiment": owner}},
            "spec": {"parameterAssignments": [{"name": "learning_rate", "value": "0.001"}]},
        }
        api.create_namespaced_custom_object("kubeflow.org", "v1beta1", namespace, "trials", trial)
    assert [trial.metadata.name for trial in katib.trials(name)] == ["t0", "t1"]
    katib.delete(name)
    katib.delete(name)  # no error when it is gone
    assert katib.experiment(name) is None


def test_katib_manifests_pass_the_dry_run_and_the_service_runs_on_the_image_that_registers_it(kubectl):
    told = kubectl("apply", "--dry-run=server", "-k", str(KATIB))
    assert "Warning" not in told and told.count("(server dry run)") == 6
    objects = list(yaml.safe_load_all(kubectl("kustomize", str(KATIB))))
    (registering,) = [o for o in objects if o["kind"] == "Job"]
    (container,) = registering["spec"]["template"]["spec"]["containers"]
    assert [v["value"] for v in container["env"] if v["name"] == "IMAGE"] == [container["image"]]


def test_rights_are_enough_to_search_and_no_more(kubectl, namespace):
    def may(verb: str, kind: str) -> bool:
        account = f"system:serviceaccount:{namespace}:{RUNNER}"
        return "yes" in _asked(kubectl, "-n", namespace, "auth", "can-i", verb, kind, f"--as={account}")

    assert all(may(verb, "experiments.kubeflow.org") for verb in ("create", "get", "list", "delete"))
    assert may("list", "trials.kubeflow.org") and may("get", "suggestions.kubeflow.org")
    assert (
        not may("delete", "trials.kubeflow.org") and not may("get", "secrets") and not may("create", "jobs")
    )


def _asked(kubectl: Kubectl, *words: str) -> str:
    try:
        return kubectl(*words)
    except AssertionError as no:  # kubectl says no by its exit code, too
        return str(no).rpartition(":")[2]


def test_registration_changes_katibs_config_once(kubectl, namespace, tmp_path, monkeypatch, capsys):
    config = yaml.safe_dump({"runtime": {"suggestions": [{"algorithmName": "random", "image": "r"}]}})
    literal = f"--from-literal=katib-config.yaml={config}"
    kubectl("-n", namespace, "create", "configmap", register.CONFIG, literal)
    monkeypatch.setattr(register, "connect", lambda asked: connect(namespace))
    (entry,) = yaml.safe_load_all((KATIB / "suggestion.yaml").read_text())
    path = tmp_path / "suggestion.yaml"
    path.write_text(entry["data"]["suggestion.yaml"])
    assert register.main(path, "localhost/deepcuts/ops:1") == 0
    assert register.main(path, "localhost/deepcuts/ops:1") == 0
    assert "already" in capsys.readouterr().out
    kept = kubectl(
        "-n", namespace, "get", "configmap", register.CONFIG, "-o", r"jsonpath={.data.katib-config\.yaml}"
    )
    names = {s["algorithmName"]: s["image"] for s in yaml.safe_load(kept)["runtime"]["suggestions"]}
    assert names == {"random": "r", "asha": "localhost/deepcuts/ops:1"}
