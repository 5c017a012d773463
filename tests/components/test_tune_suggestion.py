"""The Katib suggestion service: recorded requests, and a driver that keeps the controller's rules."""

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from deepcuts.components.tune import suggestion_pb2 as pb
from deepcuts.components.tune.asha import Search
from deepcuts.components.tune.protocol import LEDGER, known, settings_of, space_of
from deepcuts.components.tune.space import key
from deepcuts.components.tune.suggestion import answer, server, validate
from tests.conftest import ROOT

RECORDED = ROOT.parent / "shared" / "design" / "katib-recorded"
CALLS = sorted(path for path in RECORDED.glob("*.json") if path.stem != "validate")
recorded = pytest.mark.skipif(not RECORDED.exists(), reason=f"no recorded requests at {RECORDED}")

EXPERIMENT = {
    "name": "driven",
    "spec": {
        "parameter_specs": {
            "parameters": [
                {"name": "epochs", "parameter_type": "INT", "feasible_space": {"min": "1", "max": "9"}},
                {
                    "name": "lr",
                    "parameter_type": "DOUBLE",
                    "feasible_space": {"min": "0.001", "max": "0.3", "distribution": "LOG_UNIFORM"},
                },
                {
                    "name": "method",
                    "parameter_type": "CATEGORICAL",
                    "feasible_space": {"list": ["lora", "full"]},
                },
                {
                    "name": "rank",
                    "parameter_type": "INT",
                    "feasible_space": {"min": "2", "max": "8", "step": "2"},
                },
            ]
        },
        "objective": {"type": "MINIMIZE", "objective_metric_name": "loss"},
        "algorithm": {"algorithm_name": "asha"},
        "parallel_trial_count": 3,
        "max_trial_count": 20,
    },
}
SETTINGS = {
    "resource": "epochs",
    "min_resource": "1",
    "max_resource": "9",
    "eta": "3",
    "seed": "1",
    "conditions": '{"rank": {"method": ["lora"]}}',
}


def experiment(**settings: str) -> pb.Experiment:
    made = json_format.ParseDict(EXPERIMENT, pb.Experiment())
    for name, value in (SETTINGS | settings).items():
        made.spec.algorithm.algorithm_settings.add(name=name, value=value)
    return made


def call(path: Path) -> tuple[pb.GetSuggestionsRequest, pb.GetSuggestionsReply]:
    both = json.loads(path.read_text())
    return (
        json_format.ParseDict(both["request"], pb.GetSuggestionsRequest()),
        json_format.ParseDict(both["reply"], pb.GetSuggestionsReply()),
    )


def values(assignment: Any) -> dict[str, str]:
    return {item.name: item.value for item in assignment.assignments}


def ledger(reply: pb.GetSuggestionsReply) -> list[tuple[str, int]]:
    (stored,) = (s.value for s in reply.algorithm.algorithm_settings if s.name == LEDGER)
    return [(name, rung) for name, rung in json.loads(stored)]


@recorded
@pytest.mark.parametrize("path", CALLS, ids=lambda path: path.stem)
def test_a_recorded_request_gets_exactly_what_it_asks_for_and_nothing_twice(path):
    request, _ = call(path)
    reply = answer(request)
    assert len(reply.parameter_assignments) == request.current_request_number
    assert len(ledger(reply)) == request.total_request_number
    assert len(set(ledger(reply))) == len(ledger(reply))
    declared = {parameter.name for parameter in request.experiment.spec.parameter_specs.parameters}
    assert all(set(values(assignment)) == declared for assignment in reply.parameter_assignments)
    assert not any(assignment.trial_name for assignment in reply.parameter_assignments)
    assert answer(request) == reply  # dropped and asked again


@recorded
@pytest.mark.parametrize("name", ["promotion", "promotion_to_top"])
def test_a_recorded_request_that_promoted_promotes_the_same_configuration(name):
    request, theirs = call(RECORDED / f"{name}.json")
    (ours,) = answer(request).parameter_assignments
    (recorded,) = theirs.parameter_assignments
    assert ours.labels == recorded.labels and values(ours) == values(recorded)


