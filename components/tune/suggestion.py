"""Serve the search as a Katib algorithm, ``api.v1.beta1.Suggestion`` over gRPC.

A reply depends only on its request, as Katib may discard it and ask again, and restarts this service. What a
request does not show (trials not created yet, or without metrics) is in a ledger, kept in the algorithm
settings that Katib stores together with the assignments.
"""

import math
import signal
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
import msgspec

from deepcuts.components.tune import asha, sampling
from deepcuts.components.tune import space as spaces
from deepcuts.components.tune import suggestion_pb2 as pb
from deepcuts.components.tune.asha import Closing, Search
from deepcuts.components.tune.protocol import LEDGER, filled, known, settings_of, space_of
from deepcuts.components.tune.space import text

PORT = 6789
"""Where Katib looks for a suggestion service."""


def answer(request: pb.GetSuggestionsRequest) -> pb.GetSuggestionsReply:
    """Return exactly the requested number of assignments, with the ledger."""
    spec = request.experiment.spec
    settings = settings_of(spec.algorithm)
    space = space_of(spec.parameter_specs.parameters, settings)
    search = Search(
        asha.levels(settings.min_resource, settings.max_resource, settings.eta),
        settings.eta,
        settings.brackets,
        configurations=0,
    )
    held = request.total_request_number - request.current_request_number
    trials, ledger = known(request, space, search, settings, held)
    draw = sampling.draw(space, settings.seed, settings.startup)
    left = spec.max_trial_count - held if spec.max_trial_count else math.inf
    closing = Closing(left, max(1, spec.parallel_trial_count))
    work = asha.assign(search, trials, ledger, request.current_request_number, draw, closing)
    reply = pb.GetSuggestionsReply()
    for item in work:
        values = {**filled(space, item.values), settings.resource: search.levels[item.rung]}
        assignment = reply.parameter_assignments.add()
        for parameter in spec.parameter_specs.parameters:  # in the order and names of the request
            assignment.assignments.add(name=parameter.name, value=text(values[parameter.name]))
        entry = (spaces.key(item.values), item.rung)
        assignment.labels.update({"asha-config": entry[0], "asha-rung": str(entry[1])})
        ledger.append(entry)
    reply.algorithm.algorithm_settings.add(name=LEDGER, value=msgspec.json.encode(ledger).decode())
    return reply


def validate(experiment: pb.Experiment) -> None:
    """Refuse an Experiment that the search cannot serve.

    Raises:
        ValueError: the problem; Katib ends the Experiment and shows it in the Suggestion's condition.
    """
    spec = experiment.spec
    settings = settings_of(spec.algorithm)
    space_of(spec.parameter_specs.parameters, settings)
    (resource,) = (p for p in spec.parameter_specs.parameters if p.name == settings.resource)
    low, high = float(resource.feasible_space.min or "nan"), float(resource.feasible_space.max or "nan")
    if not (low <= settings.min_resource and settings.max_resource <= high):
        raise ValueError(
            f"resource {settings.resource!r} goes from {low:g} to {high:g}, not from min_resource "
            f"{settings.min_resource} to max_resource {settings.max_resource}: make it an int that does"
        )
    levels = asha.levels(settings.min_resource, settings.max_resource, settings.eta)
    if settings.brackets > len(levels):
        raise ValueError(f"brackets {settings.brackets} with {len(levels)} rungs: give at most as many")
    if spec.objective.type == pb.UNKNOWN:
        raise ValueError("objective.type is missing: give minimize or maximize")


def server(port: int) -> tuple[grpc.Server, int]:
    """Return (a server that is not started yet, its port); port 0 takes a free one."""
    made = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    suggestion = {
        "GetSuggestions": _handler(_get_suggestions, pb.GetSuggestionsRequest),
        "ValidateAlgorithmSettings": _handler(_validate, pb.ValidateAlgorithmSettingsRequest),
    }
    health = {"Check": _handler(_check, pb.HealthCheckRequest)}
    made.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("api.v1.beta1.Suggestion", suggestion),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
        )
    )
    return made, made.add_insecure_port(f"0.0.0.0:{port}")


def _handler(respond: Callable[[Any, grpc.ServicerContext], Any], request: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        respond,
        request_deserializer=request.FromString,
        response_serializer=lambda reply: reply.SerializeToString(),
    )


def _get_suggestions(
    request: pb.GetSuggestionsRequest, context: grpc.ServicerContext
) -> pb.GetSuggestionsReply:
    return answer(request)


def _validate(
    request: pb.ValidateAlgorithmSettingsRequest, context: grpc.ServicerContext
) -> pb.ValidateAlgorithmSettingsReply:
    try:
        validate(request.experiment)
    except ValueError as error:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    return pb.ValidateAlgorithmSettingsReply()


def _check(request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> pb.HealthCheckResponse:
    return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING)


def main() -> None:
    """Serve until SIGTERM; answers in progress are finished."""
    serving, port = server(PORT)
    signal.signal(signal.SIGTERM, lambda number, frame: serving.stop(grace=5))
    serving.start()
    print(f"suggestion: serving asha on port {port}", flush=True)
    serving.wait_for_termination()


if __name__ == "__main__":
    main()
