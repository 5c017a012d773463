"""Describe what each pod of a TrainJob runs: the step's own command, with its files brought by the store."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from deepcuts.components.core import attempts, cli, executor_input
from deepcuts.components.core.spread import Spread

RECEIPT = "receipt.json"
"""Name of the receipt of the first node, which seals the outputs in the store."""
LAUNCHERS = ("--executor-input", "--receipt")
"""Flags of the task itself; its pods get a receipt of their own and nothing of KFP."""


class NodeTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The argument of each pod; paths are relative to a scratch folder of the pod."""

    module: str
    step: str
    """Name of the step in receipts."""
    flags: dict[str, str]
    inputs: dict[str, str]
    """URI by path."""
    outputs: dict[str, str]
    """URI by path; the first node uploads them."""
    root: str
    """URI of the bucket that holds the run."""
    prefix: str
    """Folder of the task's attempts in it."""
    pool: str
    """Where the pods are sent."""
    devices: int
    """Accelerators on each node."""

    @property
    def made(self) -> str:
        """Return the prefix of the outputs."""
        return f"{self.prefix}/made"


def node_task(
    argv: Sequence[str], executor: Mapping[str, Any], module: str, step: str, spread: Spread
) -> NodeTask:
    """Return the task of each pod for a step that KFP started with ``argv``.

    Raises:
        ValueError: its outputs are in no object store.
    """
    root, prefix = attempts.of_task(executor)
    if not root:
        raise ValueError(
            f"a training on {spread.nodes} nodes hands its files over by an object store, and this task's "
            "outputs are in none: set max_nodes to 1 in nodepools"
        )
    moved = copy.deepcopy(dict(executor))
    sides: dict[str, dict[str, str]] = {"inputs": {}, "outputs": {}}
    for side, found in sides.items():
        for name, value in moved.get(side, {}).get("artifacts", {}).items():
            (artifact,) = value["artifacts"]
            artifact["customPath"] = f"{side}/{name}"
            found[artifact["customPath"]] = str(artifact["uri"])
    words, _ = cli.pairs(list(argv))
    flags = {flag: executor_input.value(word, moved) for flag, word in words.items() if flag not in LAUNCHERS}
    names = [path for path in sides["outputs"] if path in flags.values()]
    return NodeTask(
        module=module,
        step=step,
        flags=flags,
        inputs=sides["inputs"],
        outputs={path: f"{root}/{prefix}/made/{path.removeprefix('outputs/')}" for path in names},
        root=root,
        prefix=prefix,
        pool=spread.pool,
        devices=spread.devices,
    )


def name_of(task: NodeTask) -> str:
    """Return the TrainJob's name, the same for every attempt of a task, so that a retry adopts it."""
    return f"deepcuts-{hashlib.sha256(f'{task.root}/{task.prefix}'.encode()).hexdigest()[:12]}"
