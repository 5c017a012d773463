"""Pass values between tasks, and fill in KFP's placeholders in command lines."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import celpy
import celpy.adapter
import celpy.celparser
import celpy.evaluation

from deepcuts.pipelines.runner import pipeline_spec, spec_types

T = TypeVar("T")
EndStatus = Literal["done", "failed", "skipped"]
ExecutorInput = dict[str, Any]
"""KFP's value of ``{{$}}``."""


class Artifact(NamedTuple):
    path: Path
    kind: spec_types.ArtifactType
    digest: str


class TaskValues(NamedTuple):
    """Inputs or outputs of a task or a DAG."""

    status: EndStatus
    parameters: dict[str, Any]
    artifacts: dict[str, Artifact]


FAILED = TaskValues("failed", {}, {})
SKIPPED = TaskValues("skipped", {}, {})


def inputs(
    task: spec_types.Task, scope: TaskValues, upstream: Mapping[str, TaskValues], run: Mapping[str, str]
) -> TaskValues:
    """Return the task's inputs, without those that a failed or skipped task did not make."""
    parameters: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    artifacts: dict[str, Artifact] = {}
    for name, source in task.inputs.parameters.items():
        if source.runtime_value is not None:
            constants[name] = source.runtime_value["constant"]
        elif made := source.task_output_parameter:
            _take(upstream[made.producer_task].parameters, made.output_parameter_key, parameters, name)
        elif source.component_input_parameter:
            _take(scope.parameters, source.component_input_parameter, parameters, name)
        else:
            raise ValueError(f"input {name!r}: the local runner does not know this kind of input")
    for name, origin in task.inputs.artifacts.items():
        if made := origin.task_output_artifact:
            _take(upstream[made.producer_task].artifacts, made.output_artifact_key, artifacts, name)
        else:
            _take(scope.artifacts, origin.component_input_artifact, artifacts, name)
    parameters |= {name: _constant(name, constant, parameters, run) for name, constant in constants.items()}
    return TaskValues("done", parameters, artifacts)


def outputs(dag: spec_types.Dag, ended: Mapping[str, TaskValues], status: EndStatus) -> TaskValues:
    """Return the DAG's outputs; of several candidates (``dsl.OneOf``), the one whose branch ran."""
    parameters: dict[str, Any] = {}
    artifacts: dict[str, Artifact] = {}
    for name, output in dag.outputs.parameters.items():
        for made in output.candidates:
            _take(ended[made.producer_subtask].parameters, made.output_parameter_key, parameters, name)
    for name, choice in dag.outputs.artifacts.items():
        for made in choice.artifact_selectors:
            _take(ended[made.producer_subtask].artifacts, made.output_artifact_key, artifacts, name)
    return TaskValues(status, parameters, artifacts)


def _take(source: Mapping[str, T], key: str, target: dict[str, T], name: str) -> None:
    if key in source:
        target[name] = source[key]


def executor_input(
    component: spec_types.Component,
    inputs: TaskValues,
    uri: Callable[[Artifact], str],
    place: Callable[[str], str],
) -> ExecutorInput:
    """Return KFP's ``{{$}}``: with real paths for a process, with digests and bare names for its identity."""
    made, given = component.output_definitions, component.input_definitions.parameters
    return {
        "inputs": {
            "parameterValues": {name: value for name, value in inputs.parameters.items() if name in given},
            "artifacts": {n: _artifact(n, a.kind, uri(a)) for n, a in inputs.artifacts.items()},
        },
        "outputs": {
            "parameters": {name: {"outputFile": place(name)} for name in made.parameters},
            "artifacts": {
                n: _artifact(n, s.artifact_type, f"file://{place(n)}") for n, s in made.artifacts.items()
            },
            "outputFile": place("executor_output.json"),
        },
    }


def _artifact(name: str, kind: spec_types.ArtifactType, uri: str) -> dict[str, Any]:
    described = {"schemaTitle": kind.schema_title, "schemaVersion": kind.schema_version}
    return {"artifacts": [{"name": name, "type": described, "uri": uri, "metadata": {}}]}


