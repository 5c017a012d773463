"""Submit a pipeline to a Kubeflow server and follow it to its end."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepcuts.components.core import nodepools
from deepcuts.components.core.store import open_store
from deepcuts.components.training import lease
from deepcuts.pipelines.command import progress_table, remote
from deepcuts.pipelines.command.conclusion import conclude, pools_of
from deepcuts.pipelines.command.options import (
    ROOT,
    CaCert,
    Cookies,
    Experiment,
    File,
    Folder,
    Host,
    Name,
    Namespace,
    Root,
    Sets,
    Title,
    Token,
    Yes,
    out,
)
from deepcuts.pipelines.command.run import new_folder
from deepcuts.pipelines.run_file import places
from deepcuts.pipelines.runner import ledger_here, pipeline_spec

if TYPE_CHECKING:
    from deepcuts.pipelines.kubeflow.client import Server, Version

PREEMPTED = 143


def submit(
    name: Name,
    file: File = None,
    sets: Sets = [],  # noqa: B006
    folder: Folder = Path("runs"),
    title: Title = "",
    resubmit: Annotated[
        int,
        typer.Option(min=0, help="Resubmit at most this often if a lost pod ended the run."),
    ] = 0,
    next_pool_after: Annotated[
        float,
        typer.Option(min=0, help="Minutes to wait for room before taking the next best pool; 0: no limit."),
    ] = 0,
    host: Host = "",
    namespace: Namespace = "kubeflow",
    token: Token = "",
    cookies: Cookies = "",
    ca_cert: CaCert = "",
    experiment: Experiment = "deepcuts",
    root: Root = ROOT,
    yes: Yes = False,
) -> None:
    """Run a pipeline on Kubeflow and follow it here; ends with its ledger, as ``run`` does."""
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "pipeline.yaml"
        # before the server, which is not needed to find wrong values
        arguments = remote.arguments(name, file, sets, root, package, folder / places.COMMITS, yes=yes)
        pipeline = pipeline_spec.read(package)
        movable: list[str] = []
        if next_pool_after:
            from deepcuts.pipelines.kubeflow import full_pools

            full_pools.check(pipeline, arguments.get("pool"))
            movable = full_pools.movable(pipeline)
        server = remote.login(host, namespace, token, cookies, ca_cert)
        version = server.upload(package)
        run_name = title or new_folder(folder, pipeline.pipeline_info.name).name
        for number in itertools.count(1):
            place = folder / (run_name if number == 1 else f"{run_name}-{number}")
            code, full = _run(
                *(server, version, package, place, arguments, namespace, experiment, root),
                last=not resubmit,
                movable=movable,
                room_within_seconds=60 * next_pool_after,
            )
            if full:
                arguments["nodepools"] = nodepools.with_closed(pools_of(arguments), full)
                said = f"pool {full} had no room for {next_pool_after:g} minutes: submitting again without it"
            elif code == PREEMPTED and resubmit:
                said = f"a pod was taken away: submitting again, {resubmit} times at most"
                resubmit -= 1
            else:
                raise typer.Exit(code)
            out.print(said, highlight=False)


def _run(
    server: "Server",
    version: "Version",
    package: Path,
    place: Path,
    arguments: Mapping[str, Any],
    namespace: str,
    experiment: str,
    root: str,
    *,
    last: bool,
    movable: Sequence[str],
    room_within_seconds: float,
) -> tuple[int, str]:
    """Start one run and follow it to its end; return its exit code, and the pool without room or ''.

    Unless it is the ``last`` run, it is stopped as soon as a task has lost its pod for good. It is also
    stopped if one of the ``movable`` tasks finds no room in its pool in time.
    """
    from deepcuts.pipelines.kubeflow import follow, full_pools, pods, run_outputs

    run_id = server.start(version, place.name, arguments, experiment, root)
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(package, place / "pipeline.yaml")
    out.print(f"{server.page(run_id)} (it continues without this command)", highlight=False, soft_wrap=True)
    record, known = follow.record(package, arguments), pools_of(arguments)
    record.run_id = run_id
    store = open_store(f"{root}/{record.pipeline}") if os.environ.get("S3_ENDPOINT") else None
    seen = pods.RunPods(namespace, run_id)
    outputs = run_outputs.RunOutputs(store, run_id, seen)
    with progress_table.Board(out, place, known, out.level) as board:
        full = follow.follow(
            *(server, run_id, record, place, outputs, board),
            stop_if_preempted=not last,
            full_pool=partial(full_pools.find, seen, movable, known, room_within_seconds),
        )
    if store:
        if not ledger_here.has_ledger(record, place):
            ledger_here.write(place / "pipeline.yaml", record, place, store.uri(run_id))
        if record.status != "done" and (trainings := arguments.get("store_uri")):
            lease.release_run(open_store(trainings), store.uri(run_id))
    conclude(record, place, known)
    if not store:
        out.print("S3_ENDPOINT is not set: receipts and ledger stay in the Kubeflow UI", highlight=False)
    return record.exit_code or 0, full
