"""What ``on`` compiles into."""

import datetime
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from kfp import compiler, dsl

from deepcuts.components.core import nodepools
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.tune_katib.job import job
from deepcuts.pipelines import pools
from deepcuts.pipelines.kubeflow import jobs
from deepcuts.pipelines.placement import Size, on
from tests.conftest import ROOT
from tests.pipelines.toys.faces import make

POOLS = pools.read()


def compiled(tmp_path: Path, place: Callable[[dsl.PipelineTask], object]) -> tuple[dict[str, Any], ...]:
    """Task, container and Kubernetes configuration of a placed task."""

    @dsl.pipeline(name="placed")
    def placed():
        place(make(text="x", number=1, rate=0.5, flag=True, words=["a"], config={}))

    compiler.Compiler().compile(placed, str(tmp_path / "p.yaml"))
    spec, platform = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
    return (
        spec["root"]["dag"]["tasks"]["make"],
        spec["deploymentSpec"]["executors"]["exec-make"]["container"],
        platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-make"],
    )


def test_cpu_task_has_selector_label_and_deadline_but_tolerates_no_taint(tmp_path):
    task, container, pod = compiled(
        tmp_path, lambda t: on(POOLS["cpu"], t, cpu=2, memory="8Gi", max_hours=1.5)
    )
    assert pod["nodeSelector"]["labels"] == {"node-pool": "cpu"}
    assert pod["podMetadata"]["labels"] == {"app.kubernetes.io/part-of": "deepcuts", "node-pool": "cpu"}
    assert pod["activeDeadlineSeconds"] == "5400"
    assert pod["securityContext"] == {"runAsUser": "65532", "runAsGroup": "65532", "runAsNonRoot": True}
    assert "tolerations" not in pod
    assert pod["emptyDirMounts"] == [{"volumeName": "scratch", "mountPath": "/scratch", "sizeLimit": "64Gi"}]
    assert "retryPolicy" not in task and "accelerator" not in container["resources"]
    sizes = {key: container["resources"][key] for key in ("resourceCpuRequest", "resourceCpuLimit")}
    assert sizes == {"resourceCpuRequest": "2", "resourceCpuLimit": "2"}
    assert (
        container["resources"]["resourceMemoryRequest"]
        == container["resources"]["resourceMemoryLimit"]
        == "8Gi"
    )


def test_placement_reaches_the_step_without_touching_its_env(tmp_path):
    _, container, pod = compiled(tmp_path, lambda t: on(POOLS["cpu"], t, cpu=1, memory=2**30, max_hours=1))
    assert pod["fieldPathAsEnv"] == [
        {"name": "DEEPCUTS_POOL", "fieldPath": "metadata.labels['node-pool']"},
    ]
    assert "env" not in container
    assert container["resources"]["resourceMemoryLimit"] == str(2**30)


def test_gpu_task_gets_the_card_its_taint_and_shared_memory(tmp_path):
    task, container, pod = compiled(
        tmp_path, lambda t: on(POOLS["gpu"], t, cpu=6, memory="24Gi", max_hours=9)
    )
    assert container["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert container["resources"]["accelerator"]["resourceCount"] == "1"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "8Gi"} in pod[
        "emptyDirMounts"
    ]
    assert "retryPolicy" not in task


def test_spot_task_is_retried_within_its_own_hours(tmp_path):
    task, _, pod = compiled(tmp_path, lambda t: on(POOLS["gpu-spot"], t, cpu=6, memory="24Gi", max_hours=9))
    assert task["retryPolicy"]["backoffMaxDuration"] == "32400s"
    assert task["retryPolicy"]["maxRetryCount"] == 5
    assert {
        "key": "cloud.google.com/gke-spot",
        "operator": "Equal",
        "value": "true",
        "effect": "NoSchedule",
    } in pod["tolerations"]


TRAINING = {
    "compress": {"heal"},
    "distill": {"distill", "control"},
    "finetune": {"finetune"},
    "retrain": {"finetune"},
    "tune": {"tune", "finetune"},
    "tune_katib": {"finetune"},  # its trials are Jobs, and what follows them needs no accelerator
}


