"""Read a compiled pipeline: its parameters, its tasks, and their placement."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import msgspec
import yaml

from deepcuts.components.core import executor_input, strict, yaml_files
from deepcuts.pipelines.runner.spec_types import Component, Executor, JsonValue, Pipeline, Task

AS_PLANNED = "as planned"
"""Stands for the pool of a task that is placed during the run."""
COMPLETED = "ALL_UPSTREAM_TASKS_COMPLETED"
"""Trigger of a task that runs even after failures."""


class Leaf(NamedTuple):
    task: Task
    component: Component
    executor: Executor
    placement: Mapping[str, JsonValue]

    @property
    def caching(self) -> bool:
        return self.task.caching_options.get("enableCache", False)


def read_yaml(package: Path) -> list[JsonValue]:
    """Read the documents of a compiled YAML, which is untrusted.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not YAML, is nested too deeply, or its aliases expand to too much.
    """
    try:
        return list(yaml.load_all(package.read_text(), yaml_files.Bounded))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{package} is not a compiled pipeline ({error}): run deepcuts compile") from error


def read(package: Path) -> Pipeline:
    """Return the pipeline in a compiled YAML.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not a compiled pipeline, or uses a feature that needs a cluster.
    """
    documents = read_yaml(package)
    try:
        pipeline = msgspec.convert(documents[0], Pipeline)
    except (msgspec.ValidationError, IndexError) as error:
        raise ValueError(f"{package} is not a compiled pipeline ({error}): run deepcuts compile") from error
    platform = ((documents[1:] or [None])[0] or {}).get("platforms", {}).get("kubernetes", {})
    pipeline = msgspec.structs.replace(
        pipeline,
        kubernetes=platform.get("deploymentSpec", {}).get("executors", {}),
        digest=hashlib.sha256(json.dumps(documents, sort_keys=True, default=str).encode()).hexdigest(),
    )
    list(leaves(pipeline))  # refuses features that need a cluster
    return pipeline


def left_out(pipeline: Pipeline, titles: Sequence[str]) -> set[str]:
    """Return the tasks that ``titles`` do not need and that do not run after failures.

    A task is named by its id, its title, or one of its steps, with any case and spaces.

    Raises:
        ValueError: there is no such task.
    """
    tasks = outer_tasks(pipeline)
    named = {key: name for name, task in tasks.items() for key in _names(pipeline, name, task)}
    titles = [title.lower().replace(" ", "-").replace("_", "-") for title in titles]
    if unknown := [title for title in titles if title not in named]:
        raise ValueError("\n".join(strict.unknown_key("", title, named) for title in unknown))
    needed = {name for name, task in tasks.items() if task.trigger_policy.strategy == COMPLETED}
    wanted = [named[title] for title in titles]
    while wanted:
        name = wanted.pop()
        needed.add(name)
        wanted += tasks[name].upstream
    return set(tasks) - needed


def outer_tasks(pipeline: Pipeline) -> dict[str, Task]:
    """Return the root's tasks by name, including those of an exit handler."""
    found: dict[str, Task] = {}
    for name, task in (pipeline.root.dag.tasks if pipeline.root.dag else {}).items():
        inner = pipeline.components[task.component].dag
        found |= inner.tasks if inner and is_exit_handler(name) else {name: task}
    return found


def is_exit_handler(name: str) -> bool:
    """Tell whether a DAG exists only for an exit task; its name is not part of paths."""
    return name.startswith("exit-handler-")


def _names(pipeline: Pipeline, name: str, task: Task) -> list[str]:
    component = pipeline.components[task.component]
    words = [
        name,
        task.task_info.get("name", name),
        *(steps(leaf(pipeline, task)) if not component.dag else []),
    ]
    return [word.lower().replace(" ", "-").replace("_", "-") for word in words]


def steps(leaf: "Leaf") -> dict[str, str]:
    """Return the modules that a task runs, by the names of its steps in the ledger.

    One for a plain task, named after its module's folder; several for a chain (``components/core/chain.py``).
    """
    container = leaf.executor.container
    if not container or "-m" not in container.command[:-1]:
        return {}
    module = container.command[container.command.index("-m") + 1]
    parts = [value for flag, value in itertools.pairwise(container.args) if flag == "--part"]
    if parts:
        return dict(map(executor_input.named_step, parts))
    return {module.removesuffix(".step").rpartition(".")[2]: module}


