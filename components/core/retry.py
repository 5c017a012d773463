"""Retry through temporary faults: an outage, a restart, a throttling store."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from deepcuts.components.core.errors import StoreError

T = TypeVar("T")
OUTAGE_SECONDS = 60.0
"""How long faults may last before a step gives up; a restarted store is back within 10 to 30 s."""
MAX_WAIT_SECONDS = 8.0
QUIET_SECONDS = 10.0
"""A caller with a shorter outage limit can do without the store, so its retries are not logged."""
log = logging.getLogger(__name__)


def retry(
    action: Callable[[], T],
    faults: tuple[type[Exception], ...],
    judge: Callable[[Exception], Exception],
    outage_seconds: float,
) -> T:
    """Repeat ``action`` until it succeeds; waits grow with jitter from about 0.4 s to ``MAX_WAIT_SECONDS``.

    ``judge`` maps one of ``faults`` to the error for the caller. A StoreError is retried and raised only
    after ``outage_seconds``; any other error is raised at once.
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
