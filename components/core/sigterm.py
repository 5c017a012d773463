"""Handle SIGTERM, which Kubernetes sends before it removes a pod."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call ``handler`` on SIGTERM while the body runs.

    Does nothing outside the main thread, where Python allows no signal handlers.
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
    """Yield a function that tells whether SIGTERM has arrived since the body began."""
    came: list[int] = []
    with handled(lambda number, frame: came.append(number)):
        yield lambda: bool(came)
