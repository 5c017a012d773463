"""What is shown at the end of a run."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from deepcuts.components.core import nodepools, receipts
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.scorecards import Interval, Scorecard
from deepcuts.pipelines import pools
from deepcuts.pipelines.command import progress_table
from deepcuts.pipelines.command.options import out
from deepcuts.pipelines.runner.run_record import Run


def pools_of(arguments: Mapping[str, Any]) -> dict[str, NodePool]:
    """Return the node pools that a run was given, else today's."""
    given = arguments.get("nodepools")
    return nodepools.parse(given) if given else pools.read()


def ledger_folder(record: Run, folder: Path) -> Path | None:
    """Return where the run's ledger lies."""
    for name, task in record.tasks.items():
        if task.step == "ledger" and task.status == "done":
            return folder / "tasks" / name / "outputs"
    return None


def page(outputs: Path, folder: Path) -> Path:
    """Return the report under a name that a browser opens as a page."""
    return shutil.copyfile(outputs / "report", folder / "report.html")


class Quality(msgspec.Struct):
    """The part of ``ledger.json`` that is shown at the end of a run."""

    scorecards: dict[str, Scorecard]
    verdict: str
    next_action: str


def conclude(record: Run, folder: Path, pools: Mapping[str, NodePool]) -> None:
    """Print what a run did: tasks, failures, quality, and where the report is."""
    out.print(progress_table.summary(record, folder, pools))
    for name, task in record.tasks.items():
        if task.status in ("failed", "interrupted"):
            out.print(Text(f"{task.name} {progress_table.state(task)}: {task.message}", "red"))
            out.print(f"log: {folder / 'tasks' / name / 'stderr.log'}", highlight=False, soft_wrap=True)
    outputs = ledger_folder(record, folder)
    if outputs:
        quality = msgspec.json.decode((outputs / "ledger" / "ledger.json").read_bytes(), type=Quality)
        if quality.scorecards:
            out.print(_quality(quality.scorecards))
        out.print(Text(f"{quality.verdict}: {quality.next_action}"))
        out.print(f"report: {page(outputs, folder)}", highlight=False, soft_wrap=True)
    if release := released(record, folder):
        for line in (
            f"released: {release}",
            f"deepcuts chat {release}",
            f"deepcuts export {release} --as gguf --to FOLDER    # hf, adapter; docs/serving.md serves it",
        ):
            out.print(line, highlight=False, soft_wrap=True)


def released(record: Run, folder: Path) -> str | None:
    """Return the URI of what the run released; None where it released nothing."""
    for name, task in record.tasks.items():
        path = folder / "tasks" / name / "outputs" / "receipt"
        found = receipts.read(path).facts.get("release") if task.status == "done" and path.is_file() else None
        if isinstance(found, str) and "://" in found:
            return found
    return None


def _quality(cards: Mapping[str, Scorecard]) -> Table:
    rows = Table("quality", *cards, caption="mean with its 95 % interval over examples", caption_style="dim")
    for metric in ("answer_loss", "exact_match", "label_accuracy"):
        intervals: list[Interval | None] = [getattr(card, metric) for card in cards.values()]
        if any(intervals):
            rows.add_row(
                metric, *(f"{v.mean:.3f} [{v.low:.3f}, {v.high:.3f}]" if v else "–" for v in intervals)
            )
    return rows
