"""Cancel: SIGTERM ends the step that follows an Experiment, which must not keep spending unwatched."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from deepcuts.components.core.errors import Preempted
from deepcuts.components.core.sigterm import handled


@contextmanager
def sigterm() -> Iterator[None]:
    """Raise Preempted at the first SIGTERM, whatever is being waited for; later ones change nothing.

    A step on Kubeflow has about a second from then on, 0.04 to 1.6 s in five pods, so that a flag looked at
    after a sleep of 5 s comes too late.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Preempted("SIGTERM: re-run the same command to resume")

    with handled(stop):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Delay SIGTERM to the end of the body: an interrupted request may run after the one to undo it."""
    came: list[int] = []
    try:
        with handled(lambda number, frame: came.append(number)):
            yield
    finally:
        if came:
            signal.raise_signal(signal.SIGTERM)
