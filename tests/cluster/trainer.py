"""A small controller in place of Trainer and JobSet: a TrainJob becomes a Service and an indexed Job.

As Trainer 2.3's torch plugin, it sets the ``PET_`` variables. The CRDs are Trainer's own, from a clone in
``DEEPCUTS_TRAINER``.
"""

import copy
import os
import subprocess
import threading
from typing import Any

import pytest
import yaml
from kubernetes import client

from tests.components.trainer import NODE_JOB

Json = dict[str, Any]
GROUP, VERSION, KIND = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
PORT = 29400
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def crd(kind: str) -> str:
    """The text of one of Trainer's CRDs."""
    if not (clone := os.environ.get("DEEPCUTS_TRAINER")):
        pytest.skip("no CRDs of Trainer to apply: DEEPCUTS_TRAINER names no clone of kubeflow/trainer")
    path = f"HEAD:manifests/base/crds/{GROUP}_{kind}.yaml"
    return subprocess.run(
        ["git", "-C", clone, "show", path], capture_output=True, text=True, check=True
    ).stdout


def merged(whole: Any, patch: Any) -> Any:
    """A template with a patch over it."""
    if isinstance(whole, dict) and isinstance(patch, dict):
        return whole | {key: merged(whole.get(key), value) for key, value in patch.items()}
    return patch


class TrainerController:
    """Turns every TrainJob of a namespace into pods, until ``stop``."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.seen: dict[str, str] = {}
        """Name by uid of every TrainJob that there was."""
        self._objects, self._batch = client.CustomObjectsApi(), client.BatchV1Api()
        self._core, self._over = client.CoreV1Api(), threading.Event()
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _loop(self) -> None:
        where = (GROUP, VERSION, self.namespace, KIND)
        while not self._over.wait(1):
            for found in self._objects.list_namespaced_custom_object(*where)["items"]:
                if found["metadata"]["uid"] not in self.seen:
                    self._start(found)
                    self.seen[found["metadata"]["uid"]] = found["metadata"]["name"]
                self._report(found)

    def _start(self, job: Json) -> None:
        name = job["metadata"]["name"]
        owner = {key: job[key] for key in ("apiVersion", "kind")} | {
            "name": name,
            "uid": job["metadata"]["uid"],
        }
        own = {"name": name, "ownerReferences": [owner]}
        labels = {"jobset.sigs.k8s.io/jobset-name": name}
        ports = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": labels}
        self._core.create_namespaced_service(self.namespace, {"metadata": own, "spec": ports})
        manifest = {"metadata": own | {"name": f"{name}-node-0"}, "spec": self.spec(job, labels)}
        self._batch.create_namespaced_job(self.namespace, manifest)

    def spec(self, job: Json, labels: dict[str, str]) -> Json:
        """The indexed Job of a TrainJob."""
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        (patch,) = job["spec"]["runtimePatches"]
        (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        spec: Json = merged(copy.deepcopy(NODE_JOB["template"]["spec"]), node["template"]["spec"])
        count = {"completionMode": "Indexed", "completions": trainer["numNodes"]}
        template = merged(spec["template"], {"metadata": {"labels": labels}, "spec": {"subdomain": name}})
        (container,) = template["spec"]["containers"]
        container |= {key: trainer[key] for key in ("image", "command", "args")}
        container["resources"] = trainer["resourcesPerNode"]
        values = {
            "PET_NNODES": trainer["numNodes"],
            "PET_NPROC_PER_NODE": trainer["numProcPerNode"],
            "PET_MASTER_ADDR": f"{name}-node-0-0.{name}",
            "PET_MASTER_PORT": PORT,
        }
        container["env"] = [*trainer["env"], *({"name": k, "value": str(v)} for k, v in values.items())]
        rank = {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": INDEX}}}
        container["env"].append(rank)
        return spec | count | {"parallelism": trainer["numNodes"], "template": template}

    def _report(self, job: Json) -> None:
        name = job["metadata"]["name"]
        try:
            status = self._batch.read_namespaced_job_status(f"{name}-node-0", self.namespace).status
        except client.ApiException:  # deleted, and so is its TrainJob
            return
        ends = [c for c in status.conditions or [] if c.type in ("Complete", "Failed") and c.status == "True"]
        if ends and not job.get("status"):
            end = {"type": ends[0].type, "status": "True", "reason": ends[0].reason or "JobsCompleted"}
            end |= {"message": ends[0].message or "", "lastTransitionTime": "2026-11-30T10:00:00Z"}
            where = (GROUP, VERSION, self.namespace, KIND, name)
            self._objects.patch_namespaced_custom_object_status(*where, {"status": {"conditions": [end]}})


def definitions() -> str:
    """The CRDs of TrainJob and TrainingRuntime."""
    return yaml.safe_dump_all(
        yaml.load(crd(kind), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        for kind in ("trainjobs", "trainingruntimes")
    )
