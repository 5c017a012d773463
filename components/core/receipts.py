"""Receipt: what one step did, in numbers. The ledger turns receipts into dollars."""

import os
import re
import resource
import sys
import time
from pathlib import Path

import msgspec

from deepcuts.components.core import clock, escape
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.strict import MALFORMED

Fact = int | float | str | bool | None
Facts = dict[str, Fact]
"""What a step itself knows about its work (``kept``, ``tokens``, ``completion_loss``); units in the names."""
SETTING = "recipe_"
"""Prefix of facts that were set, not found: the fields of a Recipe."""


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    step: str
    """Module of the step, ``finetune``."""
    pool: str
    """Node pool it ran on; ``unknown`` if the environment does not name it."""
    attempt: int
    """1 for the first try of a task in a run."""
    started_at: str
    """UTC, ISO 8601."""
    wall_seconds: float
    """From the start of the process to the end of the step: imports are paid for too."""
    cpu_seconds: float
    """User and system time of the process and its finished children; of several, the main process's."""
    device_seconds: float
    """Seconds an accelerator was held, summed over accelerators; 0 where none was used."""
    peak_resident_bytes: int
    peak_device_bytes: int
    """Largest ``max_memory_allocated`` over the accelerators; 0 where none was used."""
    tokens: int
    """Tokens the step put through a model or kept; 0 where that means nothing."""
    end_reason: str
    """``ok``, or why not: ``config``, ``data``, ``infrastructure``, ``gate``, ``preempted``, ``bug``,
    ``left out``."""
    facts: Facts
    message: str = ""
    """What went wrong, and the fix; empty after a good end."""


LEFT_OUT = "left out"
"""End reason of a task that a partial run did not need."""
FINE = ("ok", LEFT_OUT)
"""End reasons that are no failure."""
END_REASONS = {0: "ok", 1: "bug", 2: "config", 3: "data", 4: "infrastructure", 5: "gate", 143: "preempted"}


class Meter:
    """Measures a step from ``start`` (``time.time``)."""

    def __init__(self, start: float | None = None) -> None:
        self._start = time.time() if start is None else start
        self._cpu_before = 0.0 if start is not None else _cpu_seconds()
        self.attempt = int(os.environ.get("DEEPCUTS_ATTEMPT", "1"))
        self.pool = os.environ.get("DEEPCUTS_POOL", "unknown")
        """Node pool this process runs on, as its pod or runner says; ``unknown`` where nothing does."""

    @property
    def started_at(self) -> str:
        """Return the start, UTC, ISO 8601."""
        return clock.utc(self._start)

    def seconds(self) -> float:
        """Return the wall seconds so far."""
        return time.time() - self._start

    def receipt(self, step: str, code: int, facts: Facts, message: str = "") -> Receipt:
        """Make the receipt of a step that just ended with exit code ``code``."""
        wall = self.seconds()
        devices, device_bytes = _accelerators()
        return Receipt(
            step=step,
            pool=self.pool,
            attempt=self.attempt,
            started_at=self.started_at,
            wall_seconds=round(wall, 3),
            cpu_seconds=round(_cpu_seconds() - self._cpu_before, 3),
            device_seconds=round(wall * devices, 3),
            peak_resident_bytes=_peak_resident_bytes(),
            peak_device_bytes=device_bytes,
            tokens=int(facts.get("tokens") or 0),
            end_reason=END_REASONS[code],
            # names of files may be no UTF-8, and a receipt that cannot be written is none
            facts={
                name: escape.utf8(fact) if isinstance(fact, str) else fact for name, fact in facts.items()
            },
            message=escape.utf8(message),
        )


def process_start() -> float:
    """Return when this process started (``time.time``), so that slow imports are charged.

    One of several processes counts from the start of the one that launched them.
    """
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    stat = Path(f"/proc/{os.getppid() if launched else 'self'}/stat")
    if not stat.exists():  # not Linux: the import of this module is the earliest moment we know
        return _IMPORTED
    ticks = int(stat.read_text().rsplit(")", 1)[1].split()[19])  # field 22, proc(5): start time since boot
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def read(path: Path) -> Receipt:
    """Read a receipt that a step wrote.

    Raises:
        FileNotFoundError: there is none.
        DataError: the file is not a receipt.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Receipt)
    except MALFORMED as error:
        raise DataError(f"{path} is not a receipt ({error}): run the step again") from error


_IMPORTED = time.time()


def _cpu_seconds() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def _peak_resident_bytes() -> int:
    """Return the peak of the process or its largest finished child.

    Linux hands ru_maxrss of a parent down through exec, so a small step of a large parent would carry the
    parent's peak: VmHWM starts from 0 with the program. macOS counts bytes, Linux KiB.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status")
    if status.exists() and (line := re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)):
        own = int(line[1])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * unit


def _accelerators() -> tuple[int, int]:
    """Return (devices held, peak bytes); asks torch only if the step loaded it, so core stays light."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0, 0
    count = torch.cuda.device_count()
    return count, max(torch.cuda.max_memory_allocated(i) for i in range(count))
