"""Refuse pipelines that a Kubeflow Pipelines server would refuse or misinterpret.

Measured on KFP 2.17.0; every message names the fix. The local runner has the same semantics, so that whatever
runs here runs there.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deepcuts.pipelines.runner.pipeline_spec import COMPLETED, read_yaml

Json = dict[str, Any]
PACKAGE_BYTES = 32 * 2**20
"""Largest upload that the API server accepts."""
PARAMETER_BYTES = 128 * 1024
"""Limit of one default value, as a run's values are repeated in every node of its workflow."""
STATUS_BYTES = 900_000
"""Limit of a run's workflow status. If it exceeds 1 MiB including the specification, about 110 kB, Argo
compresses it and KFP 2.17 cannot read it any more: the run's details freeze."""
PLACED_BYTES = 40
"""Bytes of an input that only places a pod: a quantity, a name, or kfp's reference to it."""
LAUNCHER_BYTES, INPUT_BYTES, OUTPUT_BYTES, NODE_BYTES, ESCAPED = 900, 560, 230, 1_600, 1.11
"""Bytes of a pod: the launcher's arguments, an input and an output artifact, each node, and nested quotes.
Fitted to the runs measured by ``tests/kfp``, within 10 %."""


def check(package: Path) -> None:
    """Refuse a compiled pipeline that a server would refuse.

    Raises:
        ValueError: all problems, one per line.
    """
    documents = read_yaml(package)
    found = list(_of_size(package.read_text()))
    spec: Json = documents[0] if documents and isinstance(documents[0], dict) else {}
    for dag in dags(spec):
        found += _of_tasks(dag.get("tasks", {}))
    found += _of_parameters(spec)
    if (size := status_bytes(documents)) > STATUS_BYTES:
        found.append(
            f"about {size:,} bytes of status, above {STATUS_BYTES:,}: the server stops showing a run whose "
            "status passes 1 MiB; join tasks, or pass large values by the store"
        )
    if found:
        why = f"{package.name}: Kubeflow Pipelines refuses this"
        raise ValueError("\n".join(f"{why}: {line}" for line in found))


def dags(spec: Json) -> list[Json]:
    """Return every DAG of a pipeline, the root's first."""
    components = spec.get("components", {}).values()
    return [spec.get("root", {}).get("dag", {}), *(c["dag"] for c in components if "dag" in c)]


def _of_size(text: str) -> Iterator[str]:
    if len(text.encode()) > PACKAGE_BYTES:
        yield f"{len(text.encode()):,} bytes of YAML, above {PACKAGE_BYTES:,}: pass large values by the store"


def _of_tasks(tasks: Mapping[str, Json]) -> Iterator[str]:
    hooks = {
        name for name, task in tasks.items() if task.get("triggerPolicy", {}).get("strategy") == COMPLETED
    }
    for name, task in tasks.items():
        before = task.get("dependentTasks", [])
        if used := sorted(hooks & set(before)):
            yield (
                f"{name} needs {', '.join(used)}, which runs even after failures: the server makes it an "
                "exit hook, on which nothing may depend; use dsl.ExitHandler and let nothing follow it"
            )
        if name in hooks and len(before) > 1:
            yield (
                f"{name} runs even after failures of {len(before)} tasks: the server starts it after each of "
                "them; put them under one dsl.ExitHandler with it as exit task"
            )
        if name in hooks and task.get("inputs", {}).get("artifacts"):
            yield f"{name} runs even after failures, but its artifacts may be missing: pass only parameters"
        given = Counter(str(source) for source in task.get("inputs", {}).get("artifacts", {}).values())
        if any(count > 1 for count in given.values()):
            yield (
                f"{name} takes one artifact by two inputs: the metadata store takes an artifact once into a "
                "task; give it one input and use it twice"
            )


def _of_parameters(spec: Json) -> Iterator[str]:
    known = spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    for name, parameter in known.items():
        size = len(str(parameter.get("defaultValue", "")).encode())
        if size > PARAMETER_BYTES:
            yield f"{name}: a default of {size:,} bytes, above {PARAMETER_BYTES:,}: pass its URI"


def status_bytes(documents: list[Any]) -> int:
    """Estimate the bytes of a run's workflow status once every task has succeeded at its first attempt.

    A task has six nodes: driver, executor and container, each also for its retries. All six have the pod's
    specification as a string; the driver's two also have its inputs.
    """
    spec: Json = documents[0] if documents and isinstance(documents[0], dict) else {}
    platform = ((documents[1:] or [None])[0] or {}).get("platforms", {}).get("kubernetes", {})
    placed = platform.get("deploymentSpec", {}).get("executors", {})
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    known = spec.get("components", {})
    total = 2 * ESCAPED * _bytes(spec.get("root", {}))
    for dag in dags(spec):
        for task in dag.get("tasks", {}).values():
            component = known.get(task.get("componentRef", {}).get("name"), {})
            label = component.get("executorLabel")
            given = [component, task, executors.get(label, {}), placed.get(label, {})]
            total += 2 * ESCAPED * sum(map(_bytes, given))
            if label:
                total += 6 * ESCAPED**2 * _pod_bytes(*given) + 6 * NODE_BYTES
    return round(total)


def _pod_bytes(component: Json, task: Json, executor: Json, placement: Json) -> int:
    inputs, outputs = component.get("inputDefinitions", {}), component.get("outputDefinitions", {})
    artifacts = len(inputs.get("artifacts", {})), len(outputs.get("artifacts", {}))
    given = task.get("inputs", {}).get("parameters", {})
    declared = inputs.get("parameters", {})
    values = {name: source for name, source in given.items() if name in declared}
    return (
        LAUNCHER_BYTES
        + artifacts[0] * INPUT_BYTES
        + artifacts[1] * OUTPUT_BYTES
        + sum(map(_bytes, (component, executor, placement, values)))
        + sum(len(name) + PLACED_BYTES for name in given if name not in declared)
    )


def _bytes(value: object) -> int:
    """Estimate the length of a value as JSON, the server's form."""
    return len(json.dumps(value))
