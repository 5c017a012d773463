"""Record attempts of a local run's tasks, in the form of ``components/core/attempts.py``.

The runner writes them, not the step, as a process killed while importing torch was paid for, too.
"""

import shutil
from pathlib import Path

from deepcuts.components.core import files
from deepcuts.components.core.attempts import RECEIPT, Alive, Begun
from deepcuts.components.core.cli import write_json
from deepcuts.components.core.run_records import REUSED

OWN = "attempts-local"


def begin(task: Path, begun: Begun) -> None:
    """Record that an attempt started; ``task`` is the task's folder."""
    write_json(task / OWN / "begun" / str(begun.number), begun)


def alive(task: Path, number: int, seconds: float) -> None:
    """Record the attempt's seconds so far."""
    write_json(task / OWN / "alive" / str(number), Alive(round(seconds, 3)))


def close(task: Path, number: int) -> None:
    """Keep the receipts of a finished attempt, whatever its end."""
    _copy(task / "outputs", task / OWN / "receipts" / str(number))


def reuse(task: Path) -> None:
    """Keep the receipts of outputs from the cache."""
    _copy(task / "outputs", task / REUSED / "receipts" / "1")


def forget(task: Path) -> None:
    """Remove all attempts, as their run is over."""
    for name in (OWN, REUSED):
        files.remove(task / name)


def _copy(outputs: Path, kept: Path) -> None:
    for path in [outputs / RECEIPT, *outputs.glob(f"{RECEIPT}_*")]:
        if path.is_file():
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, kept / (path.name.removeprefix(f"{RECEIPT}_")))
