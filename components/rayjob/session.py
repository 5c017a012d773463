"""A Ray cluster for the body of a step: the one of its RayJob, or one of processes on this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from deepcuts.components.core.errors import StoreError
from deepcuts.components.rayjob.settings import ENVIRONMENT

ADDRESS = "RAY_ADDRESS"
"""Set by Ray for the entrypoint of a job."""


def on_cluster() -> bool:
    """Tell whether this process is the entrypoint of a RayJob."""
    return ADDRESS in os.environ


@contextmanager
def session(workers: int) -> Iterator[None]:
    """Connect to the cluster of this job, or start ``workers`` processes here and stop them at the end.

    An error of our own code is raised as if it had happened in this process.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        StoreError: Ray failed, for example because workers were lost too often.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray  # takes a second, and only this engine needs it
    from ray.data import DataContext

    joined = on_cluster()
    ray.init(
        num_cpus=None if joined else workers,
        include_dashboard=None if joined else False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised, and said once
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    try:
        yield
    except Exception as error:
        if (cause := _cause(error)) is error:
            raise
        raise cause from error
    finally:
        ray.shutdown()


def _cause(error: BaseException) -> BaseException:
    """Return the error of our code in a worker; one of Ray's own may be gone when the step runs again."""
    from ray.exceptions import RayError

    found = error
    while isinstance(found, RayError) or type(found).__module__.startswith("ray."):
        inner = getattr(found, "cause", None) or found.__cause__
        if inner is None or inner is found:
            return StoreError(f"Ray failed ({type(error).__name__}: {str(error)[-300:]}): run it again")
        found = inner
    return found
