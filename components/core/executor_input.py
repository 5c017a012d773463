"""KFP's executor input, in which a step finds the values of its task's parameters."""

import json
from collections.abc import Mapping
from typing import Any

PARAMETER = "$."
"""Before the name of a parameter, as the value of a flag: the step looks the value up."""


POOL = "placed_on"
"""Input of a task that is placed in the run: the name of its node pool. No component declares it."""


def pool(executor: Mapping[str, Any]) -> str:
    """Return the node pool that the task was placed on in the run; empty for one placed when compiling."""
    return str(executor.get("inputs", {}).get("parameterValues", {}).get(POOL, ""))


def value(word: str, executor: Mapping[str, Any] | None) -> str:
    """Return the value of a flag as text, looked up where ``word`` names a parameter.

    Raises:
        ValueError: the executor input has no such parameter.
    """
    if executor is None or not word.startswith(PARAMETER):
        return word
    name = word.removeprefix(PARAMETER)
    given = executor.get("inputs", {}).get("parameterValues", {})
    if name not in given:
        raise ValueError(f"{word}: no parameter of this task; it has {', '.join(sorted(given)) or 'none'}")
    found = given[name]
    return found if isinstance(found, str) else json.dumps(found)
