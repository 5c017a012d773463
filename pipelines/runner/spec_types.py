"""Declare the parts of a compiled pipeline (KFP IR, schema 2.1.0) that a run needs."""

from typing import Any

import msgspec
from msgspec import field

JsonValue = Any


class Node(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A part of the IR: camelCase in the file, unknown keys ignored."""


class ParameterDefinition(Node, frozen=True):
    parameter_type: str
    default_value: JsonValue = None
    is_optional: bool = False
    description: str = ""


class ArtifactType(Node, frozen=True):
    schema_title: str = "system.Artifact"
    schema_version: str = "0.0.1"


class ArtifactSpec(Node, frozen=True):
    artifact_type: ArtifactType = ArtifactType()
    is_optional: bool = False


class Definitions(Node, frozen=True):
    parameters: dict[str, ParameterDefinition] = {}
    artifacts: dict[str, ArtifactSpec] = {}


class FromTask(Node, frozen=True):
    """An output of a sibling task (``producerTask``) or of a member of a sub-DAG (``producerSubtask``)."""

    producer_task: str = ""
    producer_subtask: str = ""
    output_parameter_key: str = ""
    output_artifact_key: str = ""


class ParameterInput(Node, frozen=True):
    task_output_parameter: FromTask | None = None
    component_input_parameter: str = ""
    runtime_value: dict[str, JsonValue] | None = None


class ArtifactInput(Node, frozen=True):
    task_output_artifact: FromTask | None = None
    component_input_artifact: str = ""


class TaskInputs(Node, frozen=True):
    parameters: dict[str, ParameterInput] = {}
    artifacts: dict[str, ArtifactInput] = {}


class Trigger(Node, frozen=True):
    condition: str = ""
    strategy: str = ""


class Retry(Node, frozen=True):
    max_retry_count: int = 0
    backoff_duration: str = "0s"
    backoff_factor: float = 2.0
    backoff_max_duration: str = "3600s"


class Task(Node, frozen=True):
    component_ref: dict[str, str]
    inputs: TaskInputs = TaskInputs()
    dependent_tasks: list[str] = []
    trigger_policy: Trigger = Trigger()
    retry_policy: Retry = Retry()
    caching_options: dict[str, bool] = {}
    task_info: dict[str, str] = {}
    parameter_iterator: JsonValue = None
    artifact_iterator: JsonValue = None

    @property
    def component(self) -> str:
        return self.component_ref["name"]

    @property
    def upstream(self) -> list[str]:
        """Return the tasks of the same DAG that must end first."""
        sources = [i.task_output_parameter for i in self.inputs.parameters.values()]
        sources += [i.task_output_artifact for i in self.inputs.artifacts.values()]
        return sorted({*self.dependent_tasks, *(s.producer_task for s in sources if s)})


class ArtifactOutput(Node, frozen=True):
    artifact_selectors: list[FromTask] = []


class ParameterSelectors(Node, frozen=True):
    parameter_selectors: list[FromTask] = []


class ParameterOutput(Node, frozen=True):
    value_from_parameter: FromTask | None = None
    value_from_oneof: ParameterSelectors = ParameterSelectors()

    @property
    def candidates(self) -> list[FromTask]:
        return (
            [self.value_from_parameter]
            if self.value_from_parameter
            else self.value_from_oneof.parameter_selectors
        )


class DagOutputs(Node, frozen=True):
    artifacts: dict[str, ArtifactOutput] = {}
    parameters: dict[str, ParameterOutput] = {}


class Dag(Node, frozen=True):
    tasks: dict[str, Task] = {}
    outputs: DagOutputs = DagOutputs()


class Component(Node, frozen=True):
    executor_label: str = ""
    dag: Dag | None = None
    input_definitions: Definitions = Definitions()
    output_definitions: Definitions = Definitions()


class Container(Node, frozen=True):
    image: str
    command: list[str] = []
    args: list[str] = []
    env: list[dict[str, str]] = []
    resources: dict[str, JsonValue] = {}


class Importer(Node, frozen=True):
    artifact_uri: dict[str, str]


class Executor(Node, frozen=True):
    container: Container | None = None
    importer: Importer | None = None


class Deployment(Node, frozen=True):
    executors: dict[str, Executor] = {}


class Info(Node, frozen=True):
    name: str
    description: str = ""


class Pipeline(Node, frozen=True):
    pipeline_info: Info
    root: Component
    components: dict[str, Component] = {}
    deployment_spec: Deployment = Deployment()
    kubernetes: dict[str, dict[str, JsonValue]] = field(default_factory=dict)
    """Placement by executor, from the file's second document."""
    digest: str = ""
    """SHA-256 (hex) of the content, without comments, layout and the order of keys."""