@recorded
def test_trials_deleted_by_a_lowered_parallel_count_are_handed_out_again():
    request, _ = call(RECORDED / "total_goes_down.json")
    before = json.loads(
        next(s.value for s in request.experiment.spec.algorithm.algorithm_settings if s.name == LEDGER)
    )
    after = ledger(answer(request))
    assert len(before) == 10 and len(after) == request.total_request_number == 8
    shown = {("22e42a37e7a0", 1), ("a516200edd6f", 0), ("e11a9d070d8c", 0)}
    assert shown <= set(after)


@recorded
def test_trials_of_another_namespace_count_for_nothing():
    request, _ = call(RECORDED / "trials_of_another_namespace.json")
    stored = json.loads(
        next(s.value for s in request.experiment.spec.algorithm.algorithm_settings if s.name == LEDGER)
    )
    ours = {(name, rung) for name, rung in stored}
    reply = answer(request)
    for assignment in reply.parameter_assignments:
        if rung := int(assignment.labels["asha-rung"]):
            assert (assignment.labels["asha-config"], rung - 1) in ours


def test_of_two_trials_with_one_entry_the_unfinished_counts():
    request = asked(**{"0.1": "1"})
    again = request.trials.add()
    again.CopyFrom(request.trials[0])
    again.status.condition = pb.TrialStatus.RUNNING
    entry = json.dumps([[key({"lr": 0.1, "method": "full"}), 0]])
    request.experiment.spec.algorithm.algorithm_settings.add(name=LEDGER, value=entry)
    settings = settings_of(request.experiment.spec.algorithm)
    space = space_of(request.experiment.spec.parameter_specs.parameters, settings)
    trials, ledger = known(request, space, Search((1, 3, 9), 3, 1, 0), settings, held=1)
    assert [trial.loss for trial in trials] == [None] and len(ledger) == 1


class Controller:
    """Katib's controller as far as a suggestion service sees it (each rule was measured on the real one)."""

    def __init__(
        self,
        parallel: int,
        most: int,
        seed: int = 0,
        unavailable: float = 0,
        fail: float = 0,
        diverge: float = 0.1,
    ) -> None:
        self.parallel, self.most = parallel, most
        self.dice = random.Random(seed)
        self.unavailable, self.fail, self.diverge = unavailable, fail, diverge
        self.settings: dict[str, str] = {}
        self.accepted: list[dict[str, str]] = []
        self.trials: list[dict[str, Any]] = []
        self.epochs: dict[str, int] = {}
        self.trained: list[tuple[str, int, int]] = []

    def active(self) -> list[dict[str, Any]]:
        return [trial for trial in self.trials if trial["condition"] == "RUNNING"]

    def request(self) -> pb.GetSuggestionsRequest | None:
        completed = len(self.trials) - len(self.active())
        wanted = max(0, min(self.parallel, self.most - completed) - len(self.active()))
        total = len(self.trials) + wanted
        if total <= len(self.accepted):
            return None
        request = pb.GetSuggestionsRequest(
            experiment=experiment(**self.settings),
            total_request_number=total,
            current_request_number=total - len(self.accepted),
        )
        request.experiment.spec.parallel_trial_count = self.parallel
        request.experiment.spec.max_trial_count = self.most
        shown = [trial for trial in self.trials if trial["condition"] != "METRICSUNAVAILABLE"]
        self.dice.shuffle(shown)
        for trial in shown:
            item = request.trials.add(name=trial["name"])
            item.spec.objective.CopyFrom(request.experiment.spec.objective)
            for name, value in trial["values"].items():
                item.spec.parameter_assignments.assignments.add(name=name, value=value)
            item.status.condition = pb.TrialStatus.Condition.Value(trial["condition"])
            if "loss" in trial:
                item.status.observation.metrics.add(name="loss", value=trial["loss"])
        return request

    def round(self) -> None:
        if request := self.request():
            reply = answer(request)
            if self.dice.random() < 0.2:  # a status conflict: thrown away, asked again later
                assert answer(request) == reply
                return
            assert len(reply.parameter_assignments) == request.current_request_number
            self.settings |= {s.name: s.value for s in reply.algorithm.algorithm_settings}
            self.accepted += [values(assignment) for assignment in reply.parameter_assignments]
        self.create()
        if running := self.active():
            self.end(self.dice.choice(running))

    def create(self) -> None:
        """Trial objects appear a moment after the Suggestion has accepted them, not all at once."""
        waiting = self.accepted[len(self.trials) :]
        for assignment in waiting[: self.dice.randint(0 if self.active() else 1, 2)]:
            assert set(assignment) == {"epochs", "lr", "method", "rank"}
            self.trials.append(
                {"name": f"driven-{len(self.trials)}", "values": assignment, "condition": "RUNNING"}
            )

    def end(self, trial: dict[str, Any]) -> None:
        given, dice = trial["values"], self.dice.random()
        name = f"{given['lr']}/{given['method']}/{given['rank']}"
        start, stop = self.epochs.get(name, 0), int(given["epochs"])
        self.trained.append((name, start, stop))
        self.epochs[name] = stop
        if dice < self.unavailable:
            trial["condition"] = "METRICSUNAVAILABLE"
        elif dice < self.unavailable + self.fail:
            trial["condition"] = "FAILED"
        else:
            trial["condition"] = "SUCCEEDED"
            loss = abs(math.log10(float(given["lr"])) + 2) + 1 / stop
            trial["loss"] = "" if self.dice.random() < self.diverge else str(loss)

    def drive(self) -> Counter[int]:
        """Run to maxTrialCount; trials by epochs."""
        for _ in range(50 * self.most):
            self.round()
            if sum(trial["condition"] != "RUNNING" for trial in self.trials) >= self.most:
                return Counter(stop for _, _, stop in self.trained)
        raise AssertionError("the experiment does not end")


