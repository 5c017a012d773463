"""Kubeflow Trainer 2.3 behind the Kubernetes API, as much of it as a training over several nodes asks.

A test says how the pods end; the rules of ``manifests/trainer/runtime.yaml`` say what follows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

from deepcuts.components.core.spread import Spread
from tests.conftest import ROOT

Json = dict[str, Any]
(RUNTIME,) = yaml.safe_load_all((ROOT / "manifests/trainer/runtime.yaml").read_text())
(NODE_JOB,) = RUNTIME["spec"]["template"]["spec"]["replicatedJobs"]
RULES = NODE_JOB["template"]["spec"]["podFailurePolicy"]["rules"]
FINAL = next(r["onExitCodes"]["values"] for r in RULES if r["action"] == "FailJob")
MOMENT = "2026-11-30T10:00:00Z"
CPUS = Spread(
    nodes=2,
    pool="cpu",
    selector={"node-pool": "cpu"},
    taints=[],
    queue="",
    cpu="1",
    memory="2Gi",
    accelerator="",
    devices=0,
)


class PodEnd(NamedTuple):
    """How a pod ended."""

    code: int
    message: str = ""
    reason: str = "Error"


Play = Callable[[Json, int, str], PodEnd | None]
"""Runs a pod of a TrainJob by number of the node and uid; None while it runs."""


class TrainerServer:
    """One namespace of a cluster with Trainer; every look at a TrainJob is a round of its controllers."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.jobs: dict[str, Json] = {}
        self.pods: list[Json] = []
        self.made: list[Json] = []
        """Every TrainJob ever made."""
        self.refuse: list[tuple[int, Json]] = []
        """Answers to the next requests, before anything else is answered."""
        self.logs: dict[str, str] = {}
        self.nodes: dict[str, dict[str, str]] = {}
        """Labels by name; the pod of node 1 runs on ``node-1``."""

    def answer(self, method: str, path: list[str], body: Json) -> tuple[int, Json]:
        if self.refuse:
            return self.refuse.pop(0)
        match method, path:
            case "POST", ["trainjobs"]:
                return self._create(body)
            case "GET", ["trainjobs", name] if name in self.jobs:
                self._round(self.jobs[name])
                return 200, self.jobs[name]
            case "DELETE", ["trainjobs", name] if name in self.jobs:
                del self.jobs[name]
                self.pods.clear()
                return 200, {}
            case "GET", ["pods"]:
                return 200, {"kind": "PodList", "items": self.pods}
            case "GET", ["pods", name, "log"]:
                return 200, self.logs.get(name, "")  # type: ignore[return-value]  # JSON of a text
            case "GET", ["pods", _]:
                return 200, _pod("own", "", 0, "cpu-0", {"name": "main", "image": "there/train:7"})
            case "GET", ["nodes", name] if name in self.nodes:
                return 200, {"kind": "Node", "metadata": {"name": name, "labels": self.nodes[name]}}
        return 404, {"message": f"{path[-1]} not found"}

    def _create(self, body: Json) -> tuple[int, Json]:
        name = body["metadata"]["name"]
        if name in self.jobs:
            return 409, {"reason": "AlreadyExists", "message": f"{name} already exists"}
        self.jobs[name] = body | {"status": {"conditions": []}}
        self.made.append(body)
        for number in range(body["spec"]["trainer"]["numNodes"]):
            self._start(name, number)
        return 201, body

    def _start(self, name: str, number: int) -> None:
        uid = f"{name}-{len(self.pods)}"
        container = {"name": "node", "image": "there/train:7"}
        self.pods.append(_pod(f"{name}-node-0-{number}-{len(self.pods)}", uid, number, "", container))

    def _round(self, job: Json) -> None:
        """Let pods end, replace those that may be, and end the TrainJob."""
        name, ends = job["metadata"]["name"], {}
        for pod in [pod for pod in self.pods if pod["status"]["phase"] == "Running"]:
            number = int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])
            pod["spec"]["nodeName"] = f"node-{number}"
            if end := self.play(job, number, pod["metadata"]["uid"]):
                ends[number] = end
                pod["status"] |= _ended(end)
        failed = {number: end.code for number, end in ends.items() if end.code}
        if set(failed.values()) & set(FINAL):
            job["status"]["conditions"].append({"type": "Failed", "status": "True", "reason": "JobFailed"})
            return
        for number in failed:
            self._start(name, number)
        if self.pods and all(pod["status"]["phase"] != "Running" for pod in self.pods):
            job["status"]["conditions"].append({"type": "Complete", "status": "True"})


def _pod(name: str, uid: str, number: int, node: str, container: Json) -> Json:
    labels = {"batch.kubernetes.io/job-completion-index": str(number)}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "uid": uid, "labels": labels, "creationTimestamp": MOMENT},
        "spec": {"containers": [container], "nodeName": node},
        "status": {"phase": "Running"},
    }


def _ended(end: PodEnd) -> Json:
    terminated = {"exitCode": end.code, "reason": end.reason if end.code else "Completed"}
    terminated |= {"message": end.message}
    status = {"name": "node", "image": "", "imageID": "", "ready": False, "restartCount": 0}
    phase = "Failed" if end.code else "Succeeded"
    return {"phase": phase, "containerStatuses": [status | {"state": {"terminated": terminated}}]}
