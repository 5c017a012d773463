"""Patience with the Kubernetes API."""

import json
from typing import NoReturn

from kubernetes import client

from deepcuts.components.core.api_server import CONFLICT, ask
from deepcuts.components.core.errors import StoreError


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
