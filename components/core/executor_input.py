"""Look up a task's parameters and artifacts in KFP's executor input."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

PARAMETER = "$."
"""Prefix of a flag's value that names a parameter; the step looks the parameter up."""
SAME = "--same"
"""Flag of a chain with the names of others, each of which has the parameter it is named for."""

STEP = "deepcuts.components.{}.step"
"""Module of one of our steps, by folder name."""
POOL = "placed_on"
"""Input with the node pool of a task that is placed during the run. No component declares it."""


def step_module(word: str) -> str:
    """Return the module that a chain's ``--part`` names: one of our folders, or a full module name."""
    return word if "." in word else STEP.format(word)


def named_step(word: str) -> tuple[str, str]:
    """Return (name in the ledger, module) of a chain's ``--part``: NAME=STEP, or NAME if both are the same.

    Raises:
        ValueError: it has no name.
    """
    name, _, folder = word.partition("=")
    if not name:
        raise ValueError(f"--part {word}: expected NAME=STEP")
    return name, step_module(folder or name)


def pool(executor: Mapping[str, Any]) -> str:
    """Return the node pool chosen for the task during the run; empty if it was chosen at compile time."""
    return str(executor.get("inputs", {}).get("parameterValues", {}).get(POOL, ""))


def flag_of(name: str) -> str:
    """Return the flag that passes the parameter ``name``."""
    return f"--{name.replace('_', '-')}"


def parameter_of(flag: str) -> str:
    """Return the parameter that ``flag`` is named for."""
    return flag.removeprefix("--").replace("-", "_")


def shortened(flag: str, word: object) -> object:
    """Return ``$.`` for a value that names its own flag's parameter; a run's status repeats it 8 times."""
    same = isinstance(word, str) and flag == flag_of(word.removeprefix(PARAMETER))
    return PARAMETER if same else word


def joined(args: Sequence[object]) -> list[object]:
    """Return a chain's flags with all that have ``$.`` in one, ``--same base,valid``, which is shorter."""
    given = list(zip(args[::2], args[1::2], strict=True))
    same = ",".join(str(flag).removeprefix("--") for flag, word in given if word == PARAMETER)
    others = [word for pair in given if pair[1] != PARAMETER for word in pair]
    return [*([SAME, same] if same else []), *others]


def spelled_out(flag: str, word: str) -> str:
    """Return a flag's value as it was before ``shortened``."""
    return PARAMETER + parameter_of(flag) if word == PARAMETER else word


def pairs(args: Sequence[str]) -> list[tuple[str, str]]:
    """Return flags and values as they were before ``shortened`` and ``joined``."""
    found: list[tuple[str, str]] = []
    for flag, word in zip(args[::2], args[1::2], strict=True):  # every flag takes one value
        flags = [f"--{name}" for name in word.split(",")] if flag == SAME else [flag]
        found += [(one, spelled_out(one, PARAMETER if flag == SAME else word)) for one in flags]
    return found


def value(word: str, executor: Mapping[str, Any] | None) -> str:
    """Return a flag's value as text; if ``word`` names a parameter or an artifact, its value or path.

    Text after a full stop following an artifact's name is appended to its path. ``NAME*``, or several of them
    separated by commas, gives JSON with the files of all output parameters whose names start like that.

    Raises:
        ValueError: the executor input has nothing by that name.
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
    """Return the path of an artifact of the executor input in the pod; None if its scheme is not mounted."""
    return artifact.get("customPath") or local_path(artifact["uri"])


def local_path(uri: str) -> str | None:
    """Return the path where KFP's launcher puts an artifact; None if it does not mount the scheme."""
    for scheme, mount in (("minio://", "/minio/"), ("s3://", "/s3/"), ("gs://", "/gcs/"), ("file://", "/")):
        if uri.startswith(scheme):
            return mount + uri.removeprefix(scheme).lstrip("/")
    return None
