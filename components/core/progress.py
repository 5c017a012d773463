"""Report a step's progress and time left on stderr, for the command to show."""

import sys
import time
from collections.abc import Callable

Heard = Callable[[int], None]
"""Callback for the amount newly done; negative when a retry starts over."""


def tell(text: str) -> None:
    """Print a line on stderr at once, for the command to show."""
    print(text, file=sys.stderr, flush=True)


def unheard(count: int) -> None:
    """Ignore progress."""


class ProgressLog:
    """Report progress when called, at most every ``seconds``.

    A total of 0 is unknown; then only the amount done is reported. A ``brief`` log is silent about work that
    ends within ``seconds``.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        seconds: float = 5.0,
        now: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = tell,
        *,
        brief: bool = False,
    ) -> None:
        self._total, self._unit, self._seconds, self._now, self._say = total, unit, seconds, now, say
        self._start = self._last = now()
        self._free = self._done = 0
        self._brief = brief

    def add(self, count: int = 1, free: int = 0) -> None:
        """Report progress after ``count`` more, of which ``free`` existed already."""
        self._done += count
        self(self._done, self._free + free)

    def __call__(self, done: int, free: int = 0) -> None:
        """Report progress; ``free`` of ``done`` existed already and does not count towards the speed."""
        self._free = max(self._free, free)
        now = self._now()
        last = done == self._total and not (self._brief and now - self._start < self._seconds)
        if now - self._last < self._seconds and not last:
            return
        self._last = now
        if not self._total:
            unit = self._unit.removesuffix("s") if done == 1 else self._unit
            return self._say(f"{done:,} {unit}")
        worked, left = done - self._free, self._total - done
        eta = f"  {(now - self._start) * left / worked:.0f} s left" if worked > 0 and left > 0 else ""
        self._say(f"{done / self._total:.0%}  {done:,} of {self._total:,} {self._unit}{eta}")
