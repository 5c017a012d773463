"""Wait out what passes by itself: an outage, a restart, a store that asks for patience."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from deepcuts.components.core.errors import StoreError

T = TypeVar("T")
OUTAGE_SECONDS = 60.0
"""How long faults may go on before a step gives up: a restarted store is back within 10 to 30 s."""
MAX_WAIT_SECONDS = 8.0
QUIET_SECONDS = 10.0
"""A caller that waits less in all does well enough without the store, and each look would be a line."""
log = logging.getLogger(__name__)


def retry(
    action: Callable[[], T],
    faults: tuple[type[Exception], ...],
    judge: Callable[[Exception], Exception],
    outage_seconds: float,
) -> T:
    """Repeat ``action`` until it works; waits grow from about 0.4 s, with jitter, to ``MAX_WAIT_SECONDS``.

    ``judge`` turns one of ``faults`` into what the caller shall see: a StoreError may pass and is raised only
    after ``outage_seconds`` of them, anything else ends the waiting at once.
    """
    give_up, wait = None, 0.5
    while True:
        try:
            return action()
        except faults as error:
            verdict, cause = judge(error), error
        now, pause = time.monotonic(), wait * random.uniform(0.5, 1.0)
        give_up = give_up or now + outage_seconds
        if not isinstance(verdict, StoreError) or now + pause > give_up:
            raise verdict from cause
        if outage_seconds >= QUIET_SECONDS:
            log.warning("%s; trying again in %.1f s", verdict, pause)
        time.sleep(pause)
        wait = min(2 * wait, MAX_WAIT_SECONDS)
