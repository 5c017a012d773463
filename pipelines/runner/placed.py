"""Resolve the placement of a task that an earlier task has placed, like KFP 2.17's driver."""

from collections.abc import Mapping
from typing import Any

import msgspec

from deepcuts.components.core import executor_input
from deepcuts.pipelines.runner import pipeline_spec, placeholders, spec_types
from deepcuts.pipelines.runner.placeholders import TaskValues


def pool(leaf: pipeline_spec.Leaf, inputs: TaskValues) -> str:
    """Return the node pool of a task that is about to start."""
    return str(inputs.parameters.get(executor_input.POOL) or pipeline_spec.pool(leaf.placement))


def asked(
    leaf: pipeline_spec.Leaf, inputs: TaskValues, scope: TaskValues, upstream: Mapping[str, TaskValues]
) -> dict[str, Any]:
    """Return node selector, tolerations and resources decided during the run; empty for other tasks.

    Raises:
        ValueError: a value is of a type that the driver cannot put into a pod.
    """
    selector = leaf.placement.get("nodeSelector", {}).get("nodeSelectorJson")
    tolerations = [
        t["tolerationJson"] for t in leaf.placement.get("tolerations", []) if "tolerationJson" in t
    ]
    sources = {"nodeSelector": selector} if selector else {}
    sources |= {f"tolerations {number}": source for number, source in enumerate(tolerations)}
    task = spec_types.Task(
        {}, spec_types.TaskInputs(msgspec.convert(sources, dict[str, spec_types.ParameterInput]))
    )
    found: dict[str, Any] = placeholders.inputs(task, scope, upstream, {}).parameters
    for name, value in found.items():
        if not isinstance(value, dict if name == "nodeSelector" else (dict, list)):
            raise ValueError(f"{name}: {value!r} goes into no pod: give a mapping, or a list of tolerations")
    resources = leaf.executor.container.resources if leaf.executor.container else {}
    quantities = _quantities(resources, inputs)
    return found | ({"resources": quantities} if quantities != resources else {})


def _quantities(resources: Mapping[str, Any], inputs: TaskValues) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in resources.items():
        if isinstance(value, dict):
            found[name] = _quantities(value, inputs)
        elif isinstance(value, str):
            executor = {"inputs": {"parameterValues": inputs.parameters, "artifacts": {}}}
            (found[name],) = placeholders.fill([value], executor, {})
        else:
            found[name] = value
    return found
