"""Run several steps one after another in one container: starting a Kubeflow task takes 20 s.

``python -m deepcuts.components.core.chain --executor-input … --receipt … --part NAME=STEP FLAGS --part …``
(``NAME`` alone if both are the same)

Each step is a separate process, so its receipt is the same as if it ran alone; it is written to the path of
the chain's receipt with ``_NAME`` appended. The first step that fails ends the task with its exit code.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import msgspec

from deepcuts.components.core import attempts as attempt_files
from deepcuts.components.core import cli, escape, executor_input, receipts, sigterm
from deepcuts.components.core.attempts import Attempts
from deepcuts.components.core.errors import exit_code
from deepcuts.components.core.orphans import end_with_parent
from deepcuts.components.core.receipts import Meter, Receipt, process_start
from deepcuts.components.core.run_records import CHAIN

PART = "--part"


class ChainPart(NamedTuple):
    """One step of a chain."""

    name: str
    """Name in the ledger."""
    module: str
    argv: list[str]


def split(argv: list[str]) -> tuple[dict[str, str], list[ChainPart]]:
    """Return the chain's own flags and its parts.

    Raises:
        ValueError: there is no ``--part``, or one has no name.
    """
    own: dict[str, str] = {}
    parts: list[ChainPart] = []
    for flag, value in executor_input.pairs(argv):
        if flag == PART:
            parts.append(ChainPart(*executor_input.named_step(value), []))
        elif parts:
            parts[-1].argv.extend([flag, value])
        else:
            own[flag] = value
    if not parts:
        raise ValueError(f"no {PART}: give {PART} NAME=STEP and its flags")
    return own, parts


def run(argv: list[str], meter: Meter) -> int:
    """Run the parts; return the exit code of the first that failed, or 0."""
    own, parts = split(argv)
    executor: dict[str, Any] | None = msgspec.json.decode(own.get("--executor-input", "null"))
    meter.pool = executor_input.pool(executor or {}) or meter.pool
    name = "-".join(part.name for part in parts)
    attempts, code, message = attempt_files.attempts(executor, name), 0, ""
    ended: dict[str, Receipt] = {}
    try:
        if attempts:
            cli.begin(attempts, name, meter)
    except Exception as error:
        code, message = exit_code(error), escape.redacted(str(error))
        for line in escape.terminal(message).splitlines():
            print(f"{name}: {line}", file=sys.stderr)
        parts = []
    with attempts.alive(meter.seconds) if attempts else nullcontext(), attempt_files.pods_charged(attempts):
        if attempts and executor:
            attempts.given(executor)
        for number, part in enumerate(parts, 1):
            print(f"{part.name}: part {number} of {len(parts)}", file=sys.stderr, flush=True)
            left = Path(f"{own['--receipt']}_{part.name}")
            words = [executor_input.value(word, executor) for word in part.argv]
            code = _process([part.module, *words, "--receipt", str(left)], meter)
            receipt = receipts.read(left) if left.exists() else None
            if receipt:
                ended[part.name] = receipt
            if attempts and receipt:
                attempts.leave(receipt, part.name)
            if code:
                message = _failed(part, code, receipt, attempts, executor)
                break
    return _close(own, executor, attempts, meter, code, message, ended)


def _process(argv: list[str], meter: Meter) -> int:
    """Run ``python -m argv``, forwarding SIGTERM; return its exit code, 128 + n after signal n."""
    process = subprocess.Popen(
        [sys.executable, "-m", *argv],
        env=os.environ | {"DEEPCUTS_ATTEMPT": str(meter.attempt), "DEEPCUTS_POOL": meter.pool},
        preexec_fn=end_with_parent,
    )

    def hand_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(signal.SIGTERM)

    with sigterm.handled(hand_on):
        code = process.wait()
    return 128 - code if code < 0 else code


def _failed(
    part: ChainPart,
    code: int,
    receipt: Receipt | None,
    attempts: Attempts | None,
    executor: Mapping[str, Any] | None,
) -> str:
    message = receipt.message if receipt else f"{part.name} ended with exit code {code}"
    if attempts and executor:
        message = attempts.keep_outputs(executor, message)
        attempts.end(part.name, code, message)
    return message


def _close(
    own: Mapping[str, str],
    executor: Mapping[str, Any] | None,
    attempts: Attempts | None,
    meter: Meter,
    code: int,
    message: str,
    ended: Mapping[str, Receipt],
) -> int:
    """Write the chain's own receipt: what its process took in addition to its parts."""
    whole = meter.receipt(CHAIN, code if code in receipts.END_REASONS else 4, {}, message)
    spent = [(receipt.wall_seconds, receipt.cpu_seconds) for receipt in ended.values()]
    rest = msgspec.structs.replace(
        whole,
        wall_seconds=round(max(0.0, whole.wall_seconds - sum(wall for wall, _ in spent)), 3),
        cpu_seconds=round(max(0.0, whole.cpu_seconds - sum(cpu for _, cpu in spent)), 3),
    )
    if attempts:
        attempts.leave(rest)
    facts = {name: value for receipt in ended.values() for name, value in receipt.facts.items()}
    shown = msgspec.structs.replace(rest, facts=facts)  # for tasks that take the receipt as input
    if "--receipt" in own:
        cli.write_json(Path(own["--receipt"]), shown)
    if executor and not code:
        report = cli.executor_output({"receipt": shown}, executor["outputs"])
        cli.write_json(Path(executor["outputs"]["outputFile"]), report)
    return code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], Meter(process_start())))
