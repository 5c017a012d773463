"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from deepcuts.components.core import escape, files
from deepcuts.pipelines.command.screen import Screen

PARALLEL = max(3, (os.cpu_count() or 1) // 2)
"""At least 3: training, its watcher and the evaluation of the base are ready at once."""
ROOT = "minio://mlpipeline/v2/artifacts"
"""KFP 2.17's own pipeline root. An artifact of another bucket or scheme cannot be read by its launcher."""
out = Screen()


def _pipelines(incomplete: str) -> list[str]:
    """List what the shell may complete to."""
    from deepcuts.pipelines.command import packages

    return [name for name in packages.names() if name.startswith(incomplete)]


Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A pipeline, or a compiled YAML.", autocompletion=_pipelines),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]
File = Annotated[
    Path | None, typer.Option("--file", "-f", help="Parameters as YAML; its paths count from its folder.")
]
Sets = Annotated[list[str], typer.Option("--set", help="A parameter, or a key of one: recipe.seed=3.")]
Folder = Annotated[Path, typer.Option("--runs", help="Where run folders, cache and checkpoints live.")]
Parallel = Annotated[int, typer.Option(min=1, help="Tasks at a time; each gets cores / tasks threads.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Use neither cache nor checkpoints of earlier runs.")]
Until = Annotated[
    list[str],
    typer.Option(
        "--until", metavar="TASK", help="Only what this task needs, and the ledger; may be repeated."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Start it, whatever confirm_above_usd says.")]


def _folder_name(title: str) -> str:
    """Return the name of a run's folder.

    Raises:
        ValueError: it would lie outside of --runs, be its cache or store, or be no name for a disk.
    """
    if title in ("cache", "store") or title.startswith(".") or "/" in title or escape.CONTROLS.search(title):
        raise ValueError(
            f"--name {title!r} is no name for a folder in --runs: no slash, no dot first, not cache or store"
        )
    if len(title.encode()) > files.NAME_BYTES:
        raise ValueError(f"--name has {len(title.encode())} bytes, above {files.NAME_BYTES}: shorten it")
    return title


Title = Annotated[
    str,
    typer.Option(
        "--name", help="Name of the run's folder; default: pipeline and time.", callback=_folder_name
    ),
]
Host = Annotated[
    str,
    typer.Option(
        envvar="KF_PIPELINES_ENDPOINT", help="Kubeflow Pipelines (http://localhost:8080); else kubeconfig."
    ),
]
Namespace = Annotated[str, typer.Option(help="Where Kubeflow Pipelines runs, or your profile.")]
Token = Annotated[str, typer.Option(envvar="DEEPCUTS_TOKEN", help="Bearer token of the server.")]
Cookies = Annotated[
    str, typer.Option(envvar="DEEPCUTS_COOKIES", help="Cookie header, as a login page sets it.")
]
CaCert = Annotated[str, typer.Option(help="Certificate (PEM) that vouches for the server.")]
Experiment = Annotated[str, typer.Option(help="Groups runs in the UI.")]
Root = Annotated[
    str, typer.Option(help="Where artifacts go: the server's pipeline root, or below its bucket.")
]
Releases = Annotated[
    str,
    typer.Option("--store", envvar="DEEPCUTS_STORE", show_default="runs/store", help="Where releases live."),
]
RELEASES = (Path("runs") / "store").resolve().as_uri()


def print_json(value: object) -> None:
    """Print a value for scripts."""
    print(escape.json(msgspec.json.format(msgspec.json.encode(value), indent=1).decode()))


Help = Annotated[
    bool, typer.Option("-h", "--help", help="This text; with NAME also the pipeline's parameters.")
]