@pytest.mark.parametrize("parallel", [1, 3, 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_experiment_ends_and_promoted_trials_resume(parallel, seed):
    controller = Controller(parallel, most=30, seed=seed)
    sizes = controller.drive()
    assert len(set(controller.trained)) == len(controller.trained)
    assert sizes[1] > sizes[3] > sizes[9] >= 1 and set(sizes) == {1, 3, 9}
    assert all(start == {1: 0, 3: 1, 9: 3}[stop] for _, start, stop in controller.trained)


@pytest.mark.parametrize("parallel", [1, 3, 8])
def test_with_few_trials_left_one_still_reaches_the_top(parallel):
    # the shares alone ask for 9 at the bottom
    sizes = Controller(parallel, most=8 + parallel, seed=5, diverge=0).drive()
    assert sizes[9] >= 1


@pytest.mark.parametrize("trouble", [{"unavailable": 0.3}, {"fail": 0.3}])
def test_failed_and_unavailable_trials_are_neither_repeated_nor_promoted(trouble):
    controller = Controller(3, most=40, seed=2, **trouble)
    controller.drive()
    assert len(set(controller.trained)) == len(controller.trained)
    ended_well = {json.dumps(t["values"]) for t in controller.trials if t.get("loss")}
    for trial in controller.trials:
        if trial["values"]["epochs"] != "1":
            below = {"3": "1", "9": "3"}[trial["values"]["epochs"]]
            assert json.dumps(trial["values"] | {"epochs": below}) in ended_well


def test_a_lowered_parallel_count_loses_and_repeats_no_work():
    controller = Controller(6, most=30, seed=3)
    while len(controller.active()) < 5:
        controller.round()
    controller.parallel = 2
    gone = controller.active()[2:]
    controller.accepted = controller.accepted[: len(controller.trials)]
    for trial in gone:
        controller.accepted.remove(trial["values"])
        controller.trials.remove(trial)
    controller.drive()
    assert len(set(controller.trained)) == len(controller.trained)
    promoted = [trial["values"] for trial in gone if trial["values"]["epochs"] != "1"]
    assert all(trial in [t["values"] for t in controller.trials] for trial in promoted)


def test_conditions_hold_and_switched_off_parameters_keep_one_value():
    controller = Controller(3, most=30, seed=4)
    controller.drive()
    assert {t["values"]["rank"] for t in controller.trials if t["values"]["method"] == "full"} == {"2"}
    assert len({t["values"]["rank"] for t in controller.trials if t["values"]["method"] == "lora"}) > 1


def asked(**losses: str) -> pb.GetSuggestionsRequest:
    """A request for one more, with a finished trial of one epoch for each ``lr``."""
    request = pb.GetSuggestionsRequest(
        experiment=experiment(), total_request_number=len(losses) + 1, current_request_number=1
    )
    for lr, metric in losses.items():
        trial = request.trials.add(name=lr)
        trial.spec.objective.CopyFrom(request.experiment.spec.objective)
        given = {"epochs": "1", "lr": lr, "method": "full", "rank": "2"}
        for name, value in given.items():
            trial.spec.parameter_assignments.assignments.add(name=name, value=value)
        trial.status.condition = pb.TrialStatus.SUCCEEDED
        trial.status.observation.metrics.add(name="loss", value=metric)
    return request


def test_maximising_promotes_the_largest():
    request = asked(**{"0.1": "1", "0.2": "5", "0.05": "2"})
    request.experiment.spec.objective.type = pb.MAXIMIZE
    (assignment,) = answer(request).parameter_assignments
    assert (values(assignment)["lr"], values(assignment)["epochs"]) == ("0.2", "3")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"etaa": "3"}, "etaa"),
        ({"eta": "1"}, "eta"),
        ({"eta": "three"}, "eta"),
        ({"resource": "steps"}, "steps"),
        ({"min_resource": "10"}, "resource from 10"),
        ({"max_resource": "27"}, "from 1 to 9"),
        ({"brackets": "9"}, "brackets 9"),
        ({"conditions": '{"rank": {"lr": [1]}}'}, "'lr' is not an unconditional choice"),
        ({"conditions": '{"range": {"method": ["lora"]}}'}, "range"),
    ],
)
def test_an_experiment_that_cannot_work_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        validate(experiment(**settings))


