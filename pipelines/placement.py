"""Put a task on a node pool: selector, tolerations, accelerator, resources, deadline, retries for spot."""

from collections.abc import Mapping
from typing import NamedTuple

from google.protobuf import json_format
from kfp import dsl, kubernetes
from kfp.kubernetes import common

from deepcuts.components.core import executor_input, pods, spread
from deepcuts.components.core.nodepools import NodePool

SERVICES = {"registry": "MODEL_REGISTRY_URL", "mlflow": "MLFLOW_TRACKING_URI"}
"""Services used by tasks marked by ``with_settings`` if the ConfigMap ``deepcuts-SERVICE`` has a ``url``."""
SPOT_RETRIES = 5
MIB = 2**20


class Size(NamedTuple):
    """Requests and limits of a pod."""

    cpu: float
    memory: str
    """A quantity: ``8Gi``."""
    max_hours: float
    """Deadline of a pod; on a spot pool, also the time within which lost pods are replaced."""


class Place(NamedTuple):
    """Place of a task that is placed during the run."""

    plan: dsl.PipelineTask
    """The task that decides."""
    name: str
    """train, scoring or watch: the prefix of its outputs."""
    queue: str
    """Kueue queue for the pods' label."""
    device: str
    """Resource name of accelerators; on a pool without any, KFP asks for 0, which Kubernetes accepts."""
    several: bool = False
    """Whether the task can take several nodes if the plan says so."""


def part_of(pool: NodePool, share: float, max_hours: float) -> Size:
    """Return a share of a node of ``pool``, so that sizes follow nodepools.yaml, not the code."""
    return Size(pods.cores(pool, share), f"{round(share * pool.memory_bytes / MIB)}Mi", max_hours)


def at_most(size: Size, limit: Size) -> Size:
    """Return the smaller of ``size`` and ``limit`` in each quantity."""
    memory = min(size.memory, limit.memory, key=_bytes)
    return Size(min(size.cpu, limit.cpu), memory, size.max_hours)


def _bytes(quantity: str) -> float:
    units = {"Mi": 2**20, "Gi": 2**30}
    return float(quantity[:-2]) * units[quantity[-2:]]


def on(
    pool: NodePool, task: dsl.PipelineTask, *, cpu: float, memory: int | str, max_hours: float
) -> dsl.PipelineTask:
    """Place ``task`` on ``pool`` with ``cpu`` cores and ``memory`` (bytes, or a quantity such as ``8Gi``).

    ``max_hours`` is the deadline of a pod; on a spot pool also the time within which lost pods are replaced.
    The step reads its placement from pod labels, not from env: newer KFP cache keys
    include env, and moving a step to another pool must not invalidate its cache.
    """
    pods.check_cores(pool, cpu)
    task.set_cpu_request(f"{cpu:g}").set_cpu_limit(f"{cpu:g}")
    task.set_memory_request(str(memory)).set_memory_limit(str(memory))
    return _on(pool, task, max_hours)


def as_planned(place: Place, task: dsl.PipelineTask, *, max_hours: float) -> dsl.PipelineTask:
    """Place ``task`` where a plan decides during the run, by outputs for pool, cores, memory, accelerators.

    KFP's driver resolves them (2.17). It takes pod labels only from the compiled file, so Kueue's queue and
    the accelerators' name are fixed, and the step finds its pool in the executor input. All but selector and
    tolerations are in KFP's cache key: after another decision, training starts again from its checkpoints in
    the store.
    """
    said = place.plan.outputs
    kubernetes.add_node_selector_json(task, said[f"{place.name}_selector"])
    kubernetes.add_toleration_json(task, said[f"{place.name}_taints"])
    if task.parent_task_group is not place.plan.parent_task_group:
        _from_outside(task)
    task.inputs[executor_input.POOL] = said[f"{place.name}_pool"]  # as kfp adds cpu_limit and others
    _as_every_pod(task, pods.LABELS | pods.queued(place.queue), max_hours)
    # only limits, which Kubernetes also takes as requests: a run's status holds each six times
    cpu, devices = said[f"{place.name}_cpu"], said[f"{place.name}_devices"]
    memory = said[f"{place.name}_memory"]
    task.set_cpu_limit(cpu).set_memory_limit(memory)
    task.set_accelerator_type(place.device).set_accelerator_limit(devices)
    # a condition's inputs have to be registered with kfp
    task.register_pipeline_channels([said[f"{place.name}_pool"], cpu, memory, devices])
    if place.several:
        task.inputs[spread.SPREAD] = nodes = said[f"{place.name}_nodes"]
        if task.parent_task_group is not place.plan.parent_task_group:
            task.register_pipeline_channels([nodes])
    if place.name == "train":
        _shared_memory(task)
    return _replaced_when_lost(task, max_hours)  # it may land on a spot pool


def _from_outside(task: dsl.PipelineTask) -> None:
    """Read selector and tolerations of a task in a condition from the condition's inputs.

    kfp-kubernetes 2.17 refers to the deciding task, which is not in the same DAG.
    """
    config = common.get_existing_kubernetes_config_as_message(task)
    for source in (config.node_selector.node_selector_json, config.tolerations[-1].toleration_json):
        said = source.task_output_parameter
        source.component_input_parameter = (
            f"pipelinechannel--{said.producer_task}-{said.output_parameter_key}"
        )
    task.platform_config["kubernetes"] = json_format.MessageToDict(config)


def _on(pool: NodePool, task: dsl.PipelineTask, max_hours: float) -> dsl.PipelineTask:
    for key, value in pool.selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in pool.tolerations:
        kubernetes.add_toleration(task, **pods.toleration(toleration))
    for variable, label in pods.LABEL_ENV.items():
        kubernetes.use_field_path_as_env(task, variable, f"metadata.labels['{label}']")
    _as_every_pod(task, pods.labels(pool), max_hours)
    if pool.accelerator:
        task.set_accelerator_type(pool.accelerator).set_accelerator_limit(pool.accelerator_count)
        _shared_memory(task)
    if pool.spot:
        _replaced_when_lost(task, max_hours)
    return task


def _as_every_pod(task: dsl.PipelineTask, labels: Mapping[str, str], max_hours: float) -> None:
    for key, value in labels.items():
        kubernetes.add_pod_label(task, key, value)
    kubernetes.use_secret_as_env(task, pods.SECRET, pods.SECRET_ENV, optional=True)
    kubernetes.use_config_map_as_env(task, pods.SETTINGS, pods.SETTINGS_ENV, optional=True)
    kubernetes.empty_dir_mount(task, "scratch", pods.SCRATCH, size_limit=pods.SCRATCH_LIMIT)
    kubernetes.set_security_context(
        task, run_as_user=pods.NOBODY, run_as_group=pods.NOBODY, run_as_non_root=True
    )
    kubernetes.set_timeout(task, round(max_hours * 3600))


def _shared_memory(task: dsl.PipelineTask) -> None:
    """Mount a larger /dev/shm than the default of 64 MB, for batches of PyTorch's loader workers."""
    kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=pods.SHM_LIMIT)


def _replaced_when_lost(task: dsl.PipelineTask, max_hours: float) -> dsl.PipelineTask:
    """Retry for as long as the task may run; KFP's default is 3600 s from the first attempt."""
    window = f"{round(max_hours * 3600)}s"
    return task.set_retry(
        num_retries=SPOT_RETRIES, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration=window
    )


def with_settings(service: str, task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Give ``task`` the address of one of SERVICES if the cluster has it."""
    kubernetes.use_config_map_as_env(task, f"deepcuts-{service}", {"url": SERVICES[service]}, optional=True)
    return task
