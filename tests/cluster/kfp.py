"""Plays KFP's driver on a real cluster: the tasks of a compiled pipeline as pods, placed as compiled."""

import concurrent.futures
import json
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from components.core.store import open_store
from pipelines.runner import pipeline_spec, placeholders
from pipelines.runner.placeholders import Artifact, Values
from tests.cluster.conftest import RUNNER

Json = dict[str, Any]
BUCKET = "mlpipeline"
LOCKED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
    "readOnlyRootFilesystem": True,
}
"""KFP sets the first three; the last is ours to stand."""


class Ended:
    """A pod that has ended."""

    def __init__(self, pod: Any, log: str) -> None:
        state = pod.status.container_statuses[0].state.terminated if pod.status.container_statuses else None
        self.node: str = pod.spec.node_name
        self.code: int | None = state.exit_code if state else None
        self.reason: str = (state.reason if state else pod.status.reason) or ""
        self.span = (state.started_at, state.finished_at) if state else None
        self.log = log


class Run:
    """One run of a compiled pipeline in ``namespace``."""

    def __init__(self, package: Path, arguments: Mapping[str, Any], namespace: str) -> None:
        self.pipeline = pipeline_spec.read(package)
        self.leaves = dict(pipeline_spec.leaves(self.pipeline))
        self.arguments = pipeline_spec.arguments(self.pipeline, arguments)
        self.namespace, self.id = namespace, uuid.uuid4().hex[:8]
        executors = next(yaml.safe_load_all(package.read_text()))["deploymentSpec"]["executors"]
        self._resources = {name: e["container"].get("resources", {}) for name, e in executors.items()}
        self._api = client.CoreV1Api()
        self._store = open_store(f"minio://{BUCKET}")
        self.made: dict[str, Values] = {}

    def all(self) -> dict[str, Ended]:
        """Run every task as soon as its inputs are there; each must end well."""
        with concurrent.futures.ThreadPoolExecutor(len(self.leaves)) as pool:
            started: dict[str, concurrent.futures.Future[Ended]] = {}
            for name in self.leaves:  # producers first
                started[name] = pool.submit(self._after, name, started)
            return {name: future.result() for name, future in started.items()}

    def _after(self, name: str, started: Mapping[str, "concurrent.futures.Future[Ended]"]) -> Ended:
        for producer in self.leaves[name].task.upstream:
            started[producer].result()
        ended = self.run(name)
        assert ended.code == 0, f"{name} on {ended.node} ended with {ended.code} {ended.reason}:\n{ended.log}"
        return ended

    def run(self, name: str, **changed: Any) -> Ended:
        """One attempt of a task, to its end; its outputs are then known to the tasks behind it."""
        ended = self.wait(self.start(name, **changed))
        if ended.code == 0:
            self.made[name] = self._outputs(name)
        return ended

    def start(self, name: str, memory: str = "", env: Mapping[str, str] | None = None) -> str:
        """Start an attempt; returns its pod's name. Every attempt has the same command, as with KFP."""
        pod = self.pod(name, memory, env or {})
        self._api.create_namespaced_pod(self.namespace, pod)
        return str(pod["metadata"]["name"])

    def wait(self, pod: str, seconds: float = 400) -> Ended:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self._api.read_namespaced_pod(pod, self.namespace)
            if found.status.phase in ("Succeeded", "Failed"):
                return Ended(found, self._api.read_namespaced_pod_log(pod, self.namespace))
            time.sleep(0.3)
        raise TimeoutError(f"pod {pod} is {found.status.phase} after {seconds} s: {found.status}")

    def inputs(self, name: str) -> Values:
        leaf = self.leaves[name]
        scope = Values("done", self.arguments, {})
        upstream = {producer: self.made[producer] for producer in leaf.task.upstream if producer in self.made}
        return placeholders.inputs(leaf.task, scope, upstream, {})

    def key(self, name: str, output: str) -> str:
        """Where an output of a task lies in the bucket; as KFP 2.17 forms it."""
        return f"v2/artifacts/{self.pipeline.pipeline_info.name}/{self.id}/{name}/salt/{output}"

    def pod(self, name: str, memory: str, env: Mapping[str, str]) -> Json:
        leaf, inputs = self.leaves[name], self.inputs(name)
        assert (container := leaf.executor.container)
        executor = placeholders.executor_input(
            leaf.component,
            inputs,
            lambda a: f"file://{a.path}",
            lambda output: f"/minio/{BUCKET}/{self.key(name, output)}",
        )
        words = placeholders.fill([*container.command, *container.args], executor, {})
        argv = [word.replace("file:///minio/", "minio://") for word in words]
        artifacts = {
            "inputs": [f"minio://{a.path.relative_to('/minio')}" for a in inputs.artifacts.values()],
            "outputs": [
                f"minio://{BUCKET}/{self.key(name, output)}"
                for output in (*leaf.component.output_definitions.artifacts, *told(leaf))
            ],
        }
        resources = self._resources[leaf.component.executor_label]
        return {
            "metadata": {
                "name": f"{name}-{self.id}-{uuid.uuid4().hex[:4]}",
                "labels": leaf.placement["podMetadata"]["labels"],
            },
            "spec": spec(leaf)
            | {
                "containers": [
                    container_of(leaf, resources, memory, env)
                    | {
                        "image": container.image,
                        "command": ["python", "/launcher/launcher.py"],
                        "args": [json.dumps(artifacts), *argv],
                    }
                ]
            },
        }

    def _outputs(self, name: str) -> Values:
        kinds = self.leaves[name].component.output_definitions.artifacts
        artifacts = {
            output: Artifact(Path(f"/minio/{BUCKET}/{self.key(name, output)}"), spec.artifact_type, "")
            for output, spec in kinds.items()
        }
        with tempfile.TemporaryDirectory() as folder:
            for output in told(self.leaves[name]):
                if self._store.exists(self.key(name, output)):
                    self._store.get(self.key(name, output), Path(folder) / output)
            parameters = placeholders.written(self.leaves[name].component, Path(folder))
        return Values("done", parameters, artifacts)


