"""What a Kubeflow Pipelines server refuses, or takes for something else than the YAML says: refused first.

Measured on KFP 2.17.0; every message names the fix. The local runner follows the same semantics, so that what
runs here runs there.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.runner.pipeline_spec import COMPLETED, read_yaml

Json = dict[str, Any]
PACKAGE_BYTES = 32 * 2**20
"""The API server takes no larger upload."""
PARAMETER_BYTES = 128 * 1024
"""Of one default value; the values of a run stand in every node of its workflow."""
STATUS_BYTES = 700_000
"""Of a run's workflow. Above 1 MiB Argo packs the status and KFP 2.17 cannot read it any more; tasks that are
tried again need the rest."""
NODE_BYTES, PATCH_COPIES = 6_000, 3
"""Of a task in the workflow's status beside its pod-spec patch, which stands there three times (measured)."""


def check(package: Path) -> None:
    """Refuse a compiled pipeline that a server would refuse.

    Raises:
        ValueError: everything that is wrong, one a line.
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
                f"{name} needs {', '.join(used)}, which runs whatever fails: the server makes an exit hook "
                "of it, and nothing may depend on one; use dsl.ExitHandler and let nothing follow it"
            )
        if name in hooks and len(before) > 1:
            yield (
                f"{name} runs whatever fails after {len(before)} tasks: the server starts it after each of "
                "them; put them under one dsl.ExitHandler with it as exit task"
            )
        if name in hooks and task.get("inputs", {}).get("artifacts"):
            yield f"{name} runs whatever fails, but its artifacts may be missing: give it parameters only"
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
    """Estimate the bytes of a run's workflow status: its tasks' pods, three times, and their nodes."""
    spec: Json = documents[0] if documents and isinstance(documents[0], dict) else {}
    platform = ((documents[1:] or [None])[0] or {}).get("platforms", {}).get("kubernetes", {})
    placed = platform.get("deploymentSpec", {}).get("executors", {})
    total = 0
    for component in spec.get("components", {}).values():
        if label := component.get("executorLabel"):
            executor = spec.get("deploymentSpec", {}).get("executors", {}).get(label, {})
            patch = sum(map(_bytes, (component, executor, placed.get(label), placed.get(label))))
            total += PATCH_COPIES * patch + NODE_BYTES
    return total


def _bytes(value: object) -> int:
    """Length of a value as the server holds it, about: JSON."""
    return len(json.dumps(value))
