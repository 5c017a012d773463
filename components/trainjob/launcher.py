"""Run a training step on several nodes: create its TrainJob, follow it, and take its outputs from the store.

The step keeps its face: the same arguments, the same outputs, the same exit codes. A retried pod adopts the
TrainJob of the one before; SIGTERM deletes it.
"""

import functools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from deepcuts.components.core import cancel, carry, executor_input, files
from deepcuts.components.core.api_server import connect
from deepcuts.components.core.attempts import NODE, UNREACHABLE
from deepcuts.components.core.cancel import sigterm, undisturbed
from deepcuts.components.core.cli import StepFunction
from deepcuts.components.core.errors import Preempted, StoreError
from deepcuts.components.core.progress import tell
from deepcuts.components.core.receipts import Facts, Receipt
from deepcuts.components.core.spread import Spread
from deepcuts.components.core.store import Store, open_store
from deepcuts.components.trainjob import follow
from deepcuts.components.trainjob.cluster import INDEX, Trainer
from deepcuts.components.trainjob.job import trainjob
from deepcuts.components.trainjob.node_task import RECEIPT, NodeTask, name_of, node_task


def on_nodes(
    step: StepFunction, module: str, argv: Sequence[str], executor: Mapping[str, Any], spread: Spread
) -> StepFunction:
    """Return ``step`` as one that trains on the nodes of ``spread``, with the same name and parameters."""

    @functools.wraps(step)
    @sigterm()
    def launched(**values: Any) -> Facts:
        task = node_task(argv, executor, module, step.__name__, spread)
        store = open_store(task.root)
        run_to_end(Trainer(connect("")), spread, task, store)
        return collected(store, task, executor) | {
            "nodes": spread.nodes,
            "trained_on": spread.pool,
            "trainjob": name_of(task),
        }

    return launched


def run_to_end(trainer: Trainer, spread: Spread, task: NodeTask, store: Store) -> None:
    """Create the TrainJob unless it exists or has left its outputs, follow it to its end and delete it.

    Raises:
        Preempted: SIGTERM arrived; the TrainJob is deleted.
        Exception: it failed, with the error of the pod that failed (``follow.FAILURES``).
    """
    name = name_of(task)
    try:
        trainer.settle(name)
        if trainer.job(name) is None:
            if store.exists(f"{task.made}/{RECEIPT}"):  # an earlier pod of this task was lost afterwards
                return
            made = trainjob(name, trainer.own_image(), spread, task)
            with undisturbed():
                trainer.create(made)
        tell(f"kubectl -n {trainer.namespace} get trainjob {name}")
        failed = follow.followed(trainer, name, functools.partial(remember, store, task))
    except Preempted as error:
        raise Preempted(cancelled(trainer, name)) from error
    except ValueError:  # not a StoreError: the next attempt adopts what an outage leaves running
        with suppress(ValueError, StoreError):
            trainer.delete(name)
        raise
    trainer.delete(name)
    if failed:
        raise failed


def cancelled(trainer: Trainer, name: str) -> str:
    """Delete a TrainJob that is no longer followed; return a message for the user."""
    then = ": the same command resumes from its checkpoints"
    return cancel.cancelled(trainer.delete, trainer.namespace, "TrainJob", name, then)


def remember(store: Store, task: NodeTask, pod: Any, labels: Mapping[str, str]) -> None:
    """Record the labels of a pod's node, by which its time is billed; the pod may not read them."""
    if not labels:
        return
    number = (pod.metadata.labels or {}).get(INDEX, "0")
    key = f"{task.prefix}{NODE}{number}/labels/{pod.metadata.uid}"
    try:
        store.put_bytes(key, msgspec.json.encode(labels))
    except UNREACHABLE as error:  # then it is billed on the pool that it was sent to
        tell(f"labels of {pod.spec.node_name} not recorded: {error}")


def collected(store: Store, task: NodeTask, executor: Mapping[str, Any]) -> Facts:
    """Download the outputs to where KFP expects them; return the facts of the training."""
    for name, value in executor["outputs"].get("artifacts", {}).items():
        uri, path = task.outputs.get(f"outputs/{name}"), executor_input.path_of(value["artifacts"][0])
        if uri and path:
            files.remove(Path(path))
            carry.get(uri, Path(path))
    receipt = msgspec.json.decode(store.get_bytes(f"{task.made}/{RECEIPT}"), type=Receipt)
    return receipt.facts
