"""Print the conclusion of a run."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.text import Text

from deepcuts.components.core import nodepools, receipts
from deepcuts.components.core.former_names import current
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.strict import MALFORMED
from deepcuts.components.ledger import charges, formatting, outcome
from deepcuts.components.ledger.charges import Charge
from deepcuts.components.ledger.ledger import Ledger
from deepcuts.pipelines import pools
from deepcuts.pipelines.command import progress_table
from deepcuts.pipelines.command.options import out
from deepcuts.pipelines.command.screen import Level
from deepcuts.pipelines.runner.run_record import RunRecord

PROGRESS = re.compile(r"(\d+%  [\d,]+ of [\d,]+ [a-z ]*[a-z]|\w+: part \d+ of \d+)")
"""How training and scoring say how far they are, and a chain which of its steps it runs."""
ONE_LINE = 160
COLOURS = {
    "released": "green",
    "refused": "red",
    "failed": "red",
    "interrupted": "yellow",
    "nothing released": "yellow",
    "applied": "green",
}


def pools_of(arguments: Mapping[str, Any]) -> dict[str, NodePool]:
    """Return the node pools given to a run, else the current ones."""
    given = arguments.get("nodepools")
    return nodepools.parse(given) if given else pools.read()


def ledger_folder(record: RunRecord, folder: Path) -> Path | None:
    """Return the folder of the run's ledger."""
    for name, task in record.tasks.items():
        if task.step == "ledger" and task.status == "done":
            return folder / "tasks" / name / "outputs"
    return None


def page(outputs: Path, folder: Path) -> Path:
    """Return the report under a name that a browser opens as a page."""
    return shutil.copyfile(outputs / "report", folder / "report.html")


def conclude(record: RunRecord, folder: Path, pools: Mapping[str, NodePool]) -> None:
    """Print the result of a run: tasks, failures, release, cuts, cost, answers, and the next command."""
    outputs = ledger_folder(record, folder)
    book = read_ledger(outputs) if outputs else None
    if out.level is not Level.quiet:
        out.print(progress_table.summary(record, folder, pools, book))
    for name, task in record.tasks.items():
        if task.status == "failed":
            out.print(Text(f"{task.name} {progress_table.state(task)}: {why(task.message)}", "red"))
            out.print(f"log: {folder / 'tasks' / name / 'stderr.log'}", highlight=False, soft_wrap=True)
    if record.status == "interrupted":
        out.print(Text(interruption(record), "yellow"), soft_wrap=True)
        if outputs and book:
            cost = f"cost so far: {formatting.cost(book.total)} by price list"
            out.print(f"{cost}; report: {page(outputs, folder)}", highlight=False, soft_wrap=True)
        return
    if outputs and book:
        for line in lines(charges.read(outputs / "ledger" / "ledger.jsonl"), book):
            out.print(line, highlight=False, soft_wrap=True)
        out.print(f"report: {page(outputs, folder)}", highlight=False, soft_wrap=True)
    if release := released(record, folder):
        if not book:  # which says both itself
            out.print(Text(f"released: {release}"), soft_wrap=True)
            out.print(Text(f"deepcuts chat {release}"), soft_wrap=True)
        export = f"deepcuts export {release} --as gguf --to FOLDER"
        out.print(Text(f"{export}    # hf, adapter; docs/serving.md serves it"), soft_wrap=True)


def released(record: RunRecord, folder: Path) -> str | None:
    """Return the URI of the run's release; None if it released nothing."""
    for name, task in record.tasks.items():
        path = folder / "tasks" / name / "outputs" / "receipt"
        found = receipts.read(path).facts.get("release") if task.status == "done" and path.is_file() else None
        if isinstance(found, str) and "://" in found:
            return found
    return None


def interruption(record: RunRecord) -> str:
    """Tell in one line where a run stopped and what to do."""
    stopped = [
        f"{task.name}{_progress(task.message)}"
        for task in record.tasks.values()
        if task.status == "interrupted"
    ]
    where = f" in {', '.join(stopped)}" if stopped else ""
    return f"interrupted{where}: run the same command to resume"


def why(message: str) -> str:
    """Return what the last lines of a task's log say, without how far it was."""
    said = [line for line in message.splitlines() if not PROGRESS.match(line)]
    return "\n".join(said) or message


def _progress(message: str) -> str:
    """Return the last ``36%  161,425 of 447,633 tokens`` of a task's log, in brackets."""
    found = PROGRESS.findall(message)
    return f" ({' '.join(found[-1].split())})" if found else ""


def read_ledger(outputs: Path) -> Ledger | None:
    """Read the ledger of a run; None if another version wrote it."""
    try:
        return msgspec.json.decode(current((outputs / "ledger" / "ledger.json").read_bytes()), type=Ledger)
    except MALFORMED:
        return None


def lines(rows: Sequence[Charge], book: Ledger) -> list[Text]:
    """Return the outcome of a run: release, quality, cuts, cost, savings, two answers, the next command."""
    ended = outcome.status(rows, interrupted=book.interrupted)
    colour = COLOURS[ended]
    said = [Text(outcome.headline(rows, book), f"bold {colour}")]
    if repeated := outcome.repeated(rows):
        said.append(Text(f"attempts: {repeated}"))
    said += [Text(length) for length in outcome.lengths(rows)]
    for measured in outcome.quality(book):
        interval = f"  (95\u00a0% interval {measured.range})" if measured.range else ""
        said.append(Text(f"{measured.name}: {measured.before or '–'} -> {measured.after or '–'}{interval}"))
    said.append(Text(f"against before: {book.verdict}"))
    for card in outcome.cut_cards(rows):
        if card.outcome != "off":
            text = f"{card.name}: {formatting.short(card.reason, ONE_LINE)}"
            said.append(Text.assemble((f"{card.outcome:8}", COLOURS[card.outcome]), " ", text))
    if off := sorted({card.name for card in outcome.cut_cards(rows) if card.outcome == "off"}):
        said.append(Text(f"off      {', '.join(off)}", "dim"))
    wasted = f", {formatting.cost(book.wasted)} of it wasted" if book.wasted.node_seconds else ""
    said.append(Text(f"cost: {formatting.cost(book.total)} by price list, not this machine's{wasted}"))
    said += [Text(f"saved, {each.how}: {each.what}") for each in outcome.savings(rows, book)]
    for each in book.samples[:2]:
        said.append(Text(f"asked:  {formatting.short(each.question, ONE_LINE)}"))
        said += [
            Text(f"  {name:7}{formatting.short(answer, ONE_LINE) or '(nothing)'}")
            for name, answer in each.said.items()
        ]
    if ended == "nothing released":  # else the first line says it
        said.append(Text(f"{book.verdict}: {book.next_action}"))
    said.append(Text(f"next: {outcome.next_command(rows, book)}", "bold"))
    return said
