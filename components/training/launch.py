"""Run a training step in one process for each CUDA device of its pod, as ``torchrun`` would."""

import os
import sys
import time
from collections.abc import Sequence

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from deepcuts.components.core import cli, executor_input, recipe
from deepcuts.components.core.orphans import end_with_parent

GRACE_SECONDS = 30
"""What processes get after SIGTERM to commit a checkpoint."""
RECEIPT_SECONDS = 10.0


def main(step: cli.StepFunction, module: str) -> None:
    """Run ``cli.main`` in as many processes as the ``--recipe`` flag and this machine's devices ask for."""
    argv = sys.argv[1:]
    if "RANK" in os.environ:
        end_with_parent()  # it starts us in a session of our own, where no signal to it reaches us
        try:
            cli.main(step)
        except SystemExit as end:
            if end.code and os.environ["RANK"] != "0":  # the launcher ends the others at once: the main
                time.sleep(RECEIPT_SECONDS)  # process, which fails of the same, writes the receipt
            if not end.code and torch.distributed.is_initialized():
                # A Gloo thread alive at interpreter exit now and then aborts a process whose work is done
                # (exit code -6, pytorch/pytorch#179291). Not after a failure: it waits for the other ranks.
                torch.distributed.destroy_process_group()
            raise
    count = processes(argv, torch.cuda.device_count())
    if count == 1:
        cli.main(step)
    sys.exit(launch(module, argv, count))


def processes(argv: Sequence[str], devices: int) -> int:
    """Return one a device where the Recipe names a strategy of several (``plan`` does where it is cheaper).

    A command that cannot be read gets one process, which says what is wrong with it.
    """
    flags, _ = cli.pairs(list(argv))
    try:
        executor = cli.from_json(flags.get("--executor-input", "null"), "executor_input")
        word = executor_input.value(flags.get("--recipe", "{}"), executor)
        wanted = recipe.parse(cli.from_json(word, "recipe")).strategy
    except ValueError:
        return 1
    return 1 if wanted == "auto" else max(1, devices)


def launch(module: str, argv: Sequence[str], count: int) -> int:
    """Run ``python -m module argv`` in ``count`` processes of this machine; the first failure's exit code."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,  # restarts are Kubernetes' business
        shutdown_timeout=GRACE_SECONDS,
    )
    try:
        elastic_launch(config, entrypoint=sys.executable)("-m", module, *argv)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
