"""List, cancel and schedule runs on a Kubeflow server."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from deepcuts.pipelines.command import remote
from deepcuts.pipelines.command.options import (
    ROOT,
    AsJson,
    CaCert,
    Cookies,
    Experiment,
    File,
    Host,
    Name,
    Namespace,
    Root,
    Sets,
    Token,
    Yes,
    out,
    print_json,
)
from deepcuts.pipelines.run_file import settings
from deepcuts.pipelines.runner import pipeline_spec

if TYPE_CHECKING:
    pass

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id, or its first characters.", show_default=False)]
OfExperiment = Annotated[str, typer.Option("--experiment", help="Only this experiment.")]


def schedule(
    name: Name,
    cron: Annotated[str, typer.Option(help="When, UTC: minute hour day month weekday.", show_default=False)],
    file: File = None,
    sets: Sets = [],  # noqa: B006
    title: Annotated[str, typer.Option("--name", help="Schedule to create or replace.")] = "",
    host: Host = "",
    namespace: Namespace = "kubeflow",
    token: Token = "",
    cookies: Cookies = "",
    ca_cert: CaCert = "",
    experiment: Experiment = "deepcuts",
    root: Root = ROOT,
    yes: Yes = False,
) -> None:
    """Run a pipeline on Kubeflow on a schedule: one run at a time, missed times are not made up."""
    from deepcuts.pipelines.kubeflow.cron import six_fields

    problems = settings.lines_of(six_fields, cron)
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "pipeline.yaml"
        # before the server, which is not needed to find them
        arguments = remote.arguments(name, file, sets, root, package, None, problems, yes=yes)
        when = six_fields(cron)
        server = remote.login(host, namespace, token, cookies, ca_cert)
        title = title or pipeline_spec.read(package).pipeline_info.name
        version = server.upload(package)
        replaced = server.schedule(version, title, arguments, experiment, root, when)
    note = f", replacing {len(replaced)} of that name" if replaced else ""
    out.print(f"schedule {title}: {when} (second first, UTC){note}", highlight=False)


def schedules(
    delete: Annotated[
        list[str], typer.Option("--delete", metavar="NAME", help="Delete those with this name or id.")
    ] = [],  # noqa: B006
    host: Host = "",
    namespace: Namespace = "kubeflow",
    token: Token = "",
    cookies: Cookies = "",
    ca_cert: CaCert = "",
    experiment: OfExperiment = "",
) -> None:
    """List the schedules on Kubeflow, or delete some, each once its last run has ended."""
    server = remote.login(host, namespace, token, cookies, ca_cert)
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

    server = remote.login(host, namespace, token, cookies, ca_cert)
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
    for row in (head, *rows):  # not a rich table, which would cut off ids that other commands need
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
    """Stop a run on Kubeflow; submitting again resumes from what its tasks saved."""
    server = remote.login(host, namespace, token, cookies, ca_cert)
    run_id = server.find(run)
    server.cancel(run_id)
    out.print(f"{run_id} is being stopped", highlight=False, soft_wrap=True)
