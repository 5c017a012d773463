"""A task placed by an earlier task: the input of KFP's driver, and the local runner's reading of it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl

from deepcuts.components.core import executor_input, receipts, spread
from deepcuts.pipelines.command import packages
from deepcuts.pipelines.kubeflow import server_rules
from deepcuts.pipelines.placement import as_planned
from deepcuts.pipelines.runner import local, pipeline_spec
from deepcuts.pipelines.runner.run_record import RunRecord
from deepcuts.pipelines.stages import planned
from tests.conftest import ROOT
from tests.pipelines.toys.faces import decide, fail, make

SPOT: dict[str, Any] = {
    "train_pool": "gpu-spot",
    "train_selector": {"node-pool": "gpu-spot"},
    "train_taints": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "train_cpu": "4",
    "train_memory": "2048Mi",
    "train_devices": "1",
    "train_nodes": {},
    "scoring_pool": "cpu",
    "scoring_selector": {"node-pool": "cpu"},
    "scoring_taints": [],
    "scoring_cpu": "0.8",
    "scoring_memory": "3000Mi",
    "scoring_devices": "0",
}
NVIDIA = {"type": "nvidia.com/gpu", "resourceType": "nvidia.com/gpu"}
"""Named when compiled, by both of kfp's fields."""
PLACED = {"text": "x", "number": 1, "rate": 0.5, "flag": True, "words": ["a"], "config": {}}


@dsl.pipeline(name="placing")
def placing(place: dict):  # type: ignore[type-arg]
    said = decide(place=place)
    trained = as_planned(planned(said, "train", several=True), make(**PLACED), max_hours=2)
    trained.set_display_name("Train")
    scored = make(**PLACED).set_display_name("Scored")
    as_planned(planned(said, "scoring"), scored, max_hours=2)


@dsl.pipeline(name="conditional")
def conditional(place: dict):  # type: ignore[type-arg]
    said = decide(place=place)
    looked = make(**PLACED)
    with dsl.If(looked.outputs["count"] > 0, "long enough"):
        as_planned(planned(said, "train"), make(**PLACED), max_hours=2)


@dsl.pipeline(name="failing")
def failing(place: dict):  # type: ignore[type-arg]
    as_planned(planned(decide(place=place), "train"), fail(way="store", until=2), max_hours=2)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("placing") / "placing.yaml"
    compiler.Compiler().compile(placing, str(path))
    return path


def run(package: Path, place: dict[str, Any], name: str = "run") -> RunRecord:
    return local.run(
        package,
        {"place": place},
        package.parent / name,
        parallel=2,
        fresh=False,
        cached=package.parent / "cache",
        show=lambda run: None,
        root=ROOT,
    )


def test_the_driver_is_told_to_take_every_part_of_the_place_from_the_plan(package):
    spec, platform = yaml.safe_load_all(package.read_text())
    resources = spec["deploymentSpec"]["executors"]["exec-make"]["container"]["resources"]
    pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-make"]
    task = spec["root"]["dag"]["tasks"]["make"]

    def of(name: str) -> dict[str, Any]:
        return {"taskOutputParameter": {"outputParameterKey": name, "producerTask": "decide"}}

    assert pod["nodeSelector"] == {"nodeSelectorJson": of("train_selector")}
    assert pod["tolerations"] == [{"tolerationJson": of("train_taints")}]
    channel = "{{{{$.inputs.parameters['pipelinechannel--decide-{}']}}}}".format
    cpu, memory = channel("train_cpu"), channel("train_memory")
    assert resources == {  # limits, which Kubernetes takes as requests, too
        "resourceCpuLimit": cpu,
        "resourceMemoryLimit": memory,
        "accelerator": NVIDIA | {"resourceCount": channel("train_devices")},
    }
    for name in ("train_cpu", "train_memory", "train_devices"):
        assert task["inputs"]["parameters"][f"pipelinechannel--decide-{name}"] == of(name)
        assert spec["components"]["comp-decide"]["outputDefinitions"]["parameters"][name] == {
            "parameterType": "STRING"  # the driver takes text alone
        }
    assert task["inputs"]["parameters"][executor_input.POOL] == of("train_pool")
    assert task["inputs"]["parameters"][spread.SPREAD] == of("train_nodes")
    assert spread.SPREAD not in spec["root"]["dag"]["tasks"]["make-2"]["inputs"]["parameters"]
    assert task["dependentTasks"] == ["decide"]


def test_no_label_says_another_pool_than_the_plan_and_a_lost_pod_is_replaced_as_long_as_it_may_run(package):
    spec, platform = yaml.safe_load_all(package.read_text())
    pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-make"]
    assert pod["podMetadata"]["labels"] == {"app.kubernetes.io/part-of": "deepcuts"}
    assert "fieldPathAsEnv" not in pod
    assert pod["activeDeadlineSeconds"] == "7200"
    assert spec["root"]["dag"]["tasks"]["make"]["retryPolicy"]["backoffMaxDuration"] == "7200s"
    assert {volume["mountPath"] for volume in pod["emptyDirMounts"]} == {"/scratch", "/dev/shm"}


