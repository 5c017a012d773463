"""The KFP face of a step: which image, which module, which flags."""

import json
import os
import re

from kfp import dsl

REGISTRY = os.environ.get("DEEPCUTS_REGISTRY", "localhost/deepcuts")
TAG = os.environ.get("DEEPCUTS_TAG", "dev")
"""Set at compile time: a release uses its digest's tag, which keeps KFP's cache key honest."""
DIGESTS = dict(word.partition("=")[::2] for word in os.environ.get("DEEPCUTS_DIGESTS", "").split(",") if word)
"""``train=sha256:…,data=sha256:…``: digest by image; a registry may move a tag, never a digest."""
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def image_name(image: str) -> str:
    """Return the reference of one of our images: registry, tag, and its digest where one is given.

    Raises:
        ValueError: digests are given, and this image has none, or one that is none.
    """
    if DIGESTS and not DIGEST.fullmatch(DIGESTS.get(image, "")):
        raise ValueError(f"DEEPCUTS_DIGESTS has {DIGESTS.get(image)!r} for {image}: give {image}=sha256:…")
    return f"{REGISTRY}/{image}:{TAG}" + (f"@{DIGESTS[image]}" if DIGESTS else "")


def container(
    module: str, image: str, receipt: dsl.Output[dsl.Metrics] | str, **flags: object
) -> dsl.ContainerSpec:
    """``python -m module`` in ``image``, one ``--flag value`` a keyword; artifacts by name as JSON."""
    flags |= {name: _paths(value) for name, value in flags.items() if isinstance(value, dict)}
    path = receipt if isinstance(receipt, str) else receipt.path
    flags |= {"receipt": path, "executor_input": dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER}
    args = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
    return dsl.ContainerSpec(image=image_name(image), command=["python", "-m", module], args=args)


def chain(image: str, receipt: dsl.Output[dsl.Metrics], **parts: dsl.ContainerSpec) -> dsl.ContainerSpec:
    """Run several steps one after another in one container of ``image`` (``core/chain.py``).

    Each of ``parts``, by its name in the ledger, is a ``container`` with a receipt of its own beside
    ``receipt``, which is the chain's and holds what all of them found.
    """
    args = ["--receipt", receipt.path, "--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER]
    for name, part in parts.items():
        args += ["--part", f"{name}={part.command[-1]}", *part.args[:-2]]  # the executor input is the chain's
    command = ["python", "-m", "components.core.chain"]
    return dsl.ContainerSpec(image=image_name(image), command=command, args=args)


def _paths(artifacts: dict[str, dsl.Artifact]) -> str:
    return json.dumps({name: str(artifact.path) for name, artifact in artifacts.items()})
