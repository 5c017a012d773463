"""Start an Experiment and wait for its end, with a line for every change."""

import time
from collections.abc import Callable

import msgspec
from kubeflow_katib_api.models import V1beta1Experiment

from deepcuts.components.core import cancel
from deepcuts.components.core.cancel import undisturbed
from deepcuts.components.core.errors import DataError, Preempted
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.progress import tell
from deepcuts.components.tune.asha import Search
from deepcuts.components.tune.space import Space
from deepcuts.components.tune.task import Attempt
from deepcuts.components.tune.trials import TrialRecord
from deepcuts.components.tune_katib import progress
from deepcuts.components.tune_katib.cluster import Katib
from deepcuts.components.tune_katib.progress import TrialAttempts, condition, message

POLL_SECONDS = 5.0
SILENT_SECONDS = 300.0
"""Time without a trial after which something prevents Katib from starting; only its events say what."""


class SearchOutcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Outcome of an Experiment."""

    end: str
    """``Succeeded`` or ``Failed``."""
    why: str
    records: list[TrialRecord]
    attempts: dict[str, list[Attempt]]


def follow(
    katib: Katib,
    experiment: V1beta1Experiment,
    attempts: TrialAttempts,
    space: Space,
    search: Search,
    pool: NodePool,
    say: Callable[[str], None] = tell,
) -> SearchOutcome:
    """Create ``experiment`` unless it exists, and return when it has ended.

    Raises:
        ValueError: Katib or its suggestion service refuses it.
        DataError: it was deleted meanwhile.
        StoreError: the store or the API server is unreachable.
        Preempted: SIGTERM arrived (``cancel.sigterm``); the Experiment is deleted.
    """
    assert experiment.metadata and (name := experiment.metadata.name)
    try:
        katib.settle(name)
        with undisturbed():
            katib.create(experiment)
        say(f"kubectl -n {katib.namespace} get experiment {name}")
        return _followed(katib, name, attempts, space, search, pool, say)
    except Preempted as error:
        raise Preempted(cancelled(katib, name)) from error


def cancelled(katib: Katib, name: str) -> str:
    """Delete an Experiment that is no longer followed; return a message for the user.

    Katib 0.19 cannot suspend one: ``parallelTrialCount`` must be above 0, ``maxTrialCount`` above the number
    of trials. The trials' checkpoints are in the store.
    """
    then = " with its trials: the same command starts it again, resuming from their checkpoints"
    return cancel.cancelled(katib.delete, katib.namespace, "Experiment", name, then)


def _followed(
    katib: Katib,
    name: str,
    attempts: TrialAttempts,
    space: Space,
    search: Search,
    pool: NodePool,
    say: Callable[[str], None],
) -> SearchOutcome:
    began, said = time.monotonic(), ""
    hint = f"no trial yet: kubectl -n {katib.namespace} describe experiment,suggestion {name}"
    while True:
        found = katib.experiment(name)  # before trials and attempts, which are complete once it has ended
        if found is None:
            raise DataError(f"Experiment {name} was deleted: run again, trials resume from their checkpoints")
        end = condition(found)
        over = end in ("Succeeded", "Failed")
        trials, left = katib.trials(name), attempts.read()
        records = progress.records(trials, left, space, search, over)
        if over:
            return SearchOutcome(end, katib.complaint(name) or message(found), records, left)
        line = progress.line(records, progress.usd(left, trials, pool))
        if not trials and time.monotonic() - began > SILENT_SECONDS:
            line = hint
        if line != said:
            say(line)
            said = line
        time.sleep(POLL_SECONDS)
