"""Put a task on a node pool: selector, tolerations, accelerator, resources, deadline, retries for spot."""

from kfp import dsl, kubernetes

from components.core.nodepools import NodePool

POOL_LABEL = "node-pool"
ATTEMPTS_LABEL = "deepcuts-attempts"
LABELS = {"app.kubernetes.io/part-of": "deepcuts"}
"""What the network policies of ``manifests/`` select by."""
SCRATCH = "/scratch"
"""The one folder an image writes to beside its outputs; a volume, so that the root may be read-only."""
NOBODY = 65532
SECRET, SECRET_ENV = (
    "mlpipeline-minio-artifact",
    {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"},
)
SETTINGS, SETTINGS_ENV = "deepcuts-store", {"endpoint": "S3_ENDPOINT", "region": "AWS_REGION"}
"""Secret and ConfigMap that say how to reach the store. Both are optional to the pod: without them the step
says what is missing, while a pod that waits for its Secret says nothing."""
REGISTRY = "deepcuts-registry"
"""ConfigMap that names a Kubeflow Model Registry."""
SPOT_RETRIES = 5
LOST_PODS = 20
"""Attempts of a task in a run after which it gives up (``core/terminal.py``). KFP 2.17 also retries lost pods
at every level of the DAG, so that ``SPOT_RETRIES`` is no bound: 11 pods used up one retry of two."""


def on(
    pool: NodePool, task: dsl.PipelineTask, *, cpu: float, memory: int | str, max_hours: float
) -> dsl.PipelineTask:
    """Place ``task`` on ``pool`` with ``cpu`` cores and ``memory`` (bytes, or a quantity as ``8Gi``).

    ``max_hours`` is the deadline of a pod; on a spot pool also the time within which lost pods are replaced.
    What the step is told of its placement reaches it through pod labels, not as env values: newer KFP cache
    keys hold env, and moving a step to another pool must not cost its cache.
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
    for key, value in labels(pool).items():
        kubernetes.add_pod_label(task, key, value)
    kubernetes.use_field_path_as_env(task, "DEEPCUTS_POOL", f"metadata.labels['{POOL_LABEL}']")
    kubernetes.use_field_path_as_env(task, "DEEPCUTS_MAX_ATTEMPTS", f"metadata.labels['{ATTEMPTS_LABEL}']")
    kubernetes.use_secret_as_env(task, SECRET, SECRET_ENV, optional=True)
    kubernetes.use_config_map_as_env(task, SETTINGS, SETTINGS_ENV, optional=True)
    kubernetes.empty_dir_mount(task, "scratch", SCRATCH)
    kubernetes.set_security_context(task, run_as_user=NOBODY, run_as_group=NOBODY, run_as_non_root=True)
    kubernetes.set_timeout(task, round(max_hours * 3600))
    task.set_cpu_request(f"{cpu:g}").set_cpu_limit(f"{cpu:g}")
    task.set_memory_request(str(memory)).set_memory_limit(str(memory))
    if pool.accelerator:
        task.set_accelerator_type(pool.accelerator).set_accelerator_limit(pool.accelerator_count)
        # PyTorch's loader workers hand batches over in /dev/shm; the container default is 64 MB
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory")
    if pool.spot:  # KFP's default window, 3600 s from the first attempt, gives a long step no retry
        window = f"{round(max_hours * 3600)}s"
        task.set_retry(
            num_retries=SPOT_RETRIES, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration=window
        )
    return task


def told_of_registry(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Where the ConfigMap ``deepcuts-registry`` has a ``url``, ``publish`` tells that Model Registry, too."""
    kubernetes.use_config_map_as_env(task, REGISTRY, {"url": "MODEL_REGISTRY_URL"}, optional=True)
    return task


def told_of_mlflow(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Where the ConfigMap ``deepcuts-mlflow`` has a ``url``, ``ledger`` logs the run there, too."""
    kubernetes.use_config_map_as_env(task, "deepcuts-mlflow", {"url": "MLFLOW_TRACKING_URI"}, optional=True)
    return task


def labels(pool: NodePool) -> dict[str, str]:
    """Labels of every pod on ``pool``, whoever makes it."""
    queue = {"kueue.x-k8s.io/queue-name": pool.queue} if pool.queue else {}
    return LABELS | {POOL_LABEL: pool.name, ATTEMPTS_LABEL: str(LOST_PODS)} | queue
