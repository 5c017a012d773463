"""Pipelines on a Kubeflow server: submit, follow, list, cancel; schedules."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from deepcuts.components.core.store import open_store
from deepcuts.components.training import lease
from deepcuts.pipelines.command import progress_table, remote
from deepcuts.pipelines.command.conclusion import conclude, pools_of
from deepcuts.pipelines.command.options import (
    ROOT,
    AsJson,
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
    print_json,
)
from deepcuts.pipelines.command.run import new_folder
from deepcuts.pipelines.run_file import places, settings
from deepcuts.pipelines.runner import pipeline_spec

if TYPE_CHECKING:
    from deepcuts.pipelines.kubeflow.client import Server, Version

PREEMPTED = 143
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id, or its first characters.", show_default=False)]
OfExperiment = Annotated[str, typer.Option("--experiment", help="Only of this one.")]


def submit(
    name: Name,
    file: File = None,
    sets: Sets = [],  # noqa: B006
    folder: Folder = Path("runs"),
    title: Title = "",
    resubmit: Annotated[
        int,
        typer.Option(min=0, help="Submit again at most so often, where a lost pod ended a run."),
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
        # wrong values need no server to be found
        arguments = remote.arguments(name, file, sets, root, package, folder / places.COMMITS, yes=yes)
        server = login(host, namespace, token, cookies, ca_cert)
        version = server.upload(package)
        run_name = title or new_folder(folder, pipeline_spec.read(package).pipeline_info.name).name
        for number in range(1, resubmit + 2):
            place = folder / (run_name if number == 1 else f"{run_name}-{number}")
            last = number == resubmit + 1
            code = _run(server, version, package, place, arguments, namespace, experiment, root, last)
            if code != PREEMPTED or last:
                raise typer.Exit(code)
            out.print(
                f"a pod was taken away: submitting again, {resubmit + 1 - number} times at most",
                highlight=False,
            )


def _run(
    server: "Server",
    version: "Version",
    package: Path,
    place: Path,
    arguments: Mapping[str, Any],
    namespace: str,
    experiment: str,
    root: str,
    last: bool,
) -> int:
    """Start one run and follow it to its end; its exit code.

    A run that is not the ``last`` one is stopped as soon as a task has lost its pod for good.
    """
    from deepcuts.pipelines.kubeflow import follow, ledger_here, pods, run_outputs

    run_id = server.start(version, place.name, arguments, experiment, root)
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(package, place / "pipeline.yaml")
    out.print(f"{server.page(run_id)} (ends without us if this ends)", highlight=False, soft_wrap=True)
    record, known = follow.record(package, arguments), pools_of(arguments)
    record.run_id = run_id
    store = open_store(f"{root}/{record.pipeline}") if os.environ.get("S3_ENDPOINT") else None
    outputs = run_outputs.RunOutputs(store, run_id, pods.RunPods(namespace, run_id))
    with progress_table.Board(out, place, known, out.level) as board:
        follow.follow(server, run_id, record, place, outputs, board, stop_if_preempted=not last)
    if store:
        ledger_here.write(place / "pipeline.yaml", record, store, place)
        if record.status != "done" and (trainings := arguments.get("store_uri")):
            lease.release_run(open_store(trainings), store.uri(run_id))
    conclude(record, place, known)
    if not store:
        out.print("S3_ENDPOINT is not set: receipts and ledger stay in the Kubeflow UI", highlight=False)
    return record.exit_code or 0


def schedule(
    name: Name,
    cron: Annotated[str, typer.Option(help="When, UTC: minute hour day month weekday.", show_default=False)],
    file: File = None,
    sets: Sets = [],  # noqa: B006
    title: Annotated[str, typer.Option("--name", help="Of the schedule; one of that name is replaced.")] = "",
    host: Host = "",
    namespace: Namespace = "kubeflow",
    token: Token = "",
    cookies: Cookies = "",
    ca_cert: CaCert = "",
    experiment: Experiment = "deepcuts",
    root: Root = ROOT,
    yes: Yes = False,
) -> None:
    """Run a pipeline on Kubeflow again and again: one run at a time, missed times are not made up."""
    from deepcuts.pipelines.kubeflow.cron import six_fields

    problems = settings.lines_of(six_fields, cron)
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "pipeline.yaml"
        # no server is needed to find those
        arguments = remote.arguments(name, file, sets, root, package, None, problems, yes=yes)
        when = six_fields(cron)
        server = login(host, namespace, token, cookies, ca_cert)
        title = title or pipeline_spec.read(package).pipeline_info.name
        version = server.upload(package)
        replaced = server.schedule(version, title, arguments, experiment, root, when)
    note = f", instead of {len(replaced)} of that name" if replaced else ""
    out.print(f"schedule {title}: {when} (second first, UTC){note}", highlight=False)


def schedules(
    delete: Annotated[
        list[str], typer.Option("--delete", metavar="NAME", help="Delete those of this name or id.")
    ] = [],  # noqa: B006
    host: Host = "",
    namespace: Namespace = "kubeflow",
    token: Token = "",
    cookies: Cookies = "",
    ca_cert: CaCert = "",
    experiment: OfExperiment = "",
) -> None:
    """List the schedules on Kubeflow, or delete some, each once its last run has ended."""
    server = login(host, namespace, token, cookies, ca_cert)
    known = server.schedules(experiment)
    if delete:
        chosen = [job for job in known if {job.display_name, job.recurring_run_id} & set(delete)]
        if missing := set(delete) - {
            word for job in chosen for word in (job.display_name, job.recurring_run_id)
        }:
            raise FileNotFoundError(
                f"no schedule {', '.join(sorted(missing))}: deepcuts schedules lists them"
            )
        for job in chosen:
            server.delete_schedule(job.recurring_run_id)
            out.print(f"deleted {job.display_name} ({job.recurring_run_id})", highlight=False, soft_wrap=True)
        return
    for job in known:
        cron = job.trigger.cron_schedule.cron if job.trigger and job.trigger.cron_schedule else "–"
        line = f"{job.display_name}  {cron}  {job.status or '–'}  {job.recurring_run_id}"
        out.print(Text(line), soft_wrap=True)


def list_runs(
    host: Host = "",
    namespace: Namespace = "kubeflow",
    token: Token = "",
    cookies: Cookies = "",
    ca_cert: CaCert = "",
    experiment: OfExperiment = "",
    count: Annotated[int, typer.Option(min=1, max=200, help="At most this many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest runs on Kubeflow."""
    from deepcuts.pipelines.kubeflow import client

    server = login(host, namespace, token, cookies, ca_cert)
    head = ("run", "state", "started (UTC)", "minutes", "id")
    if as_json:
        print_json(
            [
                {
                    "name": run.display_name,
                    "state": run.state or "",
                    "started_at": run.created_at.isoformat() if run.created_at else "",
                    "finished_at": run.finished_at.isoformat() if run.state in client.ENDED else "",
                    "id": run.run_id,
                }
                for run in server.recent(experiment, count)
            ]
        )
        return
    rows = [
        (
            run.display_name,
            run.state or "–",
            f"{run.created_at:%Y-%m-%d %H:%M}",
            client.minutes(run),
            run.run_id,
        )
        for run in server.recent(experiment, count)
    ]
    widths = [max(len(str(row[column])) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):  # not a rich table: what is cut off to fit cannot be given to another command
        line = "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        out.print(Text(line.rstrip()), soft_wrap=True)


def cancel(
    run: RunId,
    host: Host = "",
    namespace: Namespace = "kubeflow",
    token: Token = "",
    cookies: Cookies = "",
    ca_cert: CaCert = "",
) -> None:
    """Stop a run on Kubeflow; what its tasks saved stays, and submitting again resumes from it."""
    server = login(host, namespace, token, cookies, ca_cert)
    run_id = server.find(run)
    server.cancel(run_id)
    out.print(f"{run_id} is being stopped", highlight=False, soft_wrap=True)


def login(host: str, namespace: str, token: str, cookies: str, ca_cert: str) -> "Server":
    """Return the server that the options of a command name."""
    from deepcuts.pipelines.kubeflow import client  # kfp takes a second, which others do not wait for

    return client.Server(client.Login(host, namespace, token, cookies, ca_cert))
