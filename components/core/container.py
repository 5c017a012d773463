"""The KFP face of a step: which image, which module, which flags."""

import json
import os

from kfp import dsl

REGISTRY = os.environ.get("DEEPCUTS_REGISTRY", "localhost/deepcuts")
TAG = os.environ.get("DEEPCUTS_TAG", "dev")
"""Set at compile time: a release uses its digest's tag, which keeps KFP's cache key honest."""


def container(
    module: str, image: str, receipt: dsl.Output[dsl.Metrics] | str, **flags: object
) -> dsl.ContainerSpec:
    """Return ``python -m module`` in ``image``, one ``--flag value`` a keyword; artifacts by name as JSON."""
    flags |= {name: _paths(value) for name, value in flags.items() if isinstance(value, dict)}
    path = receipt if isinstance(receipt, str) else receipt.path
    flags |= {"receipt": path, "executor_input": dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER}
    args = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
    return dsl.ContainerSpec(image=f"{REGISTRY}/{image}:{TAG}", command=["python", "-m", module], args=args)


def chain(image: str, receipt: dsl.Output[dsl.Metrics], **parts: dsl.ContainerSpec) -> dsl.ContainerSpec:
    """Run several steps one after another in one container of ``image`` (``core/chain.py``).

    Each of ``parts``, by its name in the ledger, is a ``container`` with a receipt of its own next
    to ``receipt``, which is the chain's and holds what all of them found.
    """
    args = ["--receipt", receipt.path, "--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER]
    for name, part in parts.items():
        args += ["--part", f"{name}={part.command[-1]}", *part.args[:-2]]  # the executor input is the chain's
    command = ["python", "-m", "components.core.chain"]
    return dsl.ContainerSpec(image=f"{REGISTRY}/{image}:{TAG}", command=command, args=args)


def _paths(artifacts: dict[str, dsl.Artifact]) -> str:
    return json.dumps({name: str(artifact.path) for name, artifact in artifacts.items()})
