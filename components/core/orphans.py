"""End a child process when its parent ends, for whatever reason."""

import ctypes
import signal
import sys

_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Ask the kernel, from the child, to send SIGTERM when the parent dies, even of SIGKILL.

    Source: prctl(2), PR_SET_PDEATHSIG. Does nothing on systems without it.
    """
    if _PRCTL:
        _PRCTL(1, signal.SIGTERM)
