"""Record of one run of a pipeline, by task, kept in ``run.json``."""

import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from deepcuts.components.core.strict import MALFORMED

BY_GRAVITY = (1, 2, 3, 137, 4, 5, 143)
"""Exit codes, worst first (``components/core/errors.py``; 137 is a killed process)."""

PART = re.compile(r"(?P<name>\w+): part (?P<number>\d+ of \d+)")
"""What a chain says before each of its steps (``components/core/chain.py``)."""
RECENT_LINES = 200
"""Lines of the end of a log, in which a chain's part is looked for."""
TaskStatus = Literal["waiting", "running", "done", "failed", "skipped", "interrupted"]
HELD_BACK = "a task before it failed"
"""Message of a task that did not run because an earlier one failed."""


class TaskRecord(msgspec.Struct, kw_only=True):
    name: str
    """For people: ``taskInfo.name``."""
    step: str
    """``finetune`` of ``deepcuts.components.finetune.step``."""
    pool: str
    """Node pool it is placed on, where it would run on a cluster."""
    asked: dict[str, Any] = {}
    """Node selector, tolerations and resources, if the run decided on them."""
    status: TaskStatus = "waiting"
    cached: bool = False
    """Outputs came from an earlier run; this one spent nothing on it."""
    attempt: int = 0
    started_at: str = ""
    ended_at: str = ""
    seconds: float = 0.0
    """Wall seconds of all its attempts in this run, including those before an interruption."""
    exit_code: int | None = None
    message: str = ""
    """The end of its stderr if it failed; why it was skipped."""
    cache_key: str = ""
    code_digest: str = ""
    artifacts: dict[str, str] = {}
    """Paths of its outputs."""
    parameters: dict[str, Any] = {}


class RunRecord(msgspec.Struct, kw_only=True):
    """Content of ``run.json``, rewritten whenever a task changes."""

    pipeline: str
    package_digest: str
    arguments: dict[str, Any]
    parallel: int
    started_at: str
    ended_at: str = ""
    status: Literal["running", "done", "failed", "interrupted"] = "running"
    exit_code: int | None = None
    run_id: str = ""
    """Id on Kubeflow."""
    tasks: dict[str, TaskRecord]


def read(folder: Path) -> RunRecord:
    """Read the record of the run in ``folder``.

    Raises:
        FileNotFoundError: there is no record.
        ValueError: it is not a run of this version.
    """
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(f"{folder}: no run.json in it: name the folder of a run")
    try:
        return msgspec.json.decode((folder / "run.json").read_bytes(), type=RunRecord)
    except MALFORMED as error:
        raise ValueError(f"{folder / 'run.json'} is not a run ({error}): run the pipeline again") from error


def worst(run: RunRecord) -> int:
    """Return the most severe exit code of the failed tasks."""
    codes = [task.exit_code for task in run.tasks.values() if task.status == "failed" and task.exit_code]
    return min(codes, key=lambda code: BY_GRAVITY.index(code) if code in BY_GRAVITY else -1)


def news(folder: Path) -> str:
    """Return the last line of a task's log, after the part of a chain it is of: ``select (3 of 5): …``."""
    lines = tail(folder, lines=RECENT_LINES)
    part = next((found for line in reversed(lines) if (found := PART.fullmatch(line))), None)
    if not part or lines[-1] == part[0]:
        return lines[-1] if lines else ""
    return f"{part['name']} ({part['number']}): {lines[-1]}"


def tail(folder: Path, lines: int) -> list[str]:
    """Return the last lines of a task's stderr, where progress bars use carriage returns."""
    path = folder / "stderr.log"
    if not path.exists():
        return []
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - 8192))
        words = log.read().decode(errors="replace").replace("\r", "\n").splitlines()
    return [line for line in words if line.strip()][-lines:]
