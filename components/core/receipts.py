"""Receipt: what one step did, in numbers. The ledger prices receipts."""

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
"""What a step reports about its work (``kept``, ``tokens``, ``completion_loss``); names carry the units."""
SETTING = "recipe_"
"""Prefix of facts that were settings, not results: the fields of a Recipe."""


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    step: str
    """Module of the step, ``finetune``."""
    pool: str
    """Node pool the step ran on; ``unknown`` if the environment does not name one."""
    attempt: int
    """1 for the first try of a task in a run."""
    started_at: str
    """UTC, ISO 8601."""
    wall_seconds: float
    """From process start to the end of the step, because imports cost money, too."""
    cpu_seconds: float
    """User and system time of the process and its finished children; with torchrun, of the main process."""
    device_seconds: float
    """Seconds accelerators were held, summed over accelerators; 0 if none was used."""
    peak_resident_bytes: int
    peak_device_bytes: int
    """Largest ``max_memory_allocated`` of any accelerator; 0 if none was used."""
    tokens: int
    """Tokens the step ran through a model or kept; 0 if neither applies."""
    end_reason: str
    """``ok``, or why it failed: ``config``, ``data``, ``infrastructure``, ``gate``, ``preempted``, ``bug``,
    ``left out``."""
    facts: Facts
    message: str = ""
    """What went wrong and how to fix it; empty if nothing did."""


LEFT_OUT = "left out"
"""End reason of a task skipped by a partial run."""
FINE = ("ok", LEFT_OUT)
"""End reasons that are not failures."""
END_REASONS = {0: "ok", 1: "bug", 2: "config", 3: "data", 4: "infrastructure", 5: "gate", 143: "preempted"}


class Meter:
    """Measures a step from ``start`` (``time.time``)."""

    def __init__(self, start: float | None = None) -> None:
        self._start = time.time() if start is None else start
        self._cpu_before = 0.0 if start is not None else _cpu_seconds()
        self.attempt = int(os.environ.get("DEEPCUTS_ATTEMPT", "1"))
        self.pool = os.environ.get("DEEPCUTS_POOL", "unknown")
        """Node pool of this process, set by its pod or runner; ``unknown`` if unset."""

    @property
    def started_at(self) -> str:
        """Return the start time (UTC, ISO 8601)."""
        return clock.utc(self._start)

    def seconds(self) -> float:
        """Return the wall seconds so far."""
        return time.time() - self._start

    def receipt(self, step: str, code: int, facts: Facts, message: str = "") -> Receipt:
        """Return the receipt of a step that just ended with exit code ``code``."""
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
            # file names in the message may not be UTF-8, and the receipt has to be written anyway
            facts={
                name: escape.utf8(fact) if isinstance(fact, str) else fact for name, fact in facts.items()
            },
            message=escape.utf8(message),
        )


def process_start() -> float:
    """Return the start time of this process (``time.time``), so that slow imports are charged.

    With torchrun it is the start of the launcher.
    """
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    stat = Path(f"/proc/{os.getppid() if launched else 'self'}/stat")
    if not stat.exists():  # not Linux: the import of this module is the earliest time we know
        return _IMPORTED
    ticks = int(stat.read_text().rsplit(")", 1)[1].split()[19])  # field 22, proc(5): start time since boot
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def read(path: Path) -> Receipt:
    """Read a receipt file.

    Raises:
        FileNotFoundError: the file does not exist.
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
    """Return the peak memory of the process or of its largest finished child.

    On Linux ru_maxrss survives exec, so a small step would report its large parent's peak; VmHWM starts from
    0 with each program. macOS counts bytes, Linux KiB.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status")
    if status.exists() and (line := re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)):
        own = int(line[1])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * unit


def _accelerators() -> tuple[int, int]:
    """Return (devices held, peak bytes); uses torch only if the step has imported it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0, 0
    count = torch.cuda.device_count()
    return count, max(torch.cuda.max_memory_allocated(i) for i in range(count))
