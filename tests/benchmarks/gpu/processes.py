"""Run each case as a separate process, and read its results."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deepcuts.components.core import receipts
from deepcuts.components.core.recipe import Recipe, changed
from tests.benchmarks.gpu.cases import Case
from tests.conftest import ROOT
from tests.training import tiny

STEP = "deepcuts.components.finetune.step"
CAPPED = (
    "import runpy, torch; torch.cuda.set_per_process_memory_fraction({share}); "
    f"runpy.run_module({STEP!r}, run_name='__main__', alter_sys=True)"
)
"""The step's own main, under a lid on what its allocator may reserve: no other way fills any card alike."""
DEVICE = """
import json, torch
found = None
if torch.cuda.is_available():
    card = torch.cuda.get_device_properties(0)
    found = {"name": card.name, "memory_bytes": card.total_memory, "capability": f"{card.major}.{card.minor}"}
    found |= {"cuda": torch.version.cuda, "bf16": torch.cuda.is_bf16_supported()}
print(json.dumps(found))
"""


class Ended(NamedTuple):
    """How a process ended."""

    code: int | None
    """None: the time was over, and it was killed."""
    seconds: float
    out: str
    last_line: str
    """Of what it wrote on standard error."""


class Data(NamedTuple):
    """What all cases of a base train on and are scored with."""

    base: Path
    train: Path
    valid: Path


def environment(dry: bool) -> dict[str, str]:
    """Return the environment of a case: one device, and none on a dry run even where there are some."""
    if dry:
        return os.environ | {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return {"CUDA_VISIBLE_DEVICES": "0"} | os.environ


def run(argv: Sequence[str], log: Path, seconds: float, dry: bool) -> Ended:
    """Run ``argv`` for at most ``seconds``; standard error goes to ``log``. Its children end with it."""
    began = time.monotonic()
    with log.open("w") as errors:
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env=environment(dry),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        code: int | None
        try:
            out, _ = process.communicate(timeout=max(1.0, seconds))
            code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, code = process.communicate()[0], None
        except BaseException:  # this command is ended: the case is in a session of its own, and would go on
            os.killpg(process.pid, signal.SIGKILL)
            raise
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return Ended(code, round(time.monotonic() - began, 1), out, lines[-1].strip() if lines else "")


def device(folder: Path) -> dict[str, Any] | None:
    """Return the first CUDA device; None where torch has none. Asked in a process that gives it back."""
    ended = run([sys.executable, "-c", DEVICE], folder / "device.log", 120, dry=False)
    found: dict[str, Any] | None = json.loads(ended.out) if ended.code == 0 else None
    return found


def finetune(
    case: Case, recipe: Recipe, data: Data, folder: Path, seconds: float, dry: bool, cap_share: float
) -> dict[str, Any]:
    """Train by the finetune step; ``cap_share`` of the device's memory for a ``capped`` case."""
    flags = {
        "base": data.base,
        "train": data.train,
        "valid": data.valid,
        "model": folder / "model",
        "curve": folder / "curve.jsonl",
        "store": (folder / "store").as_uri(),
        "recipe": json.dumps(changed(recipe)),
        "receipt": folder / "receipt.json",
    }
    ways = {
        "capped": ["-c", CAPPED.format(share=cap_share)],
        "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", STEP],
    }
    argv = [sys.executable, *ways.get(case.way, ["-m", STEP]), *tiny.argv(flags)]
    ended = run(argv, folder / "stderr.log", seconds, dry)
    try:
        return from_receipt(case, ended, receipts.read(folder / "receipt.json"))
    except FileNotFoundError:
        return row(case, ended)


def row(case: Case, ended: Ended) -> dict[str, Any]:
    """Return how a case ended, with no figure but its seconds."""
    how = {0: "ok", None: "out of time"}.get(ended.code, "failed")
    message = "" if how == "ok" else ended.last_line
    if how == "out of time":
        message = f"ended after {ended.seconds:.0f} s, as the time was over; last: {ended.last_line}"
    return {"part": case.part, "name": case.name, "ended": how, "seconds": ended.seconds, "message": message}


def from_receipt(case: Case, ended: Ended, receipt: receipts.Receipt) -> dict[str, Any]:
    """Return a case's row: what its receipt says was measured, and nothing else."""
    facts = receipt.facts
    made = row(case, ended) | {"wall_seconds": receipt.wall_seconds}
    if receipt.message:
        made["message"] = receipt.message
    made["peak_device_bytes"] = receipt.peak_device_bytes or None
    if seconds := facts.get("train_seconds"):
        assert isinstance(seconds, float)
        made |= {"train_seconds": seconds, "tokens_per_second": round(receipt.tokens / seconds)}
    made |= {
        name: facts[name] for name in ("tokens", "steps", "valid_loss", "valid_examples") if name in facts
    }
    names = [*case.shows, *([case.proof[0]] if case.proof else [])]
    made["facts"] = {name: facts[name] for name in names if name in facts}
    if case.proof and receipt.end_reason == "ok":
        name, beginning = case.proof
        made["path_taken"] = str(facts.get(name)).startswith(beginning)
    return made


def peer(case: Case, recipe: Recipe, data: Data, folder: Path, seconds: float, dry: bool) -> dict[str, Any]:
    """Train by tests/benchmarks/throughput.py: this project's loop, or TRL."""
    flags = {
        "base": data.base,
        "train": data.train,
        "test": data.valid,
        "side": case.way,
        "device": "cpu" if dry else "cuda",
        "recipe": json.dumps(changed(recipe)),
    }
    argv = [sys.executable, "-m", "tests.benchmarks.throughput", *tiny.argv(flags)]
    ended = run(argv, folder / "stderr.log", seconds, dry)
    made = row(case, ended)
    if ended.code == 0:
        found = json.loads(ended.out.splitlines()[-1])
        made |= {name: found[name] for name in ("tokens", "tokens_per_second")}
        made |= {"train_seconds": found["seconds"], "peak_device_bytes": found["peak_device_bytes"] or None}
        made |= {"valid_loss": found["completion_loss"]}
    return made
