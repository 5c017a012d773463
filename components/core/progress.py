"""How far a step is, and how long it has to go: a line now and then on stderr, which the command shows."""

import sys
import time
from collections.abc import Callable


class Progress:
    """Call it with how much is done; it says so at most every ``seconds``."""

    def __init__(
        self,
        total: int,
        unit: str,
        seconds: float = 5.0,
        now: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
    ) -> None:
        self._total, self._unit, self._seconds, self._now, self._say = total, unit, seconds, now, say
        self._start = self._last = now()
        self._free = 0

    def __call__(self, done: int, free: int = 0) -> None:
        """Say how far it is; ``free`` of it was there already, and tells nothing about the speed."""
        self._free = max(self._free, free)
        now = self._now()
        if now - self._last < self._seconds and done < self._total:
            return
        self._last = now
        worked, left = done - self._free, self._total - done
        eta = f"  {(now - self._start) * left / worked:.0f} s left" if worked > 0 and left > 0 else ""
        self._say(f"{done / self._total:.0%}  {done:,} of {self._total:,} {self._unit}{eta}")
