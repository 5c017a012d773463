"""Find a node pool that keeps a pod waiting, so that the plan can take the next best."""

from collections.abc import Iterable, Mapping

from deepcuts.components.core.nodepools import NodePool
from deepcuts.pipelines.kubeflow.pods import RunPods
from deepcuts.pipelines.runner import pipeline_spec
from deepcuts.pipelines.runner.spec_types import Pipeline

MOVABLE = ("train", "scoring")
"""Places that a plan may move to another pool; a watcher always uses the CPU pool."""


def check(pipeline: Pipeline, pool: object) -> None:
    """Raise ValueError if a run of ``pipeline`` chooses no pool, so that there is no next best."""
    if not movable(pipeline) or "nodepools" not in pipeline.root.input_definitions.parameters:
        raise ValueError("--next-pool-after: no plan chooses the pools of this pipeline: leave it out")
    if pool not in ("", "auto", None):
        raise ValueError(f"--next-pool-after: pool is {pool!r}, so there is no other: set pool to auto")


def movable(pipeline: Pipeline) -> list[str]:
    """Return the paths of the tasks placed by the run's plan, except watchers."""
    return [
        path
        for path, leaf in pipeline_spec.leaves(pipeline)
        if pipeline_spec.place(leaf.placement) in MOVABLE
    ]


def find(pods: RunPods, tasks: Iterable[str], pools: Mapping[str, NodePool], seconds: float) -> str:
    """Return the pool without room for a pod of ``tasks`` for ``seconds``; empty if there is none.

    Also empty if every other pool is already closed, as only waiting is left.
    """
    for task in tasks:
        waited, selector = pods.without_room(task)
        if waited < seconds or not selector:
            continue
        full = next((pool.name for pool in pools.values() if pool.selector == selector), "")
        if full and any(not pool.closed for pool in pools.values() if pool.name != full):
            return full
    return ""
