"""Make a Kubernetes Job of one component, for kubectl alone, with the pipeline's placement and security."""

import difflib
import importlib
import tempfile
from collections.abc import Mapping
from inspect import Parameter, Signature
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from kfp import compiler, dsl
from kfp.dsl.base_component import BaseComponent

from deepcuts.components.core import executor_input, pods, strict
from deepcuts.components.core.nodepools import NodePool
from deepcuts.pipelines.kubeflow import cron as schedule
from deepcuts.pipelines.placement import Size, on
from deepcuts.pipelines.runner import pipeline_spec, placeholders, spec_types
from deepcuts.pipelines.runner.placeholders import Artifact, TaskValues

Json = dict[str, Any]
COMPONENTS = Path(__file__).parents[2] / "components"
WORK, CLAIM = "/work", "deepcuts-work"
"""Mount point of the volume of ``manifests/base/work.yaml``; relative paths start there."""
CARRY, MOVE, KEPT_SECONDS = "/carry", ["python", "-m", "deepcuts.components.core.carry"], 7 * 24 * 3600
KINDS = {"String": str, "Integer": int, "Float": float, "Boolean": bool, "List": list, "Dict": dict}
"""kfp's names of parameter types; every other type is an artifact."""
OF_JOB = [
    {
        "name": name,
        "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['batch.kubernetes.io/{label}']"}},
    }
    for name, label in (("JOB_NAME", "job-name"), ("JOB_UID", "controller-uid"))
]
"""``$(JOB_NAME)`` in a place separates the runs of a CronJob: ``s3://bucket/models/$(JOB_NAME)``."""
ACCOUNT_OF_JOBS = {
    "serviceAccountName": pods.ACCOUNT,
    "automountServiceAccountToken": False,
    "terminationGracePeriodSeconds": pods.GRACE_SECONDS,
}


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        """Write no anchors, as people read manifests."""
        return True


def faces() -> dict[str, BaseComponent]:
    """Return every component by name, except those whose inputs a pipeline chooses (the ledger)."""
    found: dict[str, BaseComponent] = {}
    for path in sorted(COMPONENTS.glob("*/component.py")):
        module = importlib.import_module(f"deepcuts.components.{path.parent.name}.component")
        found |= {name: face for name, face in vars(module).items() if isinstance(face, BaseComponent)}
    return found


def manifest(step: str, title: str, given: Mapping[str, Any], pool: NodePool, size: Size) -> Json:
    """Return a Job that runs ``step`` until it succeeds once.

    ``given`` has parameters and places of artifacts: paths on the volume, or ``s3://`` and ``minio://`` URIs,
    which are downloaded and uploaded; ``$(JOB_NAME)`` in one is the Job's name, different for each run of a
    CronJob. The default of an output is ``TITLE/NAME`` on the volume.

    Raises:
        ValueError: the component does not exist, or does not accept the values; one problem per line.
    """
    known = faces()
    if step not in known:
        near = difflib.get_close_matches(step, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        raise ValueError(f"no component {step!r} to run alone: {hint}")
    leaf, resources = compiled(known[step], pool, size)
    places, carried = _places(leaf.component, title, given)
    parameters = _parameters(leaf.component, given)
    claimed = any(path.startswith(WORK) for path in places.values())
    attempts = f"{_folder(str(given.get('receipt', places['receipt'])))}/attempts/$(JOB_UID)"
    return _job(title, leaf, resources, argv(leaf, parameters, places), carried, claimed, attempts)


def repeated(job: Json, cron: str) -> Json:
    """Return a CronJob (UTC) of the Job: one at a time, and times missed by over 10 minutes are skipped."""
    schedule.check(cron)
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": job["metadata"],
        "spec": {
            "schedule": cron,
            "timeZone": "Etc/UTC",
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 600,
            "jobTemplate": {"metadata": {"labels": job["metadata"]["labels"]}, "spec": job["spec"]},
        },
    }


