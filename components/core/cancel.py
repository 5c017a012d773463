"""Cancel what a step has started on the cluster when SIGTERM ends it, so that it does not keep spending."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from deepcuts.components.core.errors import Preempted, StoreError
from deepcuts.components.core.sigterm import handled


@contextmanager
def sigterm() -> Iterator[None]:
    """Raise Preempted at the first SIGTERM, even while waiting; ignore later ones.

    A step on Kubeflow then has about a second, 0.04 to 1.6 s in five pods, so a flag checked after a sleep of
    5 s would be too late.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Preempted("SIGTERM: re-run the same command to resume")

    with handled(stop):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Delay SIGTERM to the end of the body, as an interrupted request could run after the one to undo it."""
    came: list[int] = []
    try:
        with handled(lambda number, frame: came.append(number)):
            yield
    finally:
        if came:
            signal.raise_signal(signal.SIGTERM)


def cancelled(delete: Callable[[str], None], namespace: str, kind: str, name: str, then: str) -> str:
    """Delete an object that is no longer followed; return a message for the user that ends with ``then``."""
    try:
        delete(name)
    except (ValueError, StoreError) as fault:
        command = f"kubectl -n {namespace} delete {kind.lower()} {name}"
        return f"SIGTERM, and the {kind} keeps spending: {command} ({fault})"
    return f"SIGTERM: {kind} {name} is deleted{then}"
