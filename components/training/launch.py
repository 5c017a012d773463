"""Run a training step in one process per CUDA device, as ``torchrun`` does, here or on several nodes."""

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.run import config_from_args, get_args_parser

from deepcuts.components.core import cli, executor_input, recipe, spread
from deepcuts.components.core.orphans import end_with_parent

GRACE_SECONDS = 30
"""Time for processes to commit a checkpoint after SIGTERM."""
RECEIPT_SECONDS = 10.0


def main(step: cli.StepFunction, module: str) -> None:
    """Run ``cli.main`` in as many processes as the ``--recipe`` flag and this machine's devices call for.

    If a plan gave the task several nodes, it runs there.
    """
    argv = sys.argv[1:]
    if "RANK" in os.environ:
        end_with_parent()  # the launcher starts us in a new session, which its signals do not reach
        try:
            cli.main(step)
        except SystemExit as end:
            if end.code and os.environ["RANK"] != "0":  # the launcher would end the main process, which
                time.sleep(RECEIPT_SECONDS)  # fails with the same error and still has to write the receipt
            if not end.code and torch.distributed.is_initialized():
                # A Gloo thread alive at interpreter exit sometimes aborts a process that has finished (exit
                # code -6, pytorch/pytorch#179291). Not after a failure, as this waits for the other ranks.
                torch.distributed.destroy_process_group()
            raise
    several = nodes(argv)
    if several:
        # it needs the Kubernetes client, which not every place that trains has
        from deepcuts.components.trainjob.launcher import on_nodes

        cli.main(on_nodes(step, module, argv, *several))
    count = processes(argv, torch.cuda.device_count())
    if count == 1:
        cli.main(step)
    sys.exit(launch(module, argv, of_pod(count)))


def nodes(argv: Sequence[str]) -> tuple[dict[str, Any], spread.Spread] | None:
    """Return (executor input, nodes planned for this task); None if it is to run in this pod."""
    flags, _ = cli.pairs(list(argv))
    try:
        executor = cli.from_json(flags.get("--executor-input", "null"), "executor_input") or {}
        planned = spread.of_task(executor)
    except (ValueError, AttributeError):  # ``cli.main`` reports what is wrong with the command
        return None
    return (executor, planned) if planned else None


def processes(argv: Sequence[str], devices: int) -> int:
    """Return the number of devices if the Recipe's strategy needs several processes, else 1.

    A command with invalid arguments gets one process, which reports what is wrong.
    """
    flags, _ = cli.pairs(list(argv))
    try:
        executor = cli.from_json(flags.get("--executor-input", "null"), "executor_input")
        word = executor_input.value(flags.get("--recipe", "{}"), executor)
        wanted = recipe.parse(cli.from_json(word, "recipe")).strategy
    except ValueError:
        return 1
    return 1 if wanted == "auto" else max(1, devices)


def launch(module: str, argv: Sequence[str], config: LaunchConfig) -> int:
    """Run ``python -m module argv`` in several processes; return the first local failure's exit code."""
    try:
        elastic_launch(config, entrypoint=sys.executable)("-m", module, *argv)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def of_node() -> LaunchConfig:
    """Return this node's part of a training over several, as torchrun reads it from ``PET_`` variables."""
    config, _, _ = config_from_args(get_args_parser().parse_args(["-m", "unused"]))
    return dataclasses.replace(config, shutdown_timeout=GRACE_SECONDS)


def of_pod(count: int) -> LaunchConfig:
    """Return ``count`` processes on this machine alone."""
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,  # Kubernetes restarts
        shutdown_timeout=GRACE_SECONDS,
    )
