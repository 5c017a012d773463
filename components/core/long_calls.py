"""Report the progress of calls that do not report it themselves, from a background thread."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deepcuts.components.core import files
from deepcuts.components.core.progress import ProgressLog, tell


@contextmanager
def working(what: str, seconds: float = 10.0, say: Callable[[str], None] = tell) -> Iterator[None]:
    """Say every ``seconds`` that the body still does ``what``, whose end cannot be foreseen."""
    began = time.monotonic()
    with _every(seconds, lambda: say(f"{what}, {time.monotonic() - began:.0f} s so far")):
        yield


@contextmanager
def filling(
    path: Path, total: int, unit: str, seconds: float = 5.0, say: Callable[[str], None] = tell
) -> Iterator[None]:
    """Report how far ``path``, a file or folder that the body writes, is from ``total`` bytes.

    A total of 0 is unknown.
    """
    progress = ProgressLog(total, unit, seconds, say=say, brief=True)

    def look() -> None:
        with suppress(OSError):  # nothing is there yet, or a part was just renamed
            if size := files.size_bytes(path):
                progress(min(size, total) if total else size)

    with _every(seconds, look):
        yield


@contextmanager
def _every(seconds: float, tick: Callable[[], None]) -> Iterator[None]:
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(seconds):
            tick()

    thread = threading.Thread(target=beat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
