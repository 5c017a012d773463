"""A toy step: take some time, say so, and commit a checkpoint on SIGTERM."""

import signal
import sys
import time
from pathlib import Path

from deepcuts.components.core import cli
from deepcuts.components.core.errors import Preempted
from deepcuts.components.core.receipts import Facts


def wait(source: Path, out: Path, seconds: float, checkpoint: str) -> Facts:
    """Sleep ``seconds``; at SIGTERM write ``checkpoint`` (a path; empty: do not listen) and stop."""
    stopped = []
    if checkpoint:
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    print(f"waiting {seconds} s", file=sys.stderr, flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if stopped:
            Path(checkpoint).write_text("saved")
            raise Preempted("stopped after a checkpoint")
        time.sleep(0.02)
    out.write_bytes(source.read_bytes())
    return {"waited": seconds}


if __name__ == "__main__":
    cli.main(wait)
