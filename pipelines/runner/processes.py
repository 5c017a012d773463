"""Run child processes that can be stopped and do not outlive us."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from deepcuts.components.core.orphans import end_with_parent

GRACE_SECONDS = 30.0
"""Time for a step to commit a checkpoint after SIGTERM."""


class _Child(NamedTuple):
    process: asyncio.subprocess.Process
    started: float
    spent: Callable[[float], None]

    def clock(self) -> None:
        self.spent(time.monotonic() - self.started)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Processes:
    """The children of one event loop."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self._children: list[_Child] = []

    async def run(
        self,
        argv: list[str],
        folder: Path,
        root: Path,
        env: Mapping[str, str],
        spent: Callable[[float], None],
    ) -> int:
        """Run ``argv`` in ``root``, appending its output to logs in ``folder``.

        Returns its exit code, negative after a signal; ``spent`` gets its seconds at each ``clock``.
        """
        with (folder / "stdout.log").open("ab") as out, (folder / "stderr.log").open("ab") as err:
            process = await asyncio.create_subprocess_exec(
                *argv,
                cwd=root,
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # we pass on Ctrl-C, also to its children
                preexec_fn=end_with_parent,
            )
        child = _Child(process, time.monotonic(), spent)
        self._children.append(child)
        if self.stopping.is_set():
            child.signal(signal.SIGTERM)
        code = await process.wait()
        child.clock()
        self._children.remove(child)
        return code

    def clock(self) -> None:
        """Tell each ``spent`` how long its process has run."""
        for child in self._children:
            child.clock()

    def stop(self) -> None:
        """Send SIGTERM to all, and SIGKILL after the grace period or at a second call."""
        again = self.stopping.is_set()
        self.stopping.set()
        self.signal(signal.SIGKILL if again else signal.SIGTERM)
        if not again:
            asyncio.get_running_loop().call_later(GRACE_SECONDS, self.signal, signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to every process and its children."""
        for child in self._children:
            child.signal(number)
