"""A time limit for untrusted code and patterns: templates, regular expressions, configurations."""

import ctypes
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_SECONDS = 1.0
"""Time until the alarm repeats: jinja2's optimizer swallows exceptions while it folds constants."""


class Late(BaseException):
    """The alarm; a BaseException, so that a library's ``except Exception`` does not catch it."""


@contextmanager
def within(seconds: float, late: Exception) -> Iterator[None]:
    """Interrupt the body and raise ``late`` after ``seconds`` of CPU time of this process.

    CPU time, not wall time: with forty busy processes on two cores, a template of milliseconds took over 10
    s. In the main thread SIGPROF interrupts Python code and C calls that check for signals (powers of large
    integers, regular expressions). In other threads only Python code is interrupted; a C call finishes first.
    """
    alarm = _of_main if threading.current_thread() is threading.main_thread() else _of_thread
    rings: type[Late] = type("Late", (Late,), {})  # tells nested limits apart
    try:
        with alarm(seconds, rings):
            yield
    except rings:
        raise late from None


@contextmanager
def _of_main(seconds: float, rings: type[Late]) -> Iterator[None]:
    over = False

    def ring(number: int, frame: FrameType | None) -> None:
        if not over:
            raise rings

    begun, (left, again) = time.process_time(), signal.getitimer(signal.ITIMER_PROF)
    handler = signal.signal(signal.SIGPROF, ring)
    try:
        try:
            signal.setitimer(signal.ITIMER_PROF, seconds, AGAIN_SECONDS)
            yield
        finally:
            over = True  # from here on nothing is interrupted
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        if left:  # restart the outer limit's timer
            left = max(0.001, left - (time.process_time() - begun))
            signal.setitimer(signal.ITIMER_PROF, left, again)


@contextmanager
def _of_thread(seconds: float, rings: type[Late]) -> Iterator[None]:
    caller, over, deciding, ended = threading.get_ident(), False, threading.Lock(), threading.Event()

    def ring() -> None:
        end = time.process_time() + seconds
        while not ended.wait(max(end - time.process_time(), 0.001)):  # CPU time passes no faster on one core
            if time.process_time() < end:
                continue
            with deciding:
                if over:
                    return
                _raise_in(caller, rings)
            end = time.process_time() + AGAIN_SECONDS

    try:
        try:
            threading.Thread(target=ring, name="time limit", daemon=True).start()
            yield
        finally:
            over = True
    finally:
        with deciding:  # stops the alarm
            _raise_in(caller, None)  # and cancels one that was not raised yet
        ended.set()


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Make a thread raise ``error`` at its next line of Python; None cancels one not yet raised."""
    what = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)
