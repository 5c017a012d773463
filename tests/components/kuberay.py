"""KubeRay behind the Kubernetes API, as much of it as a step asks: a test plays its operator."""

from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Operator = Callable[[Json], Json]
"""Returns the status of a RayJob at each look at it."""


class KubeRay:
    """RayJobs of one namespace."""

    def __init__(self, operate: Operator) -> None:
        self.operate = operate
        self.jobs: dict[str, Json] = {}
        self.made: list[Json] = []
        """Every RayJob ever made."""
        self.refuse: list[tuple[int, str]] = []
        """(status, message) of the answers to come, before anything else is answered."""

    def answer(self, method: str, path: list[str], body: Json) -> tuple[int, Json]:
        if self.refuse:
            status, message = self.refuse.pop(0)
            return status, {"message": message}
        match method, path:
            case "POST", ["rayjobs"]:
                name = body["metadata"]["name"]
                if name in self.jobs:
                    return 409, {"reason": "AlreadyExists", "message": f"{name} already exists"}
                self.made.append(body)
                self.jobs[name] = body | {"metadata": body["metadata"] | {"uid": f"uid-{len(self.made)}"}}
                return 201, body
            case "GET", ["rayjobs", name] if name in self.jobs:
                return 200, self.jobs[name] | {"status": self.operate(self.jobs[name])}
            case "DELETE", ["rayjobs", name] if name in self.jobs:
                del self.jobs[name]
                return 200, {}
        return 404, {"message": "not found"}


def ended(state: str, job: str, **more: str) -> Json:
    """The status of a RayJob that took a minute."""
    times = {"startTime": "2026-11-30T10:00:00Z", "endTime": "2026-11-30T10:01:00Z"}
    return {"jobDeploymentStatus": state, "jobStatus": job} | times | more
