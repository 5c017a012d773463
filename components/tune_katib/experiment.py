"""Build a Katib Experiment for a search from Katib's typed models."""

import json
import math
from collections.abc import Mapping

import msgspec
from kubeflow_katib_api import models

from deepcuts.components.tune import asha
from deepcuts.components.tune.asha import Search
from deepcuts.components.tune.space import Dimension, Space, text
from deepcuts.components.tune.task import METRIC, RESOURCE, TrialTask
from deepcuts.components.tune_katib.algorithms import ASHA, SPARE
from deepcuts.components.tune_katib.job import CONTAINER, Json


def experiment(
    name: str,
    algorithm: str,
    search: Search,
    task: TrialTask,
    job: Json,
    parallel: int,
    seed: int,
) -> models.V1beta1Experiment:
    """Build the Experiment ``name``; ``job`` is a trial's Job, whose last argument becomes the task.

    Args:
        name: At most 40 characters, unique in all namespaces, as those of one name get each other's trials.
        algorithm: Accepted by ``check``.
        search: Rungs and bounds; with a single rung unless the algorithm is asha.
        task: Settings shared by all trials; its values are filled in here.
        job: A Job without a name (``job.py``).
        parallel: Concurrent trials.
        seed: Seed of the configurations.
    """
    chosen = {n: _parameter(n, dimension) for n, dimension in sorted(task.space.items())}
    if algorithm == ASHA:
        low, high = search.levels[0], search.levels[-1]
        chosen[RESOURCE] = models.V1beta1ParameterSpec(
            name=RESOURCE,
            parameterType="int",
            feasibleSpace=models.V1beta1FeasibleSpace(min=str(low), max=str(high)),
        )
    trials = _trials(algorithm, search, parallel)
    return models.V1beta1Experiment(
        apiVersion="kubeflow.org/v1beta1",
        kind="Experiment",
        metadata=_metadata(name),
        spec=models.V1beta1ExperimentSpec(
            objective=models.V1beta1ObjectiveSpec(
                type="minimize",
                objectiveMetricName=METRIC,
                # Katib's default for minimize is min, with which a diverged trial would keep its best value
                metricStrategies=[models.V1beta1MetricStrategy(name=METRIC, value="latest")],
            ),
            algorithm=models.V1beta1AlgorithmSpec(
                algorithmName=algorithm,
                algorithmSettings=[
                    models.V1beta1AlgorithmSetting(name=key, value=value)
                    for key, value in _settings(algorithm, search, task.space, seed).items()
                ],
            ),
            parameters=list(chosen.values()),
            parallelTrialCount=min(parallel, trials),
            maxTrialCount=trials,
            maxFailedTrialCount=max(1, trials // 2),
            metricsCollectorSpec=models.V1beta1MetricsCollectorSpec(
                collector=models.V1beta1CollectorSpec(kind="Push")
            ),
            trialTemplate=models.V1beta1TrialTemplate(
                primaryContainerName=CONTAINER,
                trialParameters=[models.V1beta1TrialParameterSpec(name=key, reference=key) for key in chosen],
                trialSpec=_filled(job, task, chosen),
            ),
        ),
    )


def _metadata(name: str) -> models.IoK8sApimachineryPkgApisMetaV1ObjectMeta:
    labels = {"app.kubernetes.io/part-of": "deepcuts"}
    return models.IoK8sApimachineryPkgApisMetaV1ObjectMeta(name=name, labels=labels)


def _trials(algorithm: str, search: Search, parallel: int) -> int:
    """Return the number of trials that Katib may start."""
    if algorithm != ASHA:
        return search.configurations
    return math.ceil((SPARE if parallel > 1 else 1) * asha.trainings(search))


def _parameter(name: str, dimension: Dimension) -> models.V1beta1ParameterSpec:
    if dimension.kind == "choice":
        space = models.V1beta1FeasibleSpace(list=[text(value) for value in dimension.values])
        return models.V1beta1ParameterSpec(name=name, parameterType="categorical", feasibleSpace=space)
    low, high = (text(dimension.fitted(bound)) for bound in dimension.bounds)
    space = models.V1beta1FeasibleSpace(
        min=low, max=high, distribution="logUniform" if dimension.log else "uniform"
    )
    kind = "int" if dimension.kind == "int" else "double"
    return models.V1beta1ParameterSpec(name=name, parameterType=kind, feasibleSpace=space)


def _settings(algorithm: str, search: Search, space: Space, seed: int) -> dict[str, str]:
    """Return the settings of ``suggestion.py``, or of Katib's own algorithm."""
    if algorithm != ASHA:
        return {"random_state": str(seed)}
    conditions = {
        name: {other: [text(value) for value in wanted] for other, wanted in dimension.when.items()}
        for name, dimension in sorted(space.items())
        if dimension.when
    }
    return {
        "resource": RESOURCE,
        "min_resource": str(search.levels[0]),
        "max_resource": str(search.levels[-1]),
        "eta": str(search.eta),
        "brackets": str(search.brackets),
        "seed": str(seed),
    } | ({"conditions": json.dumps(conditions)} if conditions else {})


def _filled(job: Json, task: TrialTask, names: Mapping[str, object]) -> Json:
    """Add the task to ``job`` as its last argument, in which Katib fills in each trial's values."""
    values = {name: f"${{trialParameters.{name}}}" for name in names}
    task_json = msgspec.json.encode(msgspec.structs.replace(task, values=values)).decode()
    copy: Json = json.loads(json.dumps(job))
    (container,) = copy["spec"]["template"]["spec"]["containers"]
    container["args"] = [*container["args"], task_json]
    return copy
