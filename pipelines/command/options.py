"""Options shared by several commands."""

import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from deepcuts.components.core import escape, files
from deepcuts.pipelines.command.screen import Screen

PARALLEL = max(3, (os.cpu_count() or 1) // 2)
"""At least 3, as training, its watcher and the base's evaluation are ready at the same time."""
ROOT = "minio://mlpipeline/v2/artifacts"
"""KFP 2.17's own pipeline root; its launcher cannot read artifacts of another bucket or scheme."""
out = Screen()


def _pipelines(incomplete: str) -> list[str]:
    """Return the shell's completions."""
    from deepcuts.pipelines.command import packages

    return [name for name in packages.names() if name.startswith(incomplete)]


Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A pipeline, or a compiled YAML.", autocompletion=_pipelines),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]
File = Annotated[
    Path | None, typer.Option("--file", "-f", help="Parameters as YAML; paths are relative to its folder.")
]
Sets = Annotated[list[str], typer.Option("--set", help="A parameter, or a key of one: recipe.seed=3.")]
Folder = Annotated[Path, typer.Option("--runs", help="Folder for runs, cache and checkpoints.")]
Parallel = Annotated[int, typer.Option(min=1, help="Concurrent tasks; each gets cores / tasks threads.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ignore cache and checkpoints of earlier runs.")]
Until = Annotated[
    list[str],
    typer.Option(
        "--until", metavar="TASK", help="Run only what this task needs, and the ledger; may be repeated."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Start without asking, despite confirm_above_usd.")]


def _folder_name(title: str) -> str:
    """Return the name of a run's folder.

    Raises:
        ValueError: it would be outside of --runs, its cache or store, or is not valid as a file name.
    """
    if title in ("cache", "store") or title.startswith(".") or "/" in title or escape.CONTROLS.search(title):
        raise ValueError(
            f"--name {title!r} is not valid for a folder in --runs: no slash or first dot, not cache or store"
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
Token = Annotated[str, typer.Option(envvar="DEEPCUTS_TOKEN", help="Bearer token for the server.")]
Cookies = Annotated[
    str, typer.Option(envvar="DEEPCUTS_COOKIES", help="Cookie header, as set by a login page.")
]
CaCert = Annotated[str, typer.Option(help="CA certificate (PEM) of the server.")]
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
    """Print a value as JSON, for scripts."""
    print(escape.json(msgspec.json.format(msgspec.json.encode(value), indent=1).decode()))


Help = Annotated[
    bool, typer.Option("-h", "--help", help="This text; with NAME also the pipeline's parameters.")
]
