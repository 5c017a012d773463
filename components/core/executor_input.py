"""KFP's executor input, in which a step finds the values of its task's parameters."""

import json
from collections.abc import Mapping
from typing import Any

PARAMETER = "$."
"""Before the name of a parameter, as the value of a flag: the step looks the value up."""


STEP = "deepcuts.components.{}.step"
"""Module of a step of ours, by the name of its folder."""
POOL = "placed_on"
"""Input of a task that is placed in the run: the name of its node pool. No component declares it."""


def step_module(word: str) -> str:
    """Return the module that a chain's ``--part`` names: a folder of ours, or a module whole."""
    return word if "." in word else STEP.format(word)


def pool(executor: Mapping[str, Any]) -> str:
    """Return the node pool that the task was placed on in the run; empty for one placed when compiling."""
    return str(executor.get("inputs", {}).get("parameterValues", {}).get(POOL, ""))


def value(word: str, executor: Mapping[str, Any] | None) -> str:
    """Return the value of a flag as text, looked up where ``word`` names a parameter, or the path it names.

    What follows a full stop behind the name of an artifact is added to its path. ``NAME*``, or several with
    commas between them, are a JSON of the files of all output parameters whose names begin so.

    Raises:
        ValueError: the executor input has nothing of that name.
    """
    if executor is None or not word.startswith(PARAMETER):
        return word
    name = word.removeprefix(PARAMETER)
    given, made = executor.get("inputs", {}), executor.get("outputs", {})
    if name.endswith("*"):
        beginnings, known = tuple(name.replace("*", "").split(",")), made.get("parameters", {})
        return json.dumps({key: known[key]["outputFile"] for key in known if key.startswith(beginnings)})
    parameters = given.get("parameterValues", {})
    if name in parameters:
        found = parameters[name]
        return found if isinstance(found, str) else json.dumps(found)
    if name in made.get("parameters", {}):
        return str(made["parameters"][name]["outputFile"])
    artifacts = given.get("artifacts", {}) | made.get("artifacts", {})
    artifact, dot, end = name.partition(".")
    if artifact in artifacts and (path := path_of(artifacts[artifact]["artifacts"][0])):
        return path + dot + end
    known = ", ".join(sorted({*parameters, *made.get("parameters", {}), *artifacts})) or "nothing"
    raise ValueError(f"{word}: no input or output of this task; it has {known}")


def path_of(artifact: Mapping[str, Any]) -> str | None:
    """Return where an artifact of the executor input is in the pod; None for a scheme that is not mounted."""
    return artifact.get("customPath") or local_path(artifact["uri"])


def local_path(uri: str) -> str | None:
    """Return where KFP's launcher has an artifact in the pod; None for a scheme that it does not mount."""
    for scheme, mount in (("minio://", "/minio/"), ("s3://", "/s3/"), ("gs://", "/gcs/"), ("file://", "/")):
        if uri.startswith(scheme):
            return mount + uri.removeprefix(scheme).lstrip("/")
    return None
