"""Katib 0.19 behind the Kubernetes API, as much of it as ``tune_katib`` asks.

The controller's rules were measured on the real one, the suggestion service is ours, a test plays the pods.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from deepcuts.components.tune import suggestion_pb2 as pb
from deepcuts.components.tune.suggestion import answer, validate
from deepcuts.components.tune.task import METRIC
from tests.components.database import started

Json = dict[str, Any]
Play = Callable[[str, Json], str]
"""Runs a trial's Job by name; the loss as text, ``FAILED``, or empty while it runs."""
Suggest = Callable[[pb.GetSuggestionsRequest], pb.GetSuggestionsReply]
Check = Callable[[pb.Experiment], None]
"""Raises ValueError where the suggestion service refuses."""
TYPES = {"double": pb.DOUBLE, "int": pb.INT, "categorical": pb.CATEGORICAL}


class KatibServer:
    """One namespace of a cluster with Katib; every look at an Experiment is a round of its controller."""

    def __init__(self, play: Play, suggest: Suggest = answer, check: Check = validate) -> None:
        self.play, self.suggest, self.check = play, suggest, check
        self.experiments: dict[str, Json] = {}
        self.trials: list[Json] = []
        self.complaints: dict[str, str] = {}
        self.settings: dict[str, str] = {}
        self.refuse: list[tuple[int, str]] = []
        """(status, message) of the answers to come, before anything else is answered."""
        self.made: list[Json] = []
        """Every Experiment ever made."""
        self.begun = 0
        """Trials ever made: a name is never given twice."""

    def answer(self, method: str, path: list[str], body: Json) -> tuple[int, Json]:
        if self.refuse:
            status, message = self.refuse.pop(0)
            return status, {"message": message}
        match method, path:
            case "POST", ["experiments"]:
                name = body["metadata"]["name"]
                if name in self.experiments:
                    return 409, {"reason": "AlreadyExists", "message": f"{name} already exists"}
                self.made.append(body)
                self.experiments[name] = body | {"status": {"conditions": [_holds("Created")]}}
                return 201, body
            case "GET", ["experiments", name] if name in self.experiments:
                self.round(self.experiments[name])
                return 200, self.experiments[name]
            case "GET", ["trials"]:
                return 200, {"items": self.trials}
            case "GET", ["suggestions", name] if name in self.complaints:
                return 200, {"status": {"conditions": [_holds("Failed", self.complaints[name])]}}
            case "DELETE", ["experiments", name] if name in self.experiments:
                del self.experiments[name]
                self.trials.clear()
                return 200, {}
        return 404, {"message": "not found"}

    def round(self, experiment: Json) -> None:
        """End what runs, then start what is missing."""
        spec = experiment["spec"]
        if experiment["status"]["conditions"][-1]["type"] in ("Succeeded", "Failed"):
            return
        try:
            self.check(self.words(experiment))
        except ValueError as error:
            self.complaints[experiment["metadata"]["name"]] = str(error)
            return _end(experiment, "Failed", "Suggestion has failed")
        for trial in [t for t in self.trials if _now(t) == "Running"]:
            loss = self.play(trial["metadata"]["name"], trial["spec"]["runSpec"])
            if not loss:
                continue
            end = _holds("Failed", "Trial has failed") if loss == "FAILED" else _holds("Succeeded")
            trial["status"]["conditions"].append(end)
            if loss != "FAILED":
                trial["status"]["observation"] = {"metrics": [{"name": METRIC, "latest": loss}]}
        if sum(_now(t) == "Failed" for t in self.trials) > spec["maxFailedTrialCount"]:
            return _end(experiment, "Failed", "Experiment has failed because max failed count has reached")
        ended = sum(_now(trial) != "Running" for trial in self.trials)
        if ended >= spec["maxTrialCount"]:
            return _end(
                experiment, "Succeeded", "Experiment has succeeded because max trial count has reached"
            )
        self.start(experiment)

    def start(self, experiment: Json) -> None:
        spec, held = experiment["spec"], len(self.trials)
        running = sum(_now(trial) == "Running" for trial in self.trials)
        count = min(spec["parallelTrialCount"] - running, spec["maxTrialCount"] - held)
        if count <= 0:
            return
        request = pb.GetSuggestionsRequest(
            experiment=self.words(experiment),
            current_request_number=count,
            total_request_number=held + count,
        )
        for trial in self.trials:
            item = request.trials.add(name=trial["metadata"]["name"])
            item.spec.objective.CopyFrom(request.experiment.spec.objective)
            for value in trial["spec"]["parameterAssignments"]:
                item.spec.parameter_assignments.assignments.add(**value)
            item.status.condition = pb.TrialStatus.Condition.Value(_now(trial).upper())
            for metric in trial["status"].get("observation", {}).get("metrics", []):
                item.status.observation.metrics.add(name=metric["name"], value=metric["latest"])
        reply = self.suggest(request)
        assert len(reply.parameter_assignments) == count
        self.settings |= {s.name: s.value for s in reply.algorithm.algorithm_settings}
        for given in reply.parameter_assignments:
            self.create(experiment, {a.name: a.value for a in given.assignments})

    def create(self, experiment: Json, values: dict[str, str]) -> None:
        template, number = experiment["spec"]["trialTemplate"], self.begun
        self.begun += 1
        assert values.keys() == {parameter["reference"] for parameter in template["trialParameters"]}
        text = json.dumps(template["trialSpec"])
        for parameter in template["trialParameters"]:
            text = text.replace(f"${{trialParameters.{parameter['name']}}}", values[parameter["reference"]])
        assert not re.search(r"\{trialParameters\..+?\}", text)
        self.trials.append(
            {
                "metadata": {
                    "name": f"{experiment['metadata']['name']}-{number:08d}",
                    "creationTimestamp": f"2026-11-24T10:{number // 60:02d}:{number % 60:02d}Z",
                },
                "spec": {
                    "parameterAssignments": [{"name": n, "value": v} for n, v in values.items()],
                    "runSpec": json.loads(text),
                },
                "status": {"conditions": [_holds("Created"), _holds("Running")]},
            }
        )

    def words(self, experiment: Json) -> pb.Experiment:
        """As Katib puts an Experiment to a suggestion service."""
        spec = experiment["spec"]
        made = pb.Experiment(name=experiment["metadata"]["name"])
        for parameter in spec["parameters"]:
            space = dict(parameter["feasibleSpace"])
            distribution = {"logUniform": pb.LOG_UNIFORM}.get(space.pop("distribution", ""), pb.UNIFORM)
            made.spec.parameter_specs.parameters.add(
                name=parameter["name"],
                parameter_type=TYPES[parameter["parameterType"]],
                feasible_space=pb.FeasibleSpace(distribution=distribution, **space),
            )
        made.spec.objective.type = pb.MINIMIZE
        made.spec.objective.objective_metric_name = spec["objective"]["objectiveMetricName"]
        made.spec.algorithm.algorithm_name = spec["algorithm"]["algorithmName"]
        given = {s["name"]: s["value"] for s in spec["algorithm"]["algorithmSettings"]} | self.settings
        for name, value in given.items():
            made.spec.algorithm.algorithm_settings.add(name=name, value=value)
        made.spec.parallel_trial_count = spec["parallelTrialCount"]
        made.spec.max_trial_count = spec["maxTrialCount"]
        return made


def _holds(kind: str, message: str = "") -> Json:
    return {"type": kind, "status": "True", "message": message}


def _now(trial: Json) -> str:
    kind: str = trial["status"]["conditions"][-1]["type"]
    return kind


def _end(experiment: Json, kind: str, message: str) -> None:
    experiment["status"]["conditions"].append(_holds(kind, message))


class Database(NamedTuple):
    address: str
    told: list[pb.ReportObservationLogRequest]


@contextmanager
def recording() -> Iterator[Database]:
    """Katib's database manager as a trial sees it."""
    told: list[pb.ReportObservationLogRequest] = []
    server, port = started("127.0.0.1:0", told.append)
    yield Database(f"127.0.0.1:{port}", told)
    server.stop(None)
