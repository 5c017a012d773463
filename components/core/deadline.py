"""A time limit for what strangers wrote and we run: templates, patterns, configurations."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def within(seconds: float, late: Exception) -> Iterator[None]:
    """Raise ``late`` in the block when it takes longer than ``seconds`` of the process's CPU time.

    Of wall time a machine with forty processes on two cores took over 10 s for a template of milliseconds.
    SIGPROF interrupts Python code, and a call into C when that returns. In a thread other than the main one
    there is no limit: signals do not reach it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise late

    begun = time.process_time()
    handler = signal.signal(signal.SIGPROF, ring)
    left, _ = signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        if left:  # of a limit around this one
            signal.setitimer(signal.ITIMER_PROF, max(0.001, left - (time.process_time() - begun)))
