"""End a child process when the process that started it ends, however that ends."""

import ctypes
import signal
import sys

_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Ask the kernel, in the child, for SIGTERM when the parent dies, even if it dies of SIGKILL.

    Source: prctl(2), PR_SET_PDEATHSIG. Does nothing where there is no such call.
    """
    if _PRCTL:
        _PRCTL(1, signal.SIGTERM)
