"""A pool without room: found by what Kubernetes says of a waiting pod, left for the next best one."""

import datetime
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from deepcuts.components.core import clock, nodepools
from deepcuts.pipelines.command import packages
from deepcuts.pipelines.kubeflow import full_pools, pods
from deepcuts.pipelines.runner import pipeline_spec

POOLS = nodepools.parse(
    {
        "pools": [
            {"name": name, "selector": {"kind": name}, "cpu_cores": 4, "memory_bytes": 2**34}
            for name in ("cpu", "gpu")
        ]
    }
)


def waiting(task: str, seconds: float, reason: str = "Unschedulable", phase: str = "Pending") -> client.V1Pod:
    """A pod of ``task`` on its way to the pool gpu, as Kubernetes lists it."""
    began = clock.now() - datetime.timedelta(seconds=seconds)
    named = {pods.NODE_ANNOTATION: f"flow(0).root(0).exit-handler-1(0).{task}(0).executor(0)"}
    condition = client.V1PodCondition(
        type="PodScheduled", status="False", reason=reason, last_transition_time=began
    )
    return client.V1Pod(
        metadata=client.V1ObjectMeta(annotations=named, creation_timestamp=began),
        spec=client.V1PodSpec(containers=[], node_selector={"kind": "gpu"}),
        status=client.V1PodStatus(phase=phase, conditions=[condition]),
    )


@pytest.mark.parametrize(
    ("waits", "pool"),
    [
        ({"task": "finetune", "seconds": 601}, "gpu"),
        ({"task": "finetune", "seconds": 30}, ""),
        (
            {"task": "finetune", "seconds": 601, "reason": "SchedulingGated"},
            "",
        ),  # Kueue holds it
        ({"task": "finetune", "seconds": 601, "phase": "Running"}, ""),
        ({"task": "watch", "seconds": 601}, ""),  # it has no other pool
    ],
)
def test_the_pool_without_room_is_found_after_the_time_given(waits: dict[str, Any], pool: str):
    run = pods.RunPods("kubeflow", "run-1")
    run._pods = [waiting(**waits)]
    assert full_pools.find(run, ["finetune", "judge"], POOLS, 600) == pool


def test_the_last_open_pool_is_waited_for():
    run = pods.RunPods("kubeflow", "run-1")
    run._pods = [waiting("finetune", 601)]
    rest = nodepools.parse(nodepools.with_closed(POOLS, "cpu"))
    assert full_pools.find(run, ["finetune"], rest, 600) == ""


def test_only_what_a_plan_places_moves_and_a_named_pool_stays(tmp_path: Path):
    packages.package("finetune", tmp_path / "pipeline.yaml")
    pipeline = pipeline_spec.read(tmp_path / "pipeline.yaml")
    assert {"finetune", "evaluate-before", "judge"} <= set(full_pools.movable(pipeline))
    assert not {"watch", "prepare", "ledger"} & set(full_pools.movable(pipeline))
    full_pools.check(pipeline, "auto")
    with pytest.raises(ValueError, match="pool is 'gpu', so there is no other: set pool to auto"):
        full_pools.check(pipeline, "gpu")
