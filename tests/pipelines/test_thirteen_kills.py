"""Thirteen SIGKILLs of ``deepcuts run`` at any point: it ends well, and the cost of each is counted."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepcuts.components.core import run_records
from deepcuts.components.ledger import charges
from deepcuts.pipelines.runner import run_record
from deepcuts.pipelines.runner.attempts import OWN
from tests.conftest import ROOT

TARGETS = [
    *("prepare", "prepare", "prepare", "evaluate-before", "evaluate-before", "finetune", "finetune"),
    *("finetune", "watch", "judge", "judge", "judge", "publish"),
]
"""Tasks of several seconds, in the order of the pipeline; a kill comes after half a second of the task."""
SETTINGS = {"max_examples": 6, "recipe.budget_tokens": 6_000, "recipe.tokens_per_step": 1024}
ROWS = 300
WAIT_SECONDS = 1200


def run(folder: Path, log: Path) -> "subprocess.Popen[bytes]":
    example = ROOT / "pipelines" / "examples" / "support.yaml"
    words = ["run", "finetune", "-f", str(example), "--runs", str(folder)]
    for name, value in (SETTINGS | {"data_uri": folder.with_name("some.jsonl")}).items():
        words += ["--set", f"{name}={value}"]
    code = "import sys; from deepcuts.pipelines.command import cli\n"
    code += "sys.argv = ['deepcuts', *sys.argv[1:]]; cli.main()"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, "-c", code, *words], stdout=out, stderr=out, env=env)


def running(folder: Path) -> dict[str, int]:
    """Attempt under way by task."""
    for path in folder.glob("finetune-*"):
        with contextlib.suppress(FileNotFoundError, ValueError):
            tasks = run_record.read(path).tasks
            return {name: task.attempt for name, task in tasks.items() if task.status == "running"}
    return {}


def lives(folder: Path, task: str, attempt: int) -> bool:
    """Whether the bill knows of more than half a second of an attempt."""
    signs = folder.glob(f"finetune-*/tasks/{task}/{OWN}/alive/{attempt}")
    return any(json.loads(sign.read_bytes())["seconds"] > 0.5 for sign in signs)


@pytest.mark.slow
def test_thirteen_kills_are_thirteen_attempts_on_the_bill(tmp_path):
    runs, log, killed = tmp_path / "runs", tmp_path / "log", set()
    rows = (ROOT / "pipelines" / "examples" / "support.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "some.jsonl").write_text("".join(rows[:ROWS]))
    for target in TARGETS:
        process = run(runs, log)
        try:
            end = time.monotonic() + WAIT_SECONDS
            # run.json still names what the last kill took, until the next runner writes its own
            while not any(
                name == target and (name, n) not in killed and lives(runs, name, n)
                for name, n in running(runs).items()
            ):
                assert process.poll() is None and time.monotonic() < end, (
                    f"{target}: {log.read_text()[-2000:]}"
                )
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
        killed |= {(task, attempt) for task, attempt in running(runs).items() if lives(runs, task, attempt)}
    assert run(runs, log).wait(WAIT_SECONDS) == 0, log.read_text()[-2000:]
    (folder,) = runs.glob("finetune-*")
    bill = charges.read(folder / "tasks/ledger/outputs/ledger/ledger.jsonl")
    lost = {(row.task, row.attempt): row for row in bill if row.end_reason == run_records.LOST}
    assert len(killed) >= len(TARGETS)
    for task, attempt in killed:
        row = lost[run_records.row(task, run_records.RECEIPT), attempt]
        assert row.usd and row.usd > 0 and row.quantity and row.quantity.node_seconds > 0.5
    for task in {row.task for row in lost.values()}:
        numbers = sorted(row.attempt for row in bill if row.task == task)
        assert numbers == list(range(1, len(numbers) + 1)), "no attempt without a row, none twice"
    book = json.loads((folder / "tasks/ledger/outputs/ledger/ledger.json").read_text())
    assert book["wasted"]["usd"] >= sum(row.usd or 0 for row in lost.values()) - 1e-5
