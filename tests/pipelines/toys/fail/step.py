"""A toy step: fail in a chosen way until a given attempt."""

import os
import signal
from pathlib import Path

from deepcuts.components.core import cli
from deepcuts.components.core.errors import DataError, GateRefused, StoreError
from deepcuts.components.core.receipts import Facts

WAYS = {
    "config": ValueError("rate 7: choose one below 1"),
    "data": DataError("row 3 is empty: remove it"),
    "store": StoreError("the store is away: try later"),
    "gate": GateRefused("worse than the reference"),
    "bug": KeyError("oops"),
}


def fail(out: Path, way: str, until: int) -> Facts:
    """Fail in attempts below ``until``: ``kill`` as the kernel kills, else by the error of ``WAYS``."""
    if int(os.environ["DEEPCUTS_ATTEMPT"]) < until:
        if way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise WAYS[way]
    out.write_text(os.environ["DEEPCUTS_ATTEMPT"])
    return {}


if __name__ == "__main__":
    cli.main(fail)
