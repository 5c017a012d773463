"""Print ledgers of runs, alone or side by side, and run studies."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from deepcuts.components.core.cli import write_json
from deepcuts.pipelines.command import packages
from deepcuts.pipelines.command.conclusion import conclude, ledger_folder, page, pools_of
from deepcuts.pipelines.command.options import AsJson, File, Folder, Sets, out, print_json
from deepcuts.pipelines.command.run import fills
from deepcuts.pipelines.run_file import settings
from deepcuts.pipelines.runner import run_record
from deepcuts.pipelines.studies import savings, study_spec


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", show_default=False)],
    html: Annotated[
        Path | None, typer.Option(help="Also write the report, or the table of several runs, as a page.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the ledger of a run, its cost and quality; several runs are shown side by side."""
    if as_json and html:
        raise ValueError("--html with --json: only one of them is written: give one")
    if as_json:
        print_json([_as_json(folder) for folder in folders])
        return
    if len(folders) > 1:
        # takes a second to import
        from deepcuts.pipelines.studies import comparison

        records = {folder: run_record.read(folder) for folder in folders}
        compared = [
            comparison.read(folder, run, ledger_folder(run, folder)) for folder, run in records.items()
        ]
        out.print(_side_by_side(comparison.HEAD, comparison.table(compared)))
        if html:
            for folder, run in records.items():
                if outputs := ledger_folder(run, folder):
                    page(outputs, folder)  # the page links to it
            html.write_text(comparison.page(compared, html))
            out.print(f"HTML: {html}", highlight=False, soft_wrap=True)
        return
    for folder in folders:
        record = run_record.read(folder)
        outputs = ledger_folder(record, folder)
        out.rule(f"{record.pipeline}: {folder} ({record.status})")
        if outputs:
            out.print(Markdown((outputs / "summary").read_text(), hyperlinks=False))
            written = shutil.copyfile(outputs / "report", html) if html else page(outputs, folder)
            out.print(f"HTML: {written}", highlight=False, soft_wrap=True)
        elif html:
            raise ValueError(f"{folder}: its ledger was not written, so there is no page for {html}")
        else:
            conclude(record, folder, pools_of(record.arguments))


def _as_json(folder: Path) -> dict[str, Any]:
    """Return a run's record without arguments, and its ledger, null if it has none."""
    record = run_record.read(folder)
    outputs = ledger_folder(record, folder)
    ledger = msgspec.Raw((outputs / "ledger" / "ledger.json").read_bytes()) if outputs else None
    kept = ("pipeline", "status", "exit_code", "started_at", "ended_at", "run_id")
    tasks = {
        name: {"status": task.status, "seconds": task.seconds, "cached": task.cached, "message": task.message}
        for name, task in record.tasks.items()
    }
    return (
        {"folder": str(folder)}
        | {name: getattr(record, name) for name in kept}
        | {
            "tasks": tasks,
            "ledger": ledger,
        }
    )


def ablate(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY", help="A study (YAML).", show_default=False)],
    file: File = None,
    sets: Sets = [],  # noqa: B006
    folder: Folder = Path("runs"),
    parallel: Annotated[int, typer.Option(min=1, help="Concurrent runs; CPU time is compared.")] = 1,
) -> None:
    """Run every arm of a study as a pipeline, and compare cost at equal quality; resumable.

    What it finds is left in the store: the report of a run that trains like an arm cites it.
    """
    from deepcuts.pipelines.studies import (
        ablation,
        ablation_report,  # matplotlib takes a second to import
        deposit,
    )

    study = study_spec.read(study_file)
    given, problems = settings.given(file, sets)
    if problems:
        raise ValueError("\n".join(problems))
    given.pop(settings.CONFIRM, None)  # nobody is there to ask during a trial
    pipeline, place = packages.read(study.pipeline), folder / study.name
    ablation.check(study, pipeline, given, fills(place / "store"))
    first = next(study_spec.trials(study))
    filled = settings.complete(pipeline, study_spec.parameters(study, first, given), fills(folder / "store"))
    results = ablation.run(study, given, place, parallel, say=lambda line: print(line, file=sys.stderr))
    ended = {result.trial for result in results}
    missing = [trial.folder for trial in study_spec.trials(study) if trial not in ended]
    if not results:
        raise ValueError(f"no run succeeded: see the logs in {place}")
    found = savings.find(study, results, missing)
    write_json(place / "ablation.json", found)
    (place / "ablation.md").write_text(ablation_report.markdown(found))
    (place / "ablation.html").write_text(ablation_report.page(found))
    out.print(Markdown(ablation_report.markdown(found), hyperlinks=False))
    out.print(f"report: {place / 'ablation.html'}", highlight=False, soft_wrap=True)
    if record := deposit.record(study, results):
        where = deposit.leave(record, filled["store_uri"])
        out.print(f"reports of runs that train like these will cite {where}", highlight=False, soft_wrap=True)
    raise typer.Exit(1 if missing else 0)


def _side_by_side(head: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """Return a table with one column per run, as terminals are narrow."""
    rows = Table(*([head[0], *(line[0] for line in lines)]), caption="90 % intervals; positive is worse")
    for number, name in enumerate(head[1:], start=1):
        rows.add_row(name, *(Text(line[number]) for line in lines))
    return rows
