"""A time limit for what strangers wrote and we run: templates, patterns, configurations."""

import ctypes
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_SECONDS = 1.0
"""Until the alarm rings once more: jinja2's optimizer swallows what is raised while it folds a constant."""


class Late(BaseException):
    """The alarm; no ``except Exception`` of a library between the limit and the slow code holds it up."""


@contextmanager
def within(seconds: float, late: Exception) -> Iterator[None]:
    """Raise ``late`` in place of what the body does when the process takes ``seconds`` of CPU time in it.

    Not of wall time: on two cores with forty busy processes a template of milliseconds took over 10 s of it.
    In the main thread SIGPROF interrupts Python code, and calls into C that look for signals (powers of large
    integers, regular expressions). In another thread Python code alone is interrupted: there a call
    into C ends first.
    """
    alarm = _of_main if threading.current_thread() is threading.main_thread() else _of_thread
    rings: type[Late] = type("Late", (Late,), {})  # of this limit: one around it has its own
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
            over = True  # nothing below is interrupted
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        if left:  # of a limit around this one
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
        with deciding:  # it rings no more
            _raise_in(caller, None)  # nor has rung and not been heard
        ended.set()


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Have a thread raise ``error`` at its next line of Python; None takes back what is not raised yet."""
    what = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)
