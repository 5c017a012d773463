"""One component as a Kubernetes Job."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepcuts.components.core import cli as steps
from deepcuts.components.core import pods
from deepcuts.components.finetune.step import finetune
from deepcuts.components.tune_katib import job as trial_jobs
from deepcuts.pipelines import pools
from deepcuts.pipelines.command import cli
from deepcuts.pipelines.kubeflow import jobs
from deepcuts.pipelines.placement import Size
from tests.manifests.test_manifests import pods_in

GIVEN = {
    "base": "base",
    "train": "s3://b/data/train.jsonl",
    "valid": "valid.jsonl",
    "store": "s3://b/checkpoints",
    "recipe": {"seed": 3},
}
SIZE = Size(4, "16Gi", 12)


def job(pool: str = "gpu", **changed: Any) -> dict[str, Any]:
    return jobs.manifest("finetune", "train-1", GIVEN | changed, pools.named(pool), SIZE)


def spec(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return found


def containers(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    pod = spec(manifest)
    return {c["name"]: c for c in [*pod.get("initContainers", []), *pod["containers"]]}


def test_step_of_a_job_accepts_its_flags():
    step = containers(job())["step"]
    assert step["command"] == ["python", "-m", "deepcuts.components.finetune.step"]
    flags, problems = steps.pairs(step["args"])
    flags.pop("--receipt")
    parsed = steps.parse(finetune, flags, problems)
    assert parsed["recipe"].seed == 3 and parsed["base"] == Path("/work/base")


def test_job_lands_where_the_pool_is_and_asks_for_its_device():
    pod, step = spec(job()), containers(job())["step"]
    assert pod["nodeSelector"] == {"node-pool": "gpu"}
    assert [t["key"] for t in pod["tolerations"]] == ["nvidia.com/gpu"]
    disk = {"ephemeral-storage": "130Gi"}
    assert step["resources"]["limits"] == {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"} | disk
    assert step["resources"]["requests"]["ephemeral-storage"] == "1Gi"
    assert all(v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if "emptyDir" in v)
    on_cpu = job("cpu")
    assert spec(on_cpu)["tolerations"] == []
    assert "nvidia.com/gpu" not in containers(on_cpu)["step"]["resources"]["limits"]


def test_uris_are_carried_before_and_after_the_step_in_this_order():
    made = job(model="s3://b/models/mine")
    assert [c["name"] for c in spec(made)["initContainers"]] == ["get", "step"]
    get, step, put = containers(made).values()
    assert get["command"][-2:] == ["s3://b/data/train.jsonl", "/carry/get/train/train.jsonl"]
    assert "/carry/get/train/train.jsonl" in step["args"]
    assert put["command"][-2:] == ["s3://b/models/mine", "/carry/put/model/mine"]


def test_job_without_uris_of_artifacts_is_one_container_on_the_volume():
    made = job(train="train.jsonl")
    assert list(containers(made)) == ["step"]
    assert "/work/train-1/model" in containers(made)["step"]["args"]
    claims = [v["persistentVolumeClaim"] for v in spec(made)["volumes"] if "persistentVolumeClaim" in v]
    assert claims == [{"claimName": "deepcuts-work"}]


def test_secrets_are_references():
    text = yaml.safe_dump(job())
    assert "secretKeyRef" in text and pods.SECRET in text
    values = [e["name"] for c in containers(job()).values() for e in c["env"] if "value" in e]
    assert set(values) == {"DEEPCUTS_ATTEMPTS"}


@pytest.mark.parametrize(
    ("receipt", "folder"),
    [
        ({"receipt": "s3://b/runs/$(JOB_NAME)/receipt.json"}, "s3://b/runs/$(JOB_NAME)"),
        ({"receipt": "runs/receipt.json"}, f"file://{jobs.WORK}/runs"),
        ({}, f"file://{jobs.WORK}/train-1"),
    ],
)
def test_attempts_of_a_job_are_counted_beside_its_receipt(receipt, folder):
    variables = containers(job(**receipt))["step"]["env"]
    assert variables[-1] == {"name": "DEEPCUTS_ATTEMPTS", "value": f"{folder}/attempts/$(JOB_UID)"}
    assert [v["name"] for v in variables[-3:-1]] == ["JOB_NAME", "JOB_UID"]  # before what refers to them


def test_final_exit_codes_end_the_job_and_a_lost_node_is_no_failure():
    lost, end = job()["spec"]["podFailurePolicy"]["rules"]
    assert lost["action"] == "Ignore" and lost["onPodConditions"][0]["type"] == "DisruptionTarget"
    codes = end["onExitCodes"]["values"]
    assert {2, 3, 5} <= set(codes) and 4 not in codes
    assert "containerName" not in end["onExitCodes"]  # of any container


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"bsae": "base"}, "did you mean 'base'"),
        ({"recipe": 3}, "recipe"),
        ({"base": "/etc"}, "below /work"),
        ({"base": "../etc"}, "below /work"),
        ({"store": "file:///home/me"}, "not in the pod"),
    ],
)
def test_values_that_cannot_work_are_refused(changed, words):
    with pytest.raises(ValueError, match=words):
        job(**changed)


def test_missing_values_are_named_at_once():
    with pytest.raises(ValueError) as error:
        jobs.manifest("finetune", "x", {"base": "base"}, pools.named("cpu"), SIZE._replace(cpu=1))
    assert {line.split(":")[0] for line in str(error.value).splitlines()} == {
        "train",
        "valid",
        "store",
        "recipe",
    }


def test_every_component_compiles_alone():
    for name, face in jobs.faces().items():
        leaf, resources = jobs.compiled(face, pools.named("cpu"), SIZE)
        assert leaf.executor.container and resources["resourceCpuLimit"] == "4", name


def test_compile_to_job_writes_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("uri: s3://b/data\nconfig: ''\n")
    words = ["compile", "--to", "job", "fetch_data", "-f", "run.yaml", "--set", "data=raw", "-o", "job.yaml"]
    monkeypatch.setattr(sys, "argv", ["deepcuts", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    made = yaml.safe_load((tmp_path / "job.yaml").read_text())
    assert (made["kind"], made["metadata"]["name"]) == ("Job", "fetch-data")
    assert "kubectl create -f job.yaml" in capsys.readouterr().out


def test_unknown_component_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'finetune'"):
        jobs.manifest("fintune", "x", {}, pools.named("cpu"), SIZE)


def test_cronjob_runs_one_at_a_time_and_makes_up_for_nothing():
    made = jobs.repeated(job(), "0 4 * * 1")
    assert made["spec"]["concurrencyPolicy"] == "Forbid" and made["spec"]["timeZone"] == "Etc/UTC"
    assert made["spec"]["startingDeadlineSeconds"] < 3600
    assert made["spec"]["jobTemplate"]["spec"] == job()["spec"]
    with pytest.raises(ValueError, match="give 5"):
        jobs.repeated(job(), "@daily")


@pytest.mark.parametrize("pool", ["cpu", "gpu", "gpu-spot"])
def test_every_container_and_volume_that_we_generate_is_bounded(pool):
    trial = trial_jobs.job(pools.named(pool), "train:v1", ["python", "-m", "x"], 1, "1Gi", 1)
    for manifest in (job(pool), job(pool, base="s3://b/base"), jobs.repeated(job(pool), "0 3 * * *"), trial):
        (pod,) = pods_in(manifest)
        assert all(v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if "emptyDir" in v)
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            for side in ("requests", "limits"):
                assert container["resources"][side].keys() >= {"cpu", "memory", "ephemeral-storage"}
            assert container["securityContext"] == pods.LOCKED