def told(leaf: pipeline_spec.Leaf) -> list[str]:
    """Files in which a task's output parameters may be; KFP's launcher reads them in the pod."""
    parameters = leaf.component.output_definitions.parameters
    return [*parameters, "executor_output.json"] if parameters else []


def spec(leaf: pipeline_spec.Leaf) -> Json:
    """The pod around the container."""
    place = leaf.placement
    volumes = [
        {"name": v["volumeName"], "emptyDir": {"medium": v.get("medium", "")}}
        for v in place["emptyDirMounts"]
    ]
    user = place["securityContext"]
    return {
        "restartPolicy": "Never",
        "serviceAccountName": RUNNER,
        "terminationGracePeriodSeconds": 30,
        "nodeSelector": place["nodeSelector"]["labels"],
        "tolerations": place.get("tolerations", []),
        "activeDeadlineSeconds": int(place["activeDeadlineSeconds"]),
        "securityContext": {
            "runAsUser": int(user["runAsUser"]),
            "runAsGroup": int(user["runAsGroup"]),
            "runAsNonRoot": user["runAsNonRoot"],
        },
        "volumes": [
            *volumes,
            {"name": "minio", "emptyDir": {}},
            {"name": "launcher", "configMap": {"name": "launcher"}},
        ],
    }


def container_of(leaf: pipeline_spec.Leaf, resources: Json, memory: str, env: Mapping[str, str]) -> Json:
    place = leaf.placement
    variables = [{"name": name, "value": value} for name, value in env.items()]
    for kind, source, key in (
        ("secretAsEnv", "secretKeyRef", "secretKey"),
        ("configMapAsEnv", "configMapKeyRef", "configMapKey"),
    ):
        for reference in place.get(kind, []):
            name = reference.get("secretName") or reference.get("configMapName")
            variables += [
                {
                    "name": pair["envVar"],
                    "valueFrom": {
                        source: {"name": name, "key": pair[key], "optional": reference["optional"]}
                    },
                }
                for pair in reference["keyToEnv"]
                if pair["envVar"] not in env
            ]
    variables += [
        {"name": f["name"], "valueFrom": {"fieldRef": {"fieldPath": f["fieldPath"]}}}
        for f in place.get("fieldPathAsEnv", [])
    ]
    accelerator = resources.get("accelerator")
    devices = {accelerator["resourceType"]: accelerator["resourceCount"]} if accelerator else {}
    mounts = [{"name": v["volumeName"], "mountPath": v["mountPath"]} for v in place["emptyDirMounts"]]
    return {
        "name": "main",
        "env": variables,
        "securityContext": LOCKED,
        # each node of the test cluster is the whole machine, and smaller than what the pipelines ask for
        "resources": {
            "requests": {"cpu": "100m", "memory": "64Mi"},
            "limits": {"memory": memory or resources["resourceMemoryLimit"], **devices},
        },
        "volumeMounts": [
            *mounts,
            {"name": "minio", "mountPath": "/minio"},
            {"name": "launcher", "mountPath": "/launcher"},
        ],
    }
