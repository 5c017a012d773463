"""Run one training of a search in the pod of Katib's Job.

``python -m deepcuts.components.tune.trial TASK`` downloads the inputs, runs ``finetune`` with the argv of
every trial, sends the loss to Katib's database (its Push collector), and stores a receipt, even after a
failure.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path

import grpc
import msgspec

from deepcuts.components.core import clock, escape, receipts, sigterm, step_facts, strict
from deepcuts.components.core.errors import DataError, GateRefused, Preempted, StoreError, exit_code
from deepcuts.components.core.receipts import Facts, Meter, Receipt, process_start
from deepcuts.components.core.retry import OUTAGE_SECONDS, retry
from deepcuts.components.core.step_facts import TrialFacts
from deepcuts.components.core.store import open_store
from deepcuts.components.tune import space as spaces
from deepcuts.components.tune import suggestion_pb2 as pb
from deepcuts.components.tune.engine import TrialInputs, argv
from deepcuts.components.tune.inputs import bring
from deepcuts.components.tune.task import METRIC, RESOURCE, Attempt, TrialTask, attempts_prefix
from deepcuts.components.tune.trials import recipe_of

NAME = "KATIB_TRIAL_NAME"
"""Set by Katib if metrics are pushed."""
REPORT = "/api.v1.beta1.DBManager/ReportObservationLog"
ENDS: dict[str, Callable[[str], Exception]] = {
    "config": ValueError,
    "data": DataError,
    "infrastructure": StoreError,
    "gate": GateRefused,
    "preempted": Preempted,
    "bug": RuntimeError,
}


def trial(task: TrialTask, name: str, folder: Path) -> Facts:
    """Train one configuration up to one rung and report its loss; return the facts of ``finetune``.

    Its receipt is ``folder/receipt.json``. Checkpoints go to the store, so that a promoted trial, or a pod
    that replaces a lost one, resumes from them.
    """
    texts = dict(task.values)
    budget_tokens = int(texts.pop(RESOURCE, task.max_tokens))
    recipe = recipe_of(task.recipe, spaces.read(task.space, texts), budget_tokens, task.max_tokens)
    store = open_store(task.store)
    digests = {"base": task.base, "train": task.train, "valid": task.valid}
    places = {kind: bring(store, digest, folder / kind) for kind, digest in digests.items()}
    receipt = finetuned(argv(TrialInputs(**places, store=task.store, recipe=recipe), recipe, folder), folder)
    found = step_facts.read(TrialFacts, receipt.facts)
    loss = found.valid_loss if found else None
    if loss is None:
        raise DataError(f"{METRIC} is missing: nothing to compare trials by, look at the validation split")
    push(task.db_manager, name, loss)
    return receipt.facts


def finetuned(words: list[str], folder: Path) -> Receipt:
    """Run ``finetune`` as a child process, forwarding SIGTERM; return its receipt.

    Raises:
        The error that its exit code means for the Job, with its last line.
    """
    last = ""
    with (
        subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as child,
        sigterm.handled(lambda number, frame: child.send_signal(number)),
    ):
        assert child.stderr
        for line in child.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            last = line.strip() or last
    if not (folder / "receipt.json").exists():
        raise StoreError(f"finetune left no receipt (exit code {child.returncode}): {last}")
    receipt = receipts.read(folder / "receipt.json")
    if receipt.end_reason != "ok":
        raise ENDS[receipt.end_reason](last)
    return receipt


def push(address: str, name: str, loss: float) -> None:
    """Send the result of the trial ``name`` to Katib's database.

    Raises:
        StoreError: it does not answer.
    """
    metric = pb.MetricLog(time_stamp=now(), metric=pb.NameValue(name=METRIC, value=repr(loss)))
    log = pb.ObservationLog(metric_logs=[metric])
    request = pb.ReportObservationLogRequest(trial_name=name, observation_log=log)
    with grpc.insecure_channel(address) as channel:
        report = channel.unary_unary(
            REPORT,
            request_serializer=pb.ReportObservationLogRequest.SerializeToString,
            response_deserializer=pb.ReportObservationLogReply.FromString,
        )
        retry(
            lambda: report(request, timeout=20),
            (grpc.RpcError,),
            lambda error: StoreError(f"Katib's database at {address} does not take the result: {error}"),
            OUTAGE_SECONDS,
        )


def now() -> str:
    """Return the time in the RFC 3339 form that Go parses."""
    return clock.utc().replace("+00:00", "Z")


def attempt(task: TrialTask, name: str) -> int:
    """Run a trial and record its attempt in the store; return the exit code."""
    meter, store = Meter(process_start()), open_store(task.store)
    key = f"{attempts_prefix(task.search)}{name}/{uuid.uuid4().hex}.json"
    begun = Attempt(os.environ.get("DEEPCUTS_POOL", "unknown"), now())
    store.put_bytes(key, msgspec.json.encode(begun))
    code, facts, problem = 0, Facts(), ""
    with tempfile.TemporaryDirectory(prefix="trial-") as scratch:
        try:
            facts = trial(task, name, Path(scratch))
        except Exception as error:
            code, problem = exit_code(error), str(error)
            if code == 1:
                traceback.print_exc()
            print(escape.terminal(f"trial: {problem}"), file=sys.stderr)
        receipt = meter.receipt("tune", code, facts)
        if (path := Path(scratch) / "receipt.json").exists():  # the child held the accelerator
            child = receipts.read(path)
            receipt = msgspec.structs.replace(
                receipt,
                device_seconds=child.device_seconds,
                peak_device_bytes=child.peak_device_bytes,
            )
    over = msgspec.structs.replace(begun, receipt=receipt, problem=problem)
    store.put_bytes(key, msgspec.json.encode(over))
    return code


def main() -> int:
    """Run the command; return its exit code. Errors go to stderr."""
    try:
        if NAME not in os.environ:
            raise ValueError(f"{NAME} is not set: run it in a trial of Katib with the Push collector")
        return attempt(strict.decode(TrialTask, json.loads(sys.argv[1]), "task"), os.environ[NAME])
    except Exception as error:
        if exit_code(error) == 1:
            raise
        print(escape.terminal(f"trial: {error}"), file=sys.stderr)
        return exit_code(error)


if __name__ == "__main__":
    sys.exit(main())