def test_the_local_runner_resolves_the_same_and_the_receipt_names_the_pool(package):
    done = run(package, SPOT)
    assert done.status == "done", done
    train, scored = done.tasks["make"], done.tasks["make-2"]
    assert (train.pool, scored.pool) == ("gpu-spot", "cpu")
    assert train.asked["nodeSelector"] == SPOT["train_selector"]
    assert train.asked["tolerations 0"] == SPOT["train_taints"]
    assert train.asked["resources"]["accelerator"] == NVIDIA | {"resourceCount": "1"}
    assert train.asked["resources"]["resourceMemoryLimit"] == "2048Mi"
    assert scored.asked["resources"]["resourceCpuLimit"] == "0.8"
    assert scored.asked["resources"]["accelerator"]["resourceCount"] == "0"
    assert (scored.asked["nodeSelector"], scored.asked["tolerations 0"]) == ({"node-pool": "cpu"}, [])
    assert receipts.read(package.parent / "run/tasks/make/receipt.json").pool == "gpu-spot"
    cpu = SPOT | {"train_pool": "cpu", "train_selector": {"node-pool": "cpu"}, "train_taints": []}
    moved = run(package, cpu, "moved")
    assert moved.tasks["make"].pool == "cpu" and moved.tasks["make"].cached  # where it runs is no input


def test_a_place_that_goes_into_no_pod_fails_here_as_on_the_server(package):
    done = run(package, SPOT | {"train_selector": ["node-pool"]}, "wrong")
    assert done.tasks["make"].status == "failed"
    assert "nodeSelector: ['node-pool'] goes into no pod" in done.tasks["make"].message


def test_retries_for_a_lost_node_do_not_keep_a_local_run_waiting(tmp_path):
    path = tmp_path / "failing.yaml"
    compiler.Compiler().compile(failing, str(path))
    done = run(path, SPOT)
    assert (done.tasks["fail"].status, done.tasks["fail"].attempt) == ("failed", 1)


def test_a_step_finds_its_pool_in_the_executor_input_of_kfp(tmp_path):
    executor = {
        "inputs": {"parameterValues": {"placed_on": "gpu-spot", "cpu_limit": "4"}},
        "outputs": {"outputFile": str(tmp_path / "out.json")},
    }
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in PLACED.items()}
    words = [word for name, value in values.items() for word in (f"--{name}", value)]
    words += ["--out", str(tmp_path / "out"), "--receipt", str(tmp_path / "receipt")]
    argv = [sys.executable, "-m", "tests.pipelines.toys.make.step", *words]
    subprocess.run([*argv, "--executor-input", json.dumps(executor)], cwd=ROOT, check=True)
    assert receipts.read(tmp_path / "receipt").pool == "gpu-spot"


def test_a_task_in_a_condition_is_placed_by_a_plan_outside_it(tmp_path):
    path = tmp_path / "conditional.yaml"
    compiler.Compiler().compile(conditional, str(path))
    spec, platform = yaml.safe_load_all(path.read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    (pod,) = [pod for pod in executors.values() if "nodeSelectorJson" in pod.get("nodeSelector", {})]
    inner = "pipelinechannel--decide-train_{}".format
    assert pod["nodeSelector"]["nodeSelectorJson"] == {"componentInputParameter": inner("selector")}
    assert pod["tolerations"] == [{"tolerationJson": {"componentInputParameter": inner("taints")}}]
    (dag,) = [c for name, c in spec["components"].items() if "dag" in c]
    names = ("pool", "selector", "taints", "cpu", "memory", "devices")
    assert {inner(name) for name in names} <= set(dag["inputDefinitions"]["parameters"])
    done = run(path, SPOT)
    (task,) = [task for name, task in done.tasks.items() if name.startswith("condition")]
    assert task.pool == "gpu-spot" and task.asked["nodeSelector"] == SPOT["train_selector"], done.tasks


FIXED = {"fetch-model", "fetch-teacher", "fetch-student", "fetch-service", "ledger"}
FIXED |= {"prepare", "prepare-data", "publish"}
"""Tasks that load no whole model, or come before the plan."""


@pytest.mark.parametrize("name", packages.names())
def test_every_heavy_task_of_every_pipeline_goes_where_its_plan_says(tmp_path, name):
    packages.compile_to(name, tmp_path / "compiled.yaml")
    placed = {
        path.rpartition(".")[2]: pipeline_spec.place(leaf.placement)
        for path, leaf in pipeline_spec.leaves(pipeline_spec.read(tmp_path / "compiled.yaml"))
    }
    training = {"finetune", "distill", "control", "heal"} | ({"tune"} if name == "tune" else set())
    follower = {"retrain"} | ({"tune"} if name == "tune_katib" else set())  # of windows, of an Experiment
    for task, place in placed.items():
        if task in training:
            assert place == "train", task
        elif task == "watch":
            assert place == "watch"
        elif task in FIXED | follower:
            assert place in ("", "scoring" if task == "publish" else ""), task
        else:
            assert place == "scoring", task
    assert "train" in placed.values() and "scoring" in placed.values()


def test_what_a_plan_decides_for_finetune_keeps_the_status_of_a_run_small(tmp_path):
    packages.compile_to("finetune", tmp_path / "finetune.yaml")
    leaves = dict(pipeline_spec.leaves(pipeline_spec.read(tmp_path / "finetune.yaml")))
    memory = {
        name: leaves[name].executor.container.resources["resourceMemoryLimit"].rpartition("-")[2]
        for name in ("finetune", "watch", "evaluate-before", "judge")
    }
    assert {name: words.partition("'")[0] for name, words in memory.items()} == {
        "finetune": "train_memory",
        "watch": "watch_memory",
        "evaluate-before": "scoring_memory",
        "judge": "scoring_memory",
    }
    documents = list(yaml.safe_load_all((tmp_path / "finetune.yaml").read_text()))
    # tests/kfp allows 700,000 of the server's own, 1 % more
    assert server_rules.status_bytes(documents) < 692_000