def write(job: Json, path: Path) -> None:
    """Write a manifest as YAML without anchors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.dump(job, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=110))


def compiled(face: BaseComponent, pool: NodePool, size: Size) -> tuple[pipeline_spec.Leaf, Json]:
    """Return the component placed on the pool as in a pipeline, and its resources."""
    kinds = {name: KINDS.get(s.type, dsl.Input[dsl.Artifact]) for name, s in _inputs(face).items()}

    def alone(*inputs: Any) -> None:
        task = face(**dict(zip(kinds, inputs, strict=True)))
        on(pool, task, cpu=size.cpu, memory=size.memory, max_hours=size.max_hours)

    parameters = [Parameter(n, Parameter.POSITIONAL_OR_KEYWORD, annotation=k) for n, k in kinds.items()]
    vars(alone)["__signature__"] = Signature(parameters)
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "alone.yaml"
        compiler.Compiler().compile(dsl.pipeline(name="alone")(alone), str(package))
        ((_, leaf),) = pipeline_spec.leaves(pipeline_spec.read(package))
        (executor,) = next(yaml.safe_load_all(package.read_text()))["deploymentSpec"]["executors"].values()
    return leaf, executor["container"]["resources"]


def _inputs(face: BaseComponent) -> Mapping[str, Any]:
    return face.component_spec.inputs or {}


def _parameters(component: spec_types.Component, given: Mapping[str, Any]) -> Json:
    kinds = component.input_definitions.parameters
    artifacts = [*component.input_definitions.artifacts, *component.output_definitions.artifacts]
    found = [strict.unknown_key("", n, [*kinds, *artifacts]) for n in given if n not in (*kinds, *artifacts)]
    missing = [name for name in (*kinds, *component.input_definitions.artifacts) if name not in given]
    found += [f"{name}: missing: give it a value, or a path" for name in missing]
    parameters: Json = {}
    for name in kinds.keys() & given.keys():
        value = given[name]
        if isinstance(value, str) and value.startswith("file://") and not value.startswith(f"file://{WORK}/"):
            found.append(f"{name}: {value} is not in the pod: give file://{WORK}/…, or a URI of the store")
        try:
            parameters[name] = strict.decode(pipeline_spec.KINDS[kinds[name].parameter_type], value, name)
        except ValueError as error:
            found.append(str(error))
    if found:
        raise ValueError("\n".join(found))
    return parameters


def _places(
    component: spec_types.Component, title: str, given: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return (path in the pod by artifact, arguments of ``carry`` by direction)."""
    places: dict[str, str] = {}
    carried: dict[str, list[str]] = {"get": [], "put": []}
    sides = {"get": component.input_definitions.artifacts, "put": component.output_definitions.artifacts}
    for way, artifacts in sides.items():
        for name in [n for n in artifacts if n in given] if way == "get" else artifacts:
            place = str(given.get(name, f"{title}/{name}"))
            if place.startswith(("s3://", "minio://")):
                places[name] = f"{CARRY}/{way}/{name}/{PurePosixPath(place).name}"
                carried[way] += [place, places[name]]
            else:
                places[name] = str(PurePosixPath(WORK, place))
                if not places[name].startswith(f"{WORK}/") or ".." in place.split("/"):
                    raise ValueError(f"{name}: {place} is not in the pod: give a path below {WORK}, or a URI")
    return places, carried


def _folder(place: str) -> str:
    """Return the URI of an artifact's folder."""
    return place.rpartition("/")[0] if "://" in place else PurePosixPath(WORK, place).parent.as_uri()


def argv(leaf: pipeline_spec.Leaf, parameters: Json, places: Mapping[str, str]) -> list[str]:
    """Return the command of the step, without flags that only KFP understands."""
    assert (container := leaf.executor.container)
    kinds = leaf.component.input_definitions.artifacts
    artifacts = {n: Artifact(Path(places[n]), spec.artifact_type, "") for n, spec in kinds.items()}
    executor = placeholders.executor_input(
        leaf.component,
        TaskValues("done", parameters, artifacts),
        lambda artifact: f"file://{artifact.path}",
        lambda name: places.get(name, f"/scratch/{name}"),
    )
    args = [word for pair in executor_input.pairs(container.args) for word in pair]
    words = [*container.command, *args]
    at = words.index("--executor-input")
    filled = placeholders.fill([*words[:at], *words[at + 2 :]], executor, {})
    return [executor_input.value(word, executor) for word in filled]


