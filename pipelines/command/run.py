"""Run a pipeline on this machine."""

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.padding import Padding
from rich.text import Text

from deepcuts.components.core import clock
from deepcuts.pipelines import pools
from deepcuts.pipelines.command import confirm, packages, progress_table
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
    Yes,
    out,
)
from deepcuts.pipelines.run_file import parameters, places, settings
from deepcuts.pipelines.runner import (
    extras,
    ledger_here,
    local,
    pipeline_spec,
    placeholders,
    run_record,
    spec_types,
)


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
    yes: Yes = False,
    help: Help = False,
) -> None:
    """Run a pipeline on this machine; running again resumes where the last run stopped."""
    if help or not name:
        out.print(context.get_help(), markup=False, highlight=False, end="")
        if name:
            _help(packages.read(name))
        else:
            out.print(f" Pipelines: {', '.join(packages.names())}; NAME --help lists the parameters of one")
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
        extras.check(pipeline_spec.images(pipeline, until), arguments.get("engine"))
        arguments = places.pinned(arguments, folder / places.COMMITS, out.note, again=fresh)
        confirm.ask(pipeline, given, arguments, yes, local=True)
        left = (
            None
            if fresh or title
            else _unfinished(folder, pipeline, pipeline_spec.arguments(pipeline, arguments))
        )
        if left:
            out.note(f"resuming {left}")
        place = left or place
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package, place / "pipeline.yaml")
    pools = pools_of(arguments)
    with progress_table.Board(out, place, pools, out.level) as board:
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
    if record.status == "interrupted":
        with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C goes without the page
            ledger_here.write(place / "pipeline.yaml", record, place)
    conclude(record, place, pools)
    raise typer.Exit(record.exit_code or 0)


def fills(store: Path) -> dict[str, Any]:
    """Return the arguments that the command sets itself."""
    return {
        "store_uri": store.resolve().as_uri(),
        "nodepools": pools.prices(),
    }


def _help(pipeline: spec_types.Pipeline) -> None:
    """Print the parameters of the pipeline, by group."""
    out.print(pipeline.pipeline_info.description, highlight=False)
    known = list(parameters.parameters(pipeline))
    for group in parameters.IN_ORDER:
        shown = [one for one in known if one.group == group]
        if shown:
            out.print(Text(f"\n{group}", "bold"))
        for one in shown:
            default = "required" if one.required else f"default {placeholders.encode(one.default) or 'empty'}"
            default = f"default {parameters.FILLED[one.name]}" if one.name in parameters.FILLED else default
            head = Text.assemble("  ", (one.name, "cyan"), f"  {one.kind}; {default}")
            out.print(head, highlight=False, soft_wrap=True)
            if one.meaning:
                out.print(Padding(one.meaning.replace("``", ""), (0, 0, 0, 6)), highlight=False)


def new_folder(folder: Path, title: str) -> Path:
    """Return an unused folder for a run."""
    stamp = f"{title}-{clock.local():%Y%m%d-%H%M%S}"
    names = (stamp, *(f"{stamp}-{number}" for number in range(2, 1000)))
    return next(folder / name for name in names if not (folder / name).exists())


def _unfinished(folder: Path, pipeline: spec_types.Pipeline, arguments: Mapping[str, Any]) -> Path | None:
    """Return the newest run of the same pipeline with the same arguments, unless it is done."""
    for path in sorted(folder.glob("*/run.json"), key=lambda file: file.stat().st_mtime, reverse=True):
        with contextlib.suppress(ValueError):  # a run of another version
            record = run_record.read(path.parent)
            if record.package_digest == pipeline.digest and record.arguments == arguments:
                return None if record.status == "done" else path.parent
    return None
