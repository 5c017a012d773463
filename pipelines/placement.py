"""Put a task on a node pool: selector, tolerations, accelerator, resources, deadline, retries for spot."""

from kfp import dsl, kubernetes

from components.core.nodepools import NodePool

POOL_LABEL = "node-pool"


def on(
    pool: NodePool, task: dsl.PipelineTask, *, cpu: float, memory: int | str, max_hours: float
) -> dsl.PipelineTask:
    """Place ``task`` on ``pool`` with ``cpu`` cores and ``memory`` (bytes, or a quantity as ``8Gi``).

    ``max_hours`` is the deadline of a pod; on a spot pool also the time within which lost pods are replaced.
    The pool's name reaches the step through a pod label, not an env value: newer KFP cache keys hold env, and
    moving a step to another pool must not cost its cache.
    """
    if cpu > pool.cpu_cores:
        raise ValueError(
            f"cpu {cpu} is more than a node of pool {pool.name!r} has ({pool.cpu_cores}): ask for less"
        )
    for key, value in pool.selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in pool.tolerations:
        how = {"operator": "Equal", "value": toleration.value} if toleration.value else {"operator": "Exists"}
        kubernetes.add_toleration(task, key=toleration.key, effect="NoSchedule", **how)
    kubernetes.add_pod_label(task, POOL_LABEL, pool.name)
    kubernetes.use_field_path_as_env(task, "DEEPCUTS_POOL", f"metadata.labels['{POOL_LABEL}']")
    if pool.queue:
        kubernetes.add_pod_label(task, "kueue.x-k8s.io/queue-name", pool.queue)
    kubernetes.set_security_context(task, run_as_user=65532, run_as_group=65532, run_as_non_root=True)
    kubernetes.set_timeout(task, round(max_hours * 3600))
    task.set_cpu_request(f"{cpu:g}").set_cpu_limit(f"{cpu:g}")
    task.set_memory_request(str(memory)).set_memory_limit(str(memory))
    if pool.accelerator:
        task.set_accelerator_type(pool.accelerator).set_accelerator_limit(pool.accelerator_count)
        # PyTorch's loader workers hand batches over in /dev/shm; the container default is 64 MB
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory")
    if pool.spot:  # KFP's default window, 3600 s from the first attempt, gives a long step no retry
        window = f"{round(max_hours * 3600)}s"
        task.set_retry(num_retries=5, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration=window)
    return task