@recorded
def test_the_recorded_experiment_is_valid():
    recording = json.loads((RECORDED / "validate.json").read_text())
    validate(json_format.ParseDict(recording, pb.ValidateAlgorithmSettingsRequest()).experiment)


@pytest.fixture
def channel():
    serving, port = server(0)
    serving.start()
    with grpc.insecure_channel(f"localhost:{port}") as made:
        yield made
    serving.stop(None)


def test_the_service_answers_over_grpc_as_katib_asks(channel):
    def ask(path: str, request: Any, reply: Any) -> Any:
        return channel.unary_unary(
            path, request_serializer=type(request).SerializeToString, response_deserializer=reply.FromString
        )(request, timeout=20)

    health = ask(
        "/grpc.health.v1.Health/Check",
        pb.HealthCheckRequest(service="manager.v1beta1.Suggestion"),
        pb.HealthCheckResponse,
    )
    assert health.status == pb.HealthCheckResponse.SERVING
    request = pb.GetSuggestionsRequest(
        experiment=experiment(), total_request_number=3, current_request_number=3
    )
    reply = ask("/api.v1.beta1.Suggestion/GetSuggestions", request, pb.GetSuggestionsReply)
    assert reply == answer(request)
    path = "/api.v1.beta1.Suggestion/ValidateAlgorithmSettings"
    asked = pb.ValidateAlgorithmSettingsRequest(experiment=experiment())
    ask(path, asked, pb.ValidateAlgorithmSettingsReply)
    with pytest.raises(grpc.RpcError) as refused:
        wrong = pb.ValidateAlgorithmSettingsRequest(experiment=experiment(eta="1"))
        ask(path, wrong, pb.ValidateAlgorithmSettingsReply)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
