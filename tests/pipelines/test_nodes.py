"""Every task of every pipeline, compiled, against the nodes of every pool, here and on clouds."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity

from deepcuts.components.core import nodepools
from deepcuts.components.core.nodepools import NodePool
from deepcuts.pipelines import pools
from deepcuts.pipelines.command import packages
from deepcuts.pipelines.runner import pipeline_spec
from tests.conftest import ROOT

LABELS = {
    "plain": "node-pool",
    "GKE": "cloud.google.com/gke-nodepool",
    "EKS": "eks.amazonaws.com/nodegroup",
    "AKS": "kubernetes.azure.com/agentpool",
}
COMPILE = """
from pathlib import Path
from deepcuts.pipelines.command import packages
for name in packages.names():
    packages.compile_to(name, Path(f"{name}.yaml"))
"""


@pytest.fixture(scope="module", params=LABELS)
def compiled(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, NodePool]]:
    """Folder of all pipelines compiled for a cloud's node label, and the pools they were compiled for."""
    folder = tmp_path_factory.mktemp(request.param)
    value = yaml.safe_load(pools.NODEPOOLS.read_text())
    for pool in value["pools"]:
        pool["selector"] = {LABELS[request.param]: pool["name"]}
    (folder / "nodepools.txt").write_text(yaml.safe_dump(value))
    environment = os.environ | {"DEEPCUTS_NODEPOOLS": str(folder / "nodepools.txt"), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", COMPILE], cwd=folder, env=environment, check=True)
    return folder, nodepools.parse(value)


def tasks(folder: Path) -> list[tuple[str, dict[str, Any], dict[str, Any], pipeline_spec.Leaf]]:
    """(pipeline and task, placement, resources, the rest) of every task that is placed when compiling."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        executors = next(yaml.safe_load_all(path.read_text()))["deploymentSpec"]["executors"]
        for name, leaf in pipeline_spec.leaves(pipeline_spec.read(path)):
            if pipeline_spec.pool(leaf.placement) == pipeline_spec.AS_PLANNED:
                continue
            resources = executors[leaf.component.executor_label]["container"].get("resources", {})
            found.append((f"{path.stem}: {name}", dict(leaf.placement), resources, leaf))
    assert {name.partition(":")[0] for name, *_ in found} == set(packages.names())
    return found


def admits(node: NodePool, placement: dict[str, Any]) -> bool:
    """The scheduler's rule, for a node with just the labels and taints of its pool."""
    selector = placement["nodeSelector"]["labels"]
    tolerations = placement.get("tolerations", [])
    return selector.items() <= node.selector.items() and all(
        any(
            t["key"] == taint.key
            and t["effect"] == "NoSchedule"
            and t.get("value", taint.value) == taint.value
            for t in tolerations
        )
        for taint in node.tolerations
    )


def test_every_task_lands_on_its_pool_and_on_no_other(compiled):
    folder, pools = compiled
    for name, placement, _, _ in tasks(folder):
        assert [pool.name for pool in pools.values() if admits(pool, placement)] == [
            pipeline_spec.pool(placement)
        ], name


def test_cpu_tasks_are_kept_off_accelerators_by_selector_and_by_taint_alone(compiled):
    folder, pools = compiled
    dear = [pool for pool in pools.values() if pool.accelerator]
    for name, placement, resources, _ in tasks(folder):
        if "accelerator" in resources:
            continue
        unlabelled = placement | {"nodeSelector": {"labels": {}}}
        assert not any(admits(pool, placement) or admits(pool, unlabelled) for pool in dear), name


def test_every_task_asks_for_what_a_node_of_its_pool_has(compiled):
    folder, pools = compiled
    for name, placement, resources, _ in tasks(folder):
        pool = pools[pipeline_spec.pool(placement)]
        for kind, there in (("Cpu", pool.cpu_cores), ("Memory", pool.memory_bytes)):
            if "{{" in resources[f"resource{kind}Limit"]:  # plan sizes it
                continue
            asked = parse_quantity(resources[f"resource{kind}Request"])
            assert 0 < asked <= there and asked == parse_quantity(resources[f"resource{kind}Limit"]), name
        card = resources.get("accelerator", {"resourceType": "", "resourceCount": "0"})
        assert (card["resourceType"], int(card["resourceCount"])) == (
            pool.accelerator,
            pool.accelerator_count,
        ), name


def test_every_task_may_run_restricted_with_a_read_only_root(compiled):
    folder, pools = compiled
    for name, placement, _, _ in tasks(folder):
        assert placement["securityContext"] == {
            "runAsUser": "65532",
            "runAsGroup": "65532",
            "runAsNonRoot": True,
        }, name
        mounts = {volume["mountPath"] for volume in placement["emptyDirMounts"]}
        assert mounts == {"/scratch"} | (
            {"/dev/shm"} if pools[pipeline_spec.pool(placement)].accelerator else set()
        ), name


def test_spot_tasks_are_replaced_for_as_long_as_they_may_run(compiled):
    folder, pools = compiled
    for name, placement, _, leaf in tasks(folder):
        retry = leaf.task.retry_policy
        spot = pools[pipeline_spec.pool(placement)].spot
        assert bool(retry.max_retry_count) == spot, name
        assert not spot or pipeline_spec.seconds(retry.backoff_max_duration) == int(
            placement["activeDeadlineSeconds"]
        ), name


def test_no_task_holds_a_secret_by_value(compiled):
    folder, _ = compiled
    for name, placement, _, leaf in tasks(folder):
        assert not leaf.executor.container.env, name
        assert {reference["secretName"] for reference in placement["secretAsEnv"]} == {
            "mlpipeline-minio-artifact"
        }, name