def _job(
    title: str,
    leaf: pipeline_spec.Leaf,
    resources: Json,
    words: list[str],
    carried: Mapping[str, list[str]],
    claimed: bool,
    attempts: str,
) -> Json:
    assert leaf.executor.container
    place = leaf.placement
    volumes: dict[str, Json] = (
        {"carry": {"emptyDir": {"sizeLimit": pods.SCRATCH_LIMIT}}} if any(carried.values()) else {}
    )
    volumes |= {"work": {"persistentVolumeClaim": {"claimName": CLAIM}}} if claimed else {}
    paths = {"carry": CARRY, "work": WORK}
    base = {
        "image": leaf.executor.container.image,
        "env": [*environment(place), *OF_JOB, {"name": "DEEPCUTS_ATTEMPTS", "value": attempts}],
        "securityContext": pods.LOCKED,
        "resources": quantities(resources),
        "volumeMounts": [
            *({"name": v["volumeName"], "mountPath": v["mountPath"]} for v in place["emptyDirMounts"]),
            *({"name": name, "mountPath": paths[name]} for name in volumes),
        ],
    }
    move = {way: [*MOVE, way, *pairs] for way, pairs in carried.items()}
    order = [{"name": "get", "command": move["get"]} | base] if carried["get"] else []
    order += [{"name": "step", "command": words[:3], "args": words[3:]} | base]
    order += [{"name": "put", "command": move["put"]} | base] if carried["put"] else []
    spec = pod(place) | ACCOUNT_OF_JOBS
    spec["securityContext"] |= {"fsGroup": spec["securityContext"]["runAsGroup"]}
    spec["volumes"] += [{"name": name, **source} for name, source in volumes.items()]
    return job(title, place["podMetadata"]["labels"], spec, order)


def job(title: str, labels: Json, spec: Json, containers: list[Json]) -> Json:
    """Return the Job of a pod whose containers run one after the other, each if the last one succeeded."""
    *first, last = containers
    spec = spec | ({"initContainers": first} if first else {}) | {"containers": [last]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": title, "labels": labels},
        "spec": {
            "backoffLimit": pods.RETRIES,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    # of any container, including one injected by a service mesh
                    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": pods.FINAL_CODES}},
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def pod(place: Mapping[str, Any]) -> Json:
    """Return the pod around the containers, as KFP's driver makes it from a placement."""
    user = place["securityContext"]
    return {
        "restartPolicy": "Never",
        "nodeSelector": place["nodeSelector"]["labels"],
        "tolerations": place.get("tolerations", []),
        "activeDeadlineSeconds": int(place["activeDeadlineSeconds"]),
        "securityContext": {
            "runAsUser": int(user["runAsUser"]),
            "runAsGroup": int(user["runAsGroup"]),
            "runAsNonRoot": user["runAsNonRoot"],
        },
        "volumes": [
            {
                "name": v["volumeName"],
                "emptyDir": {key: v[key] for key in ("medium", "sizeLimit") if v.get(key)},
            }
            for v in place["emptyDirMounts"]
        ],
    }


def environment(place: Mapping[str, Any]) -> list[Json]:
    """Return the environment variables from secrets, settings and labels of the pod."""
    found = []
    for kind, source, owner, key in (
        ("secretAsEnv", "secretKeyRef", "secretName", "secretKey"),
        ("configMapAsEnv", "configMapKeyRef", "configMapName", "configMapKey"),
    ):
        for reference in place.get(kind, []):
            for pair in reference["keyToEnv"]:
                where = {"name": reference[owner], "key": pair[key], "optional": reference["optional"]}
                found.append({"name": pair["envVar"], "valueFrom": {source: where}})
    return found + [
        {"name": field["name"], "valueFrom": {"fieldRef": {"fieldPath": field["fieldPath"]}}}
        for field in place.get("fieldPathAsEnv", [])
    ]


def quantities(resources: Json) -> Json:
    """Return requests and limits of a container."""
    accelerator = resources.get("accelerator")
    devices = {accelerator["resourceType"]: accelerator["resourceCount"]} if accelerator else {}
    asked = {"cpu": resources["resourceCpuRequest"], "memory": resources["resourceMemoryRequest"]}
    bound = {"cpu": resources["resourceCpuLimit"], "memory": resources["resourceMemoryLimit"]}
    asked, bound = asked | pods.DISK["requests"], bound | pods.DISK["limits"]
    return {"requests": asked | devices, "limits": bound | devices}
