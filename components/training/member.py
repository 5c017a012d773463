"""Run one node of a training: ``python -m deepcuts.components.training.member TASK`` in a pod of a TrainJob.

Brings the inputs from the store, runs the step's processes as ``torchrun`` would with the ``PET_`` variables
that Kubeflow Trainer sets, and on the first node uploads the outputs. Each pod leaves a receipt of its own,
by which its node is billed.
"""

import os
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

import msgspec

from deepcuts.components.core import attempts as attempt_files
from deepcuts.components.core import carry, cli, escape, receipts
from deepcuts.components.core.attempts import NODE, RUN, Attempts
from deepcuts.components.core.cancel import sigterm
from deepcuts.components.core.errors import exit_code
from deepcuts.components.core.receipts import Meter, Receipt, process_start
from deepcuts.components.core.store import open_store
from deepcuts.components.training import launch
from deepcuts.components.trainjob.node_task import RECEIPT, NodeTask

INFRASTRUCTURE = 4
TERMINATION = Path("/dev/termination-log")
"""Kubernetes copies this file into the pod's status, where the launcher reads it."""


def main(text: str) -> int:
    """Run the node's part of a NodeTask (JSON); return the exit code of the first process that failed."""
    task = msgspec.json.decode(text, type=NodeTask)
    number, meter = int(os.environ["PET_NODE_RANK"]), Meter(process_start())
    meter.pool = task.pool
    store = open_store(task.root, attempt_files.OUTAGE_SECONDS)
    attempts = Attempts(store, f"{task.prefix}{NODE}{number}", os.environ.get("POD_UID", ""))
    code, message = 0, ""
    with tempfile.TemporaryDirectory(prefix="node-") as folder, chdir(folder):
        try:
            cli.begin(attempts, task.step, meter)
            with sigterm(), attempts.alive(meter.seconds):
                code = run(task, number == 0)
        except Exception as error:
            code, message = exit_code(error), escape.redacted(str(error)) or type(error).__name__
            print(f"{task.step}: {escape.terminal(message)}", file=sys.stderr, flush=True)
        inner = receipts.read(Path(RECEIPT)) if Path(RECEIPT).exists() else None
        left = _receipt(task, number, meter, code, message, inner)
        attempts.leave(left)
    if code and left.message and TERMINATION.exists():
        TERMINATION.write_text("".join(f"{task.step}: {line}\n" for line in left.message.splitlines()))
    return code


def run(task: NodeTask, first: bool) -> int:
    """Bring the inputs, train and, on the ``first`` node, upload the outputs and then the receipt."""
    for path, uri in task.inputs.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        carry.get(uri, Path(path))
    os.environ[RUN] = attempt_files.run_of(task.root, task.prefix)
    words = [word for pair in task.flags.items() for word in pair]
    code = launch.launch(task.module, [*words, "--receipt", RECEIPT], launch.of_node())
    if code == 0 and first:
        for path, uri in task.outputs.items():
            carry.put(uri, Path(path))
        open_store(task.root).put(f"{task.made}/{RECEIPT}", Path(RECEIPT))  # last: it seals them
    return code


def _receipt(
    task: NodeTask, number: int, meter: Meter, code: int, message: str, inner: Receipt | None
) -> Receipt:
    """Return the receipt of this node; the step's facts are in the receipt of the task that follows."""
    known = code if code in receipts.END_REASONS else INFRASTRUCTURE
    said = message or (inner.message if inner else "")
    whole = meter.receipt(task.step, known, {"node": number}, said)
    return msgspec.structs.replace(
        whole,
        device_seconds=round(task.devices * whole.wall_seconds, 3),
        peak_device_bytes=inner.peak_device_bytes if inner else 0,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
