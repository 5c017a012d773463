"""The KFP face of a step: which image, which module, which flags."""

import functools
import inspect
import json
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl.placeholders import (
    InputPathPlaceholder,
    InputValuePlaceholder,
    OutputParameterPlaceholder,
    OutputPathPlaceholder,
)

from deepcuts.components.core.executor_input import PARAMETER, STEP, flag_of, joined, shortened

REGISTRY = os.environ.get("DEEPCUTS_REGISTRY", "localhost/deepcuts")
TAG = os.environ.get("DEEPCUTS_TAG", "dev")
"""Set at compile time; a release has its own tag, so KFP never reuses results of older code."""
DIGESTS = dict(word.partition("=")[::2] for word in os.environ.get("DEEPCUTS_DIGESTS", "").split(",") if word)
"""``train=sha256:…,data=sha256:…``: digest by image; a registry may move a tag, never a digest."""
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def image_name(image: str) -> str:
    """Return the full reference of one of our images: registry, tag, and digest if one is set.

    Raises:
        ValueError: digests are set, but this image's is missing or malformed.
    """
    if DIGESTS and not DIGEST.fullmatch(DIGESTS.get(image, "")):
        raise ValueError(f"DEEPCUTS_DIGESTS has {DIGESTS.get(image)!r} for {image}: give {image}=sha256:…")
    return f"{REGISTRY}/{image}:{TAG}" + (f"@{DIGESTS[image]}" if DIGESTS else "")


PLACE = {"pool": str, "selector": dict, "taints": list, "cpu": str, "memory": str, "devices": str}
"""Output parameters that place a pod, by type; KFP's driver takes numbers as text."""
SPREAD = "nodes"
"""Output parameter of a training: the nodes that it takes together (``core/spread.py``)."""


class ChainedStep(NamedTuple):
    """One step of a chain."""

    module: str
    args: list[object]


def container(
    module: str, image: str, receipt: dsl.Output[dsl.Metrics], **flags: object
) -> dsl.ContainerSpec:
    """Return ``python -m module`` in ``image``, with one ``--flag value`` per keyword.

    A parameter or path is passed as ``$.NAME``, or ``$.`` if it is named as its flag, which the step looks up
    in the executor input; the server would write its value into the pod a second time, and a run's status
    holds each pod six times. A dict of artifacts is passed as JSON, by name.
    """
    args = [*part(module, **flags).args, *_own(receipt)]
    return dsl.ContainerSpec(image=image_name(image), command=["python", "-m", module], args=args)


def part(module: str, **flags: object) -> ChainedStep:
    """Return ``python -m module`` as a step of a chain, with flags as in ``container``."""
    values = {name: _paths(value) if isinstance(value, dict) else value for name, value in flags.items()}
    words = [(flag_of(name), _word(value)) for name, value in values.items()]
    return ChainedStep(module, [word for flag, value in words for word in (flag, shortened(flag, value))])


def chain(image: str, receipt: dsl.Output[dsl.Metrics], **parts: ChainedStep) -> dsl.ContainerSpec:
    """Run several steps one after another in one container of ``image`` (``core/chain.py``).

    Each of ``parts``, keyed by its name in the ledger, writes its own receipt to ``<receipt>_NAME``;
    ``receipt`` is the chain's and has the facts of all of them.
    """
    args = _own(receipt)
    for name, step in parts.items():
        beginning, end = STEP.split("{}")  # left out to save space: a run's status repeats each word 8 times
        folder = step.module.removeprefix(beginning).removesuffix(end)
        args += ["--part", name if name == folder else f"{name}={folder}", *joined(step.args)]
    command = ["python", "-m", "deepcuts.components.core.chain"]
    return dsl.ContainerSpec(image=image_name(image), command=command, args=args)


def parameter_files(*beginnings: str) -> str:
    """Return one flag value for the files of all output parameters whose names start with ``beginnings``."""
    return PARAMETER + ",".join(f"{beginning}*" for beginning in beginnings)


def places(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add to a component the output parameters that place pods, ``NAME_pool`` to ``NAME_devices``.

    For ``train`` there is ``train_nodes``, too.

    The component receives them as one argument, ``placed``, which is the value of a flag.
    """
    kinds: dict[str, Any] = {f"{name}_{what}": kind for name in names for what, kind in PLACE.items()}
    kinds |= {f"{name}_{SPREAD}": dict for name in names if name == "train"}

    def decorate(face: Callable[..., Any]) -> Callable[..., Any]:
        own = [each for each in inspect.signature(face).parameters.values() if each.name != "placed"]
        added = [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=dsl.OutputPath(kind))
            for name, kind in kinds.items()
        ]
        signature = inspect.Signature([*own, *added])

        @functools.wraps(face)
        def wrapped(*values: Any) -> Any:
            given = signature.bind(*values).arguments
            own = {key: value for key, value in given.items() if key not in kinds}
            return face(**own, placed=parameter_files(*names))

        wrapped.__signature__ = signature  # type: ignore[attr-defined]  # kfp reads it
        return wrapped

    return decorate


def between(name: str) -> str:
    """Return the path of a file that one step of a chain passes to the next, next to the chain's receipt."""
    return f"{PARAMETER}receipt.{name}"


def _own(receipt: dsl.Output[dsl.Metrics]) -> list[object]:
    return ["--receipt", receipt.path, "--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER]


def _word(value: object) -> object:
    match value:
        case InputValuePlaceholder() | InputPathPlaceholder():
            return f"{PARAMETER}{value.input_name}"
        case OutputPathPlaceholder() | OutputParameterPlaceholder():
            return f"{PARAMETER}{value.output_name}"
        case _:
            return value


def _paths(artifacts: dict[str, dsl.Artifact]) -> str:
    return json.dumps({name: str(artifact.path) for name, artifact in artifacts.items()})
