"""Node pools without room: which one keeps a pod waiting, so that the plan can take the next best."""

from collections.abc import Iterable, Mapping

from deepcuts.components.core.nodepools import NodePool
from deepcuts.pipelines.kubeflow.pods import RunPods
from deepcuts.pipelines.runner import pipeline_spec
from deepcuts.pipelines.runner.spec_types import Pipeline

MOVABLE = ("train", "scoring")
"""Places that a plan may have on several pools; a watcher's is the CPU pool in any case."""


def check(pipeline: Pipeline, pool: object) -> None:
    """Raise ValueError where a run of ``pipeline`` has no next best pool: none is chosen in it."""
    if not movable(pipeline) or "nodepools" not in pipeline.root.input_definitions.parameters:
        raise ValueError("--next-pool-after: no plan chooses the pools of this pipeline: leave it out")
    if pool not in ("", "auto", None):
        raise ValueError(f"--next-pool-after: pool is {pool!r}, so there is no other: set pool to auto")


def movable(pipeline: Pipeline) -> list[str]:
    """Return the paths of the tasks that a plan places in the run, watchers aside."""
    return [
        path
        for path, leaf in pipeline_spec.leaves(pipeline)
        if pipeline_spec.place(leaf.placement) in MOVABLE
    ]


def find(pods: RunPods, tasks: Iterable[str], pools: Mapping[str, NodePool], seconds: float) -> str:
    """Return the pool that has had no room for a pod of ``tasks`` for ``seconds``; empty if there is none.

    Empty, too, where every other pool is closed already: then waiting is all that is left.
    """
    for task in tasks:
        waited, selector = pods.without_room(task)
        if waited < seconds or not selector:
            continue
        full = next((pool.name for pool in pools.values() if pool.selector == selector), "")
        if full and any(not pool.closed for pool in pools.values() if pool.name != full):
            return full
    return ""
