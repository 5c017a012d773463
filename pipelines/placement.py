"""Put a task on a node pool: selector, tolerations, accelerator, resources, deadline, retries for spot."""

import math
from typing import NamedTuple

from kfp import dsl, kubernetes

from deepcuts.components.core import pods
from deepcuts.components.core.nodepools import NodePool

SERVICES = {"registry": "MODEL_REGISTRY_URL", "mlflow": "MLFLOW_TRACKING_URI"}
"""Where the ConfigMap ``deepcuts-SERVICE`` has a ``url``, the tasks that ``with_settings`` marks use it."""
SPOT_RETRIES = 5
MIB = 2**20


class Size(NamedTuple):
    """What a pod asks for, and may use."""

    cpu: float
    memory: str
    """A quantity: ``8Gi``."""
    max_hours: float
    """Deadline of a pod; on a spot pool also the time within which lost pods are replaced."""


def part_of(pool: NodePool, share: float, max_hours: float) -> Size:
    """Return a share of a node of ``pool``: sizes follow nodepools.yaml, not the code."""
    cpu = max(0.1, math.floor(share * pool.cpu_cores * 10) / 10)
    return Size(cpu, f"{round(share * pool.memory_bytes / MIB)}Mi", max_hours)


def at_most(size: Size, limit: Size) -> Size:
    """Return ``size``, or less where ``limit`` has less."""
    memory = min(size.memory, limit.memory, key=_bytes)
    return Size(min(size.cpu, limit.cpu), memory, size.max_hours)


def _bytes(quantity: str) -> float:
    units = {"Mi": 2**20, "Gi": 2**30}
    return float(quantity[:-2]) * units[quantity[-2:]]


def on(
    pool: NodePool, task: dsl.PipelineTask, *, cpu: float, memory: int | str, max_hours: float
) -> dsl.PipelineTask:
    """Place ``task`` on ``pool`` with ``cpu`` cores and ``memory`` (bytes, or a quantity as ``8Gi``).

    ``max_hours`` is the deadline of a pod; on a spot pool also the time within which lost pods are replaced.
    The step learns its placement from pod labels, not as env values: newer KFP cache
    keys hold env, and moving a step to another pool must not cost its cache.
    """
    pods.check_cores(pool, cpu)
    for key, value in pool.selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in pool.tolerations:
        how = {"operator": "Equal", "value": toleration.value} if toleration.value else {"operator": "Exists"}
        kubernetes.add_toleration(task, key=toleration.key, effect="NoSchedule", **how)
    for key, value in pods.labels(pool).items():
        kubernetes.add_pod_label(task, key, value)
    for variable, label in pods.LABEL_ENV.items():
        kubernetes.use_field_path_as_env(task, variable, f"metadata.labels['{label}']")
    kubernetes.use_secret_as_env(task, pods.SECRET, pods.SECRET_ENV, optional=True)
    kubernetes.use_config_map_as_env(task, pods.SETTINGS, pods.SETTINGS_ENV, optional=True)
    kubernetes.empty_dir_mount(task, "scratch", pods.SCRATCH, size_limit=pods.SCRATCH_LIMIT)
    kubernetes.set_security_context(
        task, run_as_user=pods.NOBODY, run_as_group=pods.NOBODY, run_as_non_root=True
    )
    kubernetes.set_timeout(task, round(max_hours * 3600))
    task.set_cpu_request(f"{cpu:g}").set_cpu_limit(f"{cpu:g}")
    task.set_memory_request(str(memory)).set_memory_limit(str(memory))
    if pool.accelerator:
        task.set_accelerator_type(pool.accelerator).set_accelerator_limit(pool.accelerator_count)
        # PyTorch's loader workers hand batches over in /dev/shm; the container default is 64 MB
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=pods.SHM_LIMIT)
    if pool.spot:  # KFP's default window, 3600 s from the first attempt, gives a long step no retry
        window = f"{round(max_hours * 3600)}s"
        task.set_retry(
            num_retries=SPOT_RETRIES, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration=window
        )
    return task


def with_settings(service: str, task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Give ``task`` the address of one of SERVICES where the cluster has one."""
    kubernetes.use_config_map_as_env(task, f"deepcuts-{service}", {"url": SERVICES[service]}, optional=True)
    return task