def test_pods_of_every_task_and_jobs_carry_the_queue_of_their_pool(tmp_path):
    given = yaml.safe_load(pools.NODEPOOLS.read_text())
    for pool in given["pools"]:
        pool["queue"] = "batch" if pool["name"] == "cpu" else "accelerated"
    (tmp_path / "nodepools.yaml").write_text(yaml.safe_dump(given))
    code = "import sys, pathlib; from deepcuts.pipelines.command import packages; "
    code += "[packages.compile_to(name, pathlib.Path(sys.argv[1], f'{name}.yaml')) for name in sys.argv[2:]]"
    environment = os.environ | {"DEEPCUTS_NODEPOOLS": str(tmp_path / "nodepools.yaml")}
    command = [sys.executable, "-c", code, str(tmp_path), *TRAINING]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    for name, training in TRAINING.items():
        _, platform = yaml.safe_load_all((tmp_path / f"{name}.yaml").read_text())
        executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        queues = {
            task.removeprefix("exec-"): pod["podMetadata"]["labels"]["kueue.x-k8s.io/queue-name"]
            for task, pod in executors.items()
        }
        assert {task for task, queue in queues.items() if queue == "accelerated"} == training, name
        assert set(queues.values()) == {"accelerated", "batch"}, name
    gpu = nodepools.parse(given)["gpu"]
    sizes = Size(1, "1Gi", max_hours=1)
    values = {"uri": "s3://bucket/model", "model": "s3://bucket/copy"}
    trial = job(gpu, "image", ["python", "-m", "trial"], 1, "1Gi", 1)
    alone = jobs.manifest("fetch_model", "fetch", values, gpu, sizes)
    for made in (trial, alone, jobs.repeated(alone, "0 4 * * *")["spec"]["jobTemplate"]):
        for labels in (made["metadata"]["labels"], made["spec"]["template"]["metadata"]["labels"]):
            assert labels["kueue.x-k8s.io/queue-name"] == "accelerated"


def test_kueue_queue_becomes_a_pod_label(tmp_path):
    queued = msgspec.structs.replace(POOLS["cpu"], queue="team")
    _, _, pod = compiled(tmp_path, lambda t: on(queued, t, cpu=1, memory="1Gi", max_hours=1))
    assert pod["podMetadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"


def test_store_comes_by_reference_and_is_no_condition_for_the_pod_to_start(tmp_path):
    _, _, pod = compiled(tmp_path, lambda t: on(POOLS["cpu"], t, cpu=1, memory="1Gi", max_hours=1))
    (secret,), (settings_map,) = pod["secretAsEnv"], pod["configMapAsEnv"]
    assert secret["secretName"] == "mlpipeline-minio-artifact" and secret["optional"]
    assert {pair["secretKey"]: pair["envVar"] for pair in secret["keyToEnv"]} == {
        "accesskey": "AWS_ACCESS_KEY_ID",
        "secretkey": "AWS_SECRET_ACCESS_KEY",
    }
    assert settings_map["configMapName"] == "deepcuts-store" and settings_map["optional"]
    assert {pair["envVar"] for pair in settings_map["keyToEnv"]} == {"S3_ENDPOINT", "AWS_REGION"}


def test_task_larger_than_a_node_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cpu 5 is more than a node of pool 'cpu' has"):
        compiled(tmp_path, lambda t: on(POOLS["cpu"], t, cpu=5, memory="1Gi", max_hours=1))


def test_shipped_node_pools_are_dated_and_say_where_prices_come_from():
    assert list(POOLS) == ["cpu", "gpu", "gpu-spot"]
    for pool in POOLS.values():
        assert pool.usd_per_hour and pool.price_source
        datetime.date.fromisoformat(pool.price_date)
        assert bool(pool.accelerator) == any(t.key == "nvidia.com/gpu" for t in pool.tolerations)
    assert [pool.name for pool in POOLS.values() if pool.spot] == ["gpu-spot"]


def test_node_pools_can_come_from_elsewhere(tmp_path, monkeypatch):
    pool = NodePool(name="mine", selector={"a": "b"}, cpu_cores=1, memory_bytes=2**30)
    path = tmp_path / "pools.yaml"
    path.write_text(yaml.safe_dump(msgspec.to_builtins({"pools": [pool]})))
    monkeypatch.setenv("DEEPCUTS_NODEPOOLS", str(path))
    assert pools.read() == {"mine": pool}
    with pytest.raises(ValueError, match="'gpu' is needed but not in nodepools.yaml"):
        pools.named("gpu")
    monkeypatch.setenv("DEEPCUTS_NODEPOOLS", str(tmp_path / "no.yaml"))
    with pytest.raises(ValueError, match="set DEEPCUTS_NODEPOOLS"):
        pools.read()