def leaves(pipeline: Pipeline) -> Iterator[tuple[str, Leaf]]:
    """Yield every task that does work by path (``condition-1.train``), producers first, with sub-DAGs."""
    yield from _leaves(pipeline, pipeline.root, "")


def _leaves(pipeline: Pipeline, component: Component, prefix: str) -> Iterator[tuple[str, Leaf]]:
    tasks = component.dag.tasks if component.dag else {}
    for name in TopologicalSorter({name: task.upstream for name, task in tasks.items()}).static_order():
        task = tasks[name]
        if task.parameter_iterator or task.artifact_iterator:
            raise ValueError(
                f"task {prefix}{name}: ParallelFor needs a cluster: the local runner does not support it"
            )
        inner = pipeline.components[task.component]
        if inner.dag:
            yield from _leaves(pipeline, inner, prefix if is_exit_handler(name) else f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", leaf(pipeline, task)


def images(pipeline: Pipeline, until: Sequence[str] = ()) -> set[str]:
    """Return the names of the images of its tasks, except those that ``until`` leaves out."""
    skipped = left_out(pipeline, until) if until else set()
    containers = [one.executor.container for path, one in leaves(pipeline) if path not in skipped]
    return {one.image.rpartition("/")[2].partition(":")[0] for one in containers if one}


def leaf(pipeline: Pipeline, task: Task) -> Leaf:
    """Return a task with everything needed to run it."""
    component = pipeline.components[task.component]
    label = component.executor_label
    return Leaf(
        task, component, pipeline.deployment_spec.executors[label], pipeline.kubernetes.get(label, {})
    )


def pool(placement: Mapping[str, JsonValue]) -> str:
    """Return the node pool a task is placed on, AS_PLANNED if the run decides, or ``unknown``."""
    if "nodeSelectorJson" in placement.get("nodeSelector", {}):
        return AS_PLANNED
    labels = placement.get("podMetadata", {}).get("labels", {})
    name = labels.get("node-pool") or placement.get("nodeSelector", {}).get("labels", {}).get("node-pool")
    return str(name or "unknown")


def place(placement: Mapping[str, JsonValue]) -> str:
    """Return a task's place in its plan (train, scoring, watch); empty if placed at compile time."""
    source = placement.get("nodeSelector", {}).get("nodeSelectorJson", {})
    outer = source.get("componentInputParameter", "").rpartition("-")[2]  # of a task in a condition
    output = str(source.get("taskOutputParameter", {}).get("outputParameterKey", outer))
    return output.removesuffix("_selector")


KINDS: dict[str, type] = {
    "STRING": str,
    "NUMBER_INTEGER": int,
    "NUMBER_DOUBLE": float,
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}
"""KFP's parameter types."""


def arguments(pipeline: Pipeline, given: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return a value for each pipeline parameter: ``given``, else the default.

    Raises:
        ValueError: unknown names, missing values and wrong types, one per line.
    """
    known = pipeline.root.input_definitions.parameters
    found = [strict.unknown_key("", name, known) for name in given if name not in known]
    values: dict[str, JsonValue] = {}
    for name, parameter in known.items():
        if name not in given and not parameter.is_optional:
            found.append(f"{name}: missing: give it a value ({KINDS[parameter.parameter_type].__name__})")
            continue
        try:
            raw = given[name] if name in given else whole(parameter.default_value)
            values[name] = strict.decode(KINDS[parameter.parameter_type], raw, name)
        except ValueError as error:
            found.append(str(error))
    if found:
        raise ValueError("\n".join(found))
    return values


def whole(value: JsonValue) -> JsonValue:
    """Convert numbers like the launcher: a protobuf has only doubles, so 3.0 becomes 3 again."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [whole(item) for item in value]
        case dict():
            return {key: whole(item) for key, item in value.items()}
        case _:
            return value


def seconds(duration: str) -> float:
    """Parse a protobuf duration (``60s``)."""
    return float(duration.removesuffix("s"))
