"""Run a pipeline on this machine."""

import contextlib
import datetime
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from deepcuts.components.core.recipe import Recipe
from deepcuts.pipelines import pools
from deepcuts.pipelines.command import packages, progress_table, settings
from deepcuts.pipelines.command.conclusion import conclude, pools_of
from deepcuts.pipelines.command.options import (
    PARALLEL,
    File,
    Folder,
    Fresh,
    Help,
    Name,
    Parallel,
    Sets,
    Title,
    Until,
    out,
)
from deepcuts.pipelines.runner import extras, ir, local, pipeline_spec, placeholders, run_record

FILLED = {"store_uri": "under --runs", "nodepools": "nodepools.yaml"}
"""Parameters that ``deepcuts run`` fills in where a pipeline takes them."""


def run(
    context: typer.Context,
    name: Name = "",
    file: File = None,
    sets: Sets = [],  # noqa: B006  (typer copies it)
    folder: Folder = Path("runs"),
    parallel: Parallel = PARALLEL,
    fresh: Fresh = False,
    until: Until = [],  # noqa: B006
    title: Title = "",
    help: Help = False,
) -> None:
    """Run a pipeline on this machine; running again resumes where the last run stopped."""
    if help or not name:
        out.print(context.get_help(), markup=False, highlight=False, end="")
        out.print(_parameters(packages.read(name)) if name else f"Pipelines: {', '.join(packages.names())}")
        raise typer.Exit(0 if help else 2)
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "pipeline.yaml"
        given, problems = settings.given(file, sets)
        pipeline = packages.checked(name, package, problems)
        problems += settings.lines_of(pipeline_spec.left_out, pipeline, until)
        place = folder / title if title else new_folder(folder, pipeline.pipeline_info.name)
        arguments = settings.complete(
            pipeline, given, fills((place if fresh else folder) / "store"), problems
        )
        extras.check(pipeline_spec.images(pipeline, until))
        left = (
            None
            if fresh or title
            else _unfinished(folder, pipeline, pipeline_spec.arguments(pipeline, arguments))
        )
        if left:
            out.print(f"taking up {left}", highlight=False, soft_wrap=True)
        place = left or place
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package, place / "pipeline.yaml")
    pools = pools_of(arguments)
    with progress_table.Board(out, place, pools) as board:
        record = local.run(
            place / "pipeline.yaml",
            arguments,
            place,
            parallel=parallel,
            fresh=fresh,
            cached=folder / "cache",
            show=board,
            until=until,
        )
    conclude(record, place, pools)
    raise typer.Exit(record.exit_code or 0)


def fills(store: Path) -> dict[str, Any]:
    """Return what the command knows and a user need not say."""
    return {
        "store_uri": store.resolve().as_uri(),
        "nodepools": pools.prices(),
    }


def _parameters(pipeline: ir.Pipeline) -> Table:
    """Return what a run of this pipeline can be given."""
    rows = Table(
        "parameter", "type", "default", "meaning", title=pipeline.pipeline_info.description, title_style=""
    )
    rows.columns[0].no_wrap = True
    known = pipeline.root.input_definitions.parameters
    for name in sorted(known, key=lambda name: known[name].is_optional):
        required = not known[name].is_optional or settings.EXAMPLE in " ".join(
            known[name].description.split()
        )
        default = "required" if required else placeholders.encode(known[name].default_value)
        kind = pipeline_spec.KINDS[known[name].parameter_type].__name__
        rows.add_row(
            name, kind, Text(FILLED.get(name, default)), Text(" ".join(known[name].description.split()))
        )
    if "recipe" in known:
        meanings = settings.meanings(Recipe)
        for field in msgspec.structs.fields(Recipe):
            meaning = meanings.get(field.name, "")
            rows.add_row(
                f"recipe.{field.name}",
                "",
                Text(placeholders.encode(getattr(Recipe(), field.name))),
                Text(meaning),
            )
    return rows


def new_folder(folder: Path, title: str) -> Path:
    """Return a name for a run that no run has yet."""
    stamp = f"{title}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    names = (stamp, *(f"{stamp}-{number}" for number in range(2, 1000)))
    return next(folder / name for name in names if not (folder / name).exists())


def _unfinished(folder: Path, pipeline: ir.Pipeline, arguments: Mapping[str, Any]) -> Path | None:
    """Return the newest run of the same pipeline with the same arguments, unless it is done."""
    for path in sorted(folder.glob("*/run.json"), key=lambda file: file.stat().st_mtime, reverse=True):
        with contextlib.suppress(ValueError):  # a run of another version
            record = run_record.read(path.parent)
            if record.package_digest == pipeline.digest and record.arguments == arguments:
                return None if record.status == "done" else path.parent
    return None
