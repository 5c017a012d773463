"""SIGTERM while a step works: Kubernetes sends it before it takes a pod away."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call ``handler`` at SIGTERM, until the end of the body.

    Never in a thread that is not the main one: nobody sends signals there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def noted() -> Iterator[Callable[[], bool]]:
    """Record whether SIGTERM has come since the body began."""
    came: list[int] = []
    with handled(lambda number, frame: came.append(number)):
        yield lambda: bool(came)
