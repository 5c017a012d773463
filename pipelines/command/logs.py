"""What the tasks of a run wrote: in its folder, or on Kubeflow."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from deepcuts.components.core.store import open_store
from deepcuts.pipelines.command import remote
from deepcuts.pipelines.command.options import (
    ROOT,
    CaCert,
    Cookies,
    Folder,
    Host,
    Namespace,
    Root,
    Token,
    out,
)
from deepcuts.pipelines.runner import run_record

RunHere = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Folder or name of a run; on Kubeflow its id's first characters.",
        show_default=False,
    ),
]


def logs(
    run: RunHere,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Empty: of all.", show_default=False)] = "",
    folder: Folder = Path("runs"),
    host: Host = "",
    namespace: Namespace = "kubeflow",
    token: Token = "",
    cookies: Cookies = "",
    ca_cert: CaCert = "",
    root: Root = ROOT,
) -> None:
    """Show what the tasks of a run wrote: on this machine, or on Kubeflow (from store or pods)."""
    place = next((each for each in (Path(run), folder / run) if (each / "run.json").is_file()), None)
    if not place and "/" in run:  # no id on a server has one
        raise FileNotFoundError(f"{run}: no run.json in it: name the folder of a run")
    run_id = run_record.read(place).run_id if place else run
    if place and not run_id:
        found = here(place, task)
    else:
        found = _on_kubeflow(run_id, task, host, namespace, token, cookies, ca_cert, root)
    for name, text in found.items():
        out.rule(name)
        out.print(Text(text), soft_wrap=True)


def here(place: Path, task: str) -> dict[str, str]:
    """Return the logs of a run of this machine: of one task, by its name or step, or of all.

    Raises:
        FileNotFoundError: there is none.
    """
    tasks = run_record.read(place).tasks
    files = {
        name: place / "tasks" / name / "stderr.log"
        for name, record in tasks.items()
        if task in ("", name, record.name, record.step)
    }
    found = {name: file.read_text(errors="replace") for name, file in files.items() if file.is_file()}
    if not found:
        raise FileNotFoundError(
            f"no log of {task or 'any task'} in {place}: its tasks are {', '.join(tasks)}; a step inside one "
            "writes to that one's log"
        )
    return found


def _on_kubeflow(
    run: str, task: str, host: str, namespace: str, token: str, cookies: str, ca_cert: str, root: str
) -> dict[str, str]:
    from deepcuts.pipelines.kubeflow import pods, run_outputs

    server = remote.login(host, namespace, token, cookies, ca_cert)
    run_id = server.find(run)
    look = server.look(run_id)
    pipeline = server.pipeline_of(look)
    store = open_store(f"{root}/{pipeline}") if os.environ.get("S3_ENDPOINT") else None
    found = run_outputs.logs(store, run_id, pods.RunPods(namespace, run_id), task)
    if not found:
        raise FileNotFoundError(
            f"no log of {task or 'any task'} of run {look.display_name} ({run_id}): name a task as in its "
            "graph, and set S3_ENDPOINT to read the store"
        )
    return found
