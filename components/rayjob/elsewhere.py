"""Run a step of a pipeline as a RayJob: this pod puts inputs into the store, follows, fetches outputs."""

import hashlib
import importlib.metadata
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from deepcuts.components.core import carry, records
from deepcuts.components.core.attempts import FINAL, POD_RECEIPTS
from deepcuts.components.core.cancel import sigterm
from deepcuts.components.core.errors import Preempted, StoreError
from deepcuts.components.core.executor_input import flag_of, parameter_of
from deepcuts.components.core.receipts import END_REASONS, Facts, Meter, Receipt
from deepcuts.components.core.store import Store, open_shared, open_store
from deepcuts.components.rayjob.settings import RayCluster
from deepcuts.components.rayjob.work import RECEIPT, TASK, RayInput, RayTask
from deepcuts.components.tune.inputs import deposit


def is_needed() -> bool:
    """Tell whether this pod may start a RayJob: only pods of pipelines have a token for the API server."""
    from deepcuts.components.core.api_server import ACCOUNT  # imports the API's client

    return ACCOUNT.exists()


@sigterm()
def run(module: str, given: Mapping[str, Any], inputs: Sequence[str], outputs: Sequence[str]) -> Facts:
    """Run the step ``module`` with its values ``given`` as a RayJob and return its facts.

    The RayJob is named by all that goes into it: a retried pod follows the one that its predecessor started,
    and one that has ended well is not run again.

    Args:
        module: Module with the step.
        given: Its parameters, among them ``ray``, ``ray_image``, ``nodepools`` and ``store``.
        inputs: Names of those with files or folders it reads.
        outputs: Names of those it writes.

    Raises:
        ValueError, DataError: the step refused its input there, or the cluster the RayJob.
        StoreError: the RayJob failed otherwise, or a server is unreachable.
        Preempted: SIGTERM arrived; the RayJob is deleted.
    """
    from deepcuts.components.core.api_server import connect  # imports the API's client, as does the next
    from deepcuts.components.rayjob.cluster import RayJobs
    from deepcuts.components.rayjob.follow import follow
    from deepcuts.components.rayjob.job import rayjob

    cluster, version = given["ray"], importlib.metadata.version("ray")
    pool = given["nodepools"].named(cluster.pool, "ray.pool")
    objects = open_shared(given["store"], "a RayJob runs in other pods")
    task = RayTask(
        module=module,
        store=given["store"],
        inputs={flag_of(name): _deposited(objects, given[name]) for name in inputs},
        values={
            flag_of(n): _text(v) for n, v in given.items() if n not in (*inputs, *outputs) and v is not None
        },
        outputs=[flag_of(name) for name in outputs if given[name] is not None],
    )
    identity = hashlib.sha256(
        msgspec.json.encode([task, cluster, pool.name, given["ray_image"]], order="deterministic")
    ).hexdigest()
    folder, name = f"rayjobs/{identity}", f"deepcuts-{identity[:12]}"
    if not _succeeded(objects, folder):
        objects.delete(f"{folder}/{RECEIPT}")  # of an attempt that failed
        objects.put_bytes(f"{folder}/{TASK}", msgspec.json.encode(task))
        jobs, began = RayJobs(connect(cluster.namespace)), Meter()
        job = rayjob(name, cluster, pool, given["ray_image"], version, objects.uri(folder))
        try:
            end = follow(jobs, job)
        except Preempted:
            _charge(objects, folder, task, cluster, began.started_at, began.seconds())
            raise
        _charge(objects, folder, task, cluster, began.started_at, end.seconds, end.uid)
        jobs.delete(name)  # a retry would take one that has failed for its own
        _fetch(objects, folder, task, given)  # data that is refused has a quarantine
        _judge(objects, folder, name, end.message, task, given)
    receipt = _receipt(objects, folder)
    if not objects.list(f"{folder}/charged/"):  # the pod that followed it was lost at its end
        _charge(objects, folder, task, cluster, receipt.started_at, receipt.wall_seconds)
    _fetch(objects, folder, task, given)
    return receipt.facts | {"rayjob": name}


def _deposited(objects: Store, path: Path) -> RayInput:
    return RayInput(deposit(objects, path), path.name if path.is_file() else "")


def _fetch(objects: Store, folder: str, task: RayTask, given: Mapping[str, Any]) -> None:
    """Fetch the outputs that were made."""
    for flag in task.outputs:
        if objects.list(key := f"{folder}/outputs/{flag.lstrip('-')}"):
            carry.get(objects.uri(key), given[parameter_of(flag)])


def _text(value: object) -> str:
    """Return a value as its flag takes it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _receipt(objects: Store, folder: str) -> Receipt:
    return records.read(objects, f"{folder}/{RECEIPT}", Receipt, "delete it, and run the step again")


def _succeeded(objects: Store, folder: str) -> bool:
    return objects.exists(f"{folder}/{RECEIPT}") and _receipt(objects, folder).end_reason == "ok"


def _judge(
    objects: Store, folder: str, name: str, said: str, task: RayTask, given: Mapping[str, Any]
) -> None:
    """Raise the error with which the step ended in the RayJob ``name``, with our paths."""
    if not objects.exists(f"{folder}/{RECEIPT}"):
        raise StoreError(f"RayJob {name} failed without a receipt ({said or 'KubeRay does not say why'})")
    receipt = _receipt(objects, folder)
    codes = {reason: code for code, reason in END_REASONS.items()}
    if receipt.end_reason != "ok":
        message = receipt.message
        theirs = {f"inputs/{flag}/{one.file}".rstrip("/"): flag for flag, one in task.inputs.items()}
        theirs |= {f"outputs/{flag}": flag for flag in task.outputs}
        for place, flag in theirs.items():
            ours = str(given[parameter_of(flag)])
            message = re.sub(rf"[^\s(]*/{re.escape(place)}\b", lambda found: ours, message)  # noqa: B023
        raise FINAL.get(codes[receipt.end_reason], StoreError)(message)


def _charge(
    objects: Store,
    folder: str,
    task: RayTask,
    cluster: RayCluster,
    began: str,
    seconds: float,
    uid: str = "followed no longer",
) -> None:
    """Leave one receipt per pod of a RayJob for the ledger, once.

    A pod counts for the time of the whole RayJob. Outside a pipeline there is no ledger to leave them for.
    """
    if POD_RECEIPTS not in os.environ or not objects.put_if_absent(f"{folder}/charged/{uid}", b"{}\n"):
        return
    step = task.module.split(".")[-2]
    ledger = open_store(os.environ[POD_RECEIPTS])
    for number in range(cluster.workers + 1):
        receipt = Receipt(
            step=step,
            pool=cluster.pool,
            attempt=1,
            started_at=began,
            wall_seconds=round(seconds, 3),
            cpu_seconds=0.0,
            device_seconds=0.0,
            peak_resident_bytes=0,
            peak_device_bytes=0,
            tokens=0,
            end_reason="ok",
            facts={"pod_of_rayjob": True},
        )
        name = f"{step}_ray_{f'worker_{number}' if number else 'head'}"
        ledger.put_bytes(name, msgspec.json.encode(receipt))
