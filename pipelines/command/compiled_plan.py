"""Read a compiled pipeline's arguments for its plan, fetching only the config.json of each model."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deepcuts.components.core import chain, cli, executor_input
from deepcuts.components.plan import step as plan_step
from deepcuts.pipelines.run_file import places
from deepcuts.pipelines.runner import pipeline_spec, spec_types

OF_EACH_STEP = {"--receipt", "--executor-input"}
"""Flags of every step."""
OUTER = "pipelinechannel--"
"""Prefix of a pipeline's parameter inside an exit handler or a condition."""


class PlanArguments(NamedTuple):
    """Arguments of the step ``plan`` in the run."""

    given: dict[str, Any]
    """Decoded values by name."""
    bases: dict[str, Path]
    """Folder with the config.json of each fetched model, by the task that fetches it."""


def folders(leaf: pipeline_spec.Leaf) -> set[str]:
    """Return the folder names of the components a task runs."""
    return {module.split(".")[2] for module in pipeline_spec.steps(leaf).values()}


def is_planned(pipeline: spec_types.Pipeline) -> bool:
    """Tell whether a task of the pipeline plans a training."""
    return any("plan" in folders(leaf) for _, leaf in pipeline_spec.leaves(pipeline))


def models(pipeline: spec_types.Pipeline) -> list[str]:
    """Return the parameters with the URIs of the models in the plan."""
    leaves = dict(pipeline_spec.leaves(pipeline))
    sources = [leaves[name].task.inputs.parameters["uri"] for name in _fetched(leaves)]
    return [name.removeprefix(OUTER) for each in sources if (name := each.component_input_parameter)]


def inputs(leaf: pipeline_spec.Leaf, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a task known before the run: constants and the pipeline's ``values``."""
    found: dict[str, Any] = {}
    for name, source in leaf.task.inputs.parameters.items():
        outer = source.component_input_parameter.removeprefix(OUTER)
        if source.runtime_value is not None:
            found[name] = pipeline_spec.whole(source.runtime_value["constant"])
        elif outer in values:
            found[name] = values[outer]
    return found


def arguments(pipeline: spec_types.Pipeline, values: Mapping[str, Any], scratch: Path) -> PlanArguments:
    """Return the arguments of the plan of a run with ``values``, except the charges of tasks before it.

    Raises:
        ValueError: the run has no planning task or one of another version; a value has the wrong type.
        FileNotFoundError, StoreError: a model's config.json is missing.
    """
    from deepcuts.pipelines.runner import placeholders  # its CEL library takes 0.4 s to import

    leaves = dict(pipeline_spec.leaves(pipeline))
    leaf = next((leaf for leaf in leaves.values() if "plan" in folders(leaf)), None)
    flags = _flags(leaf) if leaf else {}
    expected = set(map(executor_input.flag_of, inspect.signature(plan_step.plan).parameters))
    if leaf is None or flags.keys() != expected:
        raise ValueError("this file was compiled by another version: run deepcuts compile again")
    bases = {
        name: config_folder(parameter, str(inputs(leaves[name], values)["uri"]), scratch / name)
        for name, parameter in zip(_fetched(leaves), models(pipeline), strict=True)
    }
    made = {
        name: {source.output_artifact_key: placeholders.Artifact(bases[name], spec_types.ArtifactType(), "")}
        for name in bases
        for artifact in leaf.task.inputs.artifacts.values()
        if (source := artifact.task_output_artifact) and source.producer_task == name
    }
    upstream = {name: placeholders.TaskValues("done", {}, each) for name, each in made.items()}
    scope = placeholders.TaskValues("done", {f"{OUTER}{name}": each for name, each in values.items()}, {})
    given = placeholders.inputs(leaf.task, scope, upstream, {})
    executor = placeholders.executor_input(
        leaf.component, given, lambda one: f"file://{one.path}", lambda name: str(scratch / "out" / name)
    )
    filled = placeholders.fill([*flags.values()], executor, {})
    words = [executor_input.value(word, executor) for word in filled]
    return PlanArguments(cli.parse(plan_step.plan, dict(zip(flags, words, strict=True)), []), bases)


def config_folder(parameter: str, uri: str, folder: Path) -> Path:
    """Return a folder with the config.json of the model at ``uri``, downloading nothing else.

    Raises:
        ValueError, FileNotFoundError, StoreError: it is missing or may not be read.
    """
    if path := places.local(uri):
        return path.resolve()
    pinned = places.pinned({parameter: uri}, None, lambda text: None)[parameter]
    from deepcuts.components.fetch import sources  # the hub's client takes half a second

    sources.locate(pinned, "model").copy(["config.json"], folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{parameter} {uri!r}: no config.json there: check the name")
    return folder


def _fetched(leaves: Mapping[str, pipeline_spec.Leaf]) -> list[str]:
    """Return the tasks that fetch the models of the plan."""
    of_plan = [leaf.task.inputs.artifacts.values() for leaf in leaves.values() if "plan" in folders(leaf)]
    sources = [artifact.task_output_artifact for one in of_plan for artifact in one]
    producers = {source.producer_task for source in sources if source}
    return sorted(name for name in producers & leaves.keys() if "fetch" in folders(leaves[name]))


def _flags(leaf: pipeline_spec.Leaf) -> dict[str, str]:
    """Return the compiled flags of the step ``plan``, alone or in a chain."""
    assert leaf.executor.container
    args = leaf.executor.container.args
    if chain.PART in args:
        module = executor_input.step_module("plan")
        (args,) = [part.argv for part in chain.split(args)[1] if part.module == module]
    return {flag: word for flag, word in executor_input.pairs(args) if flag not in OF_EACH_STEP}