def written(component: spec_types.Component, outputs: Path) -> dict[str, Any]:
    """Read output parameters from the step's ExecutorOutput, else from their files, as on KFP."""
    report = outputs / "executor_output.json"
    reported = json.loads(report.read_text()).get("parameterValues", {}) if report.exists() else {}
    return {
        name: reported[name]
        if name in reported
        else decode((outputs / name).read_text(), spec.parameter_type)
        for name, spec in component.output_definitions.parameters.items()
    }


def encode(value: Any) -> str:
    """Encode a parameter for argv like KFP: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(pipeline_spec.whole(value), ensure_ascii=False)


def decode(text: str, kind: str) -> Any:
    """Decode a parameter that a step wrote to a file, by its declared type."""
    return text if kind == "STRING" else json.loads(text)


def holds(condition: str, parameters: Mapping[str, Any]) -> bool:
    """Tell whether a CEL trigger condition is true; numbers are doubles, as on KFP.

    Raises:
        ValueError: it cannot be evaluated with these parameters.
    """
    numbers = {
        name: float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        for name, value in parameters.items()
    }
    environment = celpy.Environment()
    try:
        program = environment.program(environment.compile(condition))
        return bool(program.evaluate({"inputs": celpy.adapter.json_to_cel({"parameter_values": numbers})}))
    except (celpy.celparser.CELParseError, celpy.evaluation.CELEvalError) as error:
        raise ValueError(f"condition {condition!r}: cannot be evaluated ({error.args[0]})") from error


def _constant(name: str, constant: Any, parameters: Mapping[str, Any], run: Mapping[str, str]) -> Any:
    """Return a constant of the pipeline; an f-string may refer to other inputs of the same task."""
    if isinstance(constant, str):
        return fill([constant], {"inputs": {"parameterValues": parameters}}, run)[0]
    if "{{$." in json.dumps(constant):
        raise ValueError(
            f"input {name!r}: a pipeline value inside a list or dict: pass it as its own parameter"
        )
    return pipeline_spec.whole(constant)


def fill(words: list[str], executor: ExecutorInput, run: Mapping[str, str]) -> list[str]:
    """Replace the placeholders in a command line; ``run`` has those of the run (``pipeline_job_name``)."""
    return [text for word in words for text in _open(word, executor, run)]


def _open(word: str, executor: ExecutorInput, run: Mapping[str, str]) -> list[str]:
    if word.startswith(('{"Concat": ', '{"IfPresent": ')):
        return _structure(json.loads(word), executor, run)
    return [_PLACEHOLDER.sub(lambda match: _value(match, executor, run), word)]


def _structure(part: Any, executor: ExecutorInput, run: Mapping[str, str]) -> list[str]:
    match part:
        case {"Concat": parts}:
            return ["".join(text for inner in parts for text in _structure(inner, executor, run))]
        case {"IfPresent": {"InputName": name, **arms}}:
            inputs = executor["inputs"]
            chosen = "Then" if name in inputs["parameterValues"] or name in inputs["artifacts"] else "Else"
            return _structure(arms.get(chosen, []), executor, run)
        case list():
            return [text for inner in part for text in _structure(inner, executor, run)]
        case _:
            return _open(part, executor, run)


_PLACEHOLDER = re.compile(
    r"\{\{\$(?P<all>)\}\}"
    r"|\{\{\$\.(?P<side>inputs|outputs)\.(?P<kind>parameters|artifacts)\['(?P<name>[^']+)'\](?:\.(?P<part>\w+))?\}\}"
    r"|\{\{\$\.(?P<run>[\w.]+)\}\}"
)


def _value(match: re.Match[str], executor: ExecutorInput, run: Mapping[str, str]) -> str:
    if match["all"] is not None:
        return json.dumps(executor, ensure_ascii=False)
    try:
        if match["run"]:
            return run[match["run"]]
        side, name = executor[match["side"]], match["name"]
        if match["kind"] == "artifacts":
            if name not in side["artifacts"]:  # optional, and not made
                return match[0]  # as KFP's launcher leaves it
            uri: str = side["artifacts"][name]["artifacts"][0]["uri"]
            return uri if match["part"] == "uri" else uri.removeprefix("file://")
        if match["side"] == "outputs":
            return str(side["parameters"][name]["outputFile"])
        return encode(side["parameterValues"][name])
    except KeyError as error:
        raise ValueError(
            f"placeholder {match[0]}: {error} is unknown: the local runner cannot fill it"
        ) from error
