"""Patience with the Kubernetes API."""

import json
from typing import NoReturn

from kubernetes import client

from deepcuts.components.core.api_server import CONFLICT, FORBIDDEN, Operator, ask, judged
from deepcuts.components.core.errors import StoreError

OPERATOR = Operator(refuses="it refuses", missing="install it", manifests="kubectl apply -k it")


def conflict(reason: str) -> client.ApiException:
    error = client.ApiException(status=CONFLICT)
    error.body = json.dumps({"reason": reason})
    return error


def test_a_quota_changed_by_another_request_is_not_taken_for_an_object_of_that_name():
    answers = iter([conflict("Conflict"), conflict("AlreadyExists")])

    def create(**named: object) -> NoReturn:
        raise next(answers)

    assert ask(create, judge=lambda error: StoreError("busy"), outage_seconds=5, missing=CONFLICT) is None
    assert next(answers, None) is None


def test_a_used_up_quota_may_pass_and_a_missing_right_does_not():
    def forbidden(message: str) -> Exception:
        error = client.ApiException(status=FORBIDDEN)
        error.body = json.dumps({"message": message})
        return judged(error, "things in team", OPERATOR)

    full, refused = forbidden("exceeded quota: count/things"), forbidden("things is forbidden")
    assert isinstance(full, StoreError) and "no room for things in team: exceeded quota" in str(full)
    assert isinstance(refused, ValueError) and "kubectl apply -k it gives the right" in str(refused)
