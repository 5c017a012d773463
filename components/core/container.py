"""The KFP face of a step: which image, which module, which flags."""

import json
import os

from kfp import dsl

REGISTRY = os.environ.get("DEEPCUTS_REGISTRY", "localhost/deepcuts")
TAG = os.environ.get("DEEPCUTS_TAG", "dev")
"""Set at compile time: a release uses its digest's tag, which keeps KFP's cache key honest."""


def container(
    module: str, image: str, receipt: dsl.Output[dsl.Metrics], **flags: object
) -> dsl.ContainerSpec:
    """``python -m module`` in ``image``, one ``--flag value`` a keyword; artifacts by name as JSON."""
    flags |= {name: _paths(value) for name, value in flags.items() if isinstance(value, dict)}
    flags |= {"receipt": receipt.path, "executor_input": dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER}
    args = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
    return dsl.ContainerSpec(image=f"{REGISTRY}/{image}:{TAG}", command=["python", "-m", module], args=args)


def _paths(artifacts: dict[str, dsl.Artifact]) -> str:
    return json.dumps({name: str(artifact.path) for name, artifact in artifacts.items()})
