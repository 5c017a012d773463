"""Show a run on the screen: a live table in a terminal, plain lines elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deepcuts.components.core import clock, pricing, receipts
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.ledger import formatting
from deepcuts.components.ledger.ledger import Ledger
from deepcuts.components.plan.forecast import BEGINNING
from deepcuts.pipelines.command.screen import Level
from deepcuts.pipelines.runner import run_record
from deepcuts.pipelines.runner.run_record import RunRecord, TaskRecord

COLOURS = {"running": "cyan", "done": "green", "failed": "red", "interrupted": "yellow", "skipped": "dim"}
QUIET_SECONDS = 10.0
"""Shortest time between plain progress lines of a task."""
CAPTION = "$: what these seconds would cost on the pool a task is placed on; this machine is not that pool"


def usd(seconds: float, pool: NodePool | None) -> float | None:
    """Return the cost of ``seconds`` on a node of ``pool``; None without a price, but 0 for 0 seconds."""
    if seconds == 0:
        return 0.0
    return pricing.usd(seconds, pool.usd_per_hour if pool else None)


def total(costs: list[float | None]) -> str:
    """Return the sum of known costs, and the number of tasks without one."""
    known = [cost for cost in costs if cost is not None]
    if not known:
        return formatting.UNKNOWN
    unknown = len(costs) - len(known)
    return (
        f"at least {formatting.money(sum(known))}, {unknown} unknown"
        if unknown
        else formatting.money(sum(known))
    )


def state(task: TaskRecord) -> str:
    """Return ``done``, ``cached``, ``failed (exit 3)`` or another status."""
    if task.status == "done" and task.cached:
        return "cached"
    return f"{task.status} (exit {task.exit_code})" if task.status == "failed" else task.status


def costs(run: RunRecord, pools: Mapping[str, NodePool]) -> dict[str, float | None]:
    """Return each task's cost so far; None if the price is unknown."""
    return {name: usd(task.seconds, pools.get(task.pool)) for name, task in run.tasks.items()}


def table(run: RunRecord, folder: Path, pools: Mapping[str, NodePool]) -> Table:
    """Return the current state of a run's tasks, with their progress."""
    rows = Table("task", "pool", "status", "seconds", "$", "", caption=CAPTION, caption_style="dim", box=None)
    spent = costs(run, pools)
    for name, task in run.tasks.items():
        news = run_record.news(folder / "tasks" / name)
        news = news if task.status == "running" or BEGINNING in news else ""
        rows.add_row(
            task.name,
            task.pool,
            Text(state(task), COLOURS.get(task.status, "")),
            f"{task.seconds:.1f}",
            formatting.money(spent[name]),
            Text(news or task.message, overflow="ellipsis", no_wrap=True),
        )
    rows.add_row("", "", "", "", total(list(spent.values())), "")
    return rows


def summary(run: RunRecord, folder: Path, pools: Mapping[str, NodePool], book: Ledger | None = None) -> Table:
    """Return the tasks of a finished run with peak memory; the total is the ledger's."""
    rows = Table(
        "task", "pool", "status", "seconds", "peak memory", "$", caption=CAPTION, caption_style="dim"
    )
    spent = costs(run, pools)
    for name, task in run.tasks.items():
        path = folder / "tasks" / name / "receipt.json"
        peak = receipts.read(path).peak_resident_bytes if path.exists() else 0
        cells = [f"{task.seconds:.1f}", formatting.size(peak) if peak else "–", formatting.money(spent[name])]
        rows.add_row(task.name, task.pool, Text(state(task), COLOURS.get(task.status, "")), *cells)
    seconds = sum(task.seconds for task in run.tasks.values())
    rows.add_section()
    if not book:
        rows.add_row("total", "", "", f"{seconds:.1f}", "", total(list(spent.values())))
        return rows
    counted = book.total.node_seconds
    rows.add_row("total in the ledger", "", "", f"{counted:.1f}", "", formatting.cost(book.total))
    if book.reused.node_seconds:
        rows.caption = f"{CAPTION}; earlier runs paid {formatting.cost(book.reused)} of the total"
    elif seconds > counted:  # processes start, and the runner hashes and caches what they leave
        rows.caption = f"{CAPTION}; the ledger counts {seconds - counted:.1f} s less: starts and caching"
    return rows


class Board:
    """Shows a running run; call it with the run after every change."""

    def __init__(
        self,
        console: Console,
        folder: Path,
        pools: Mapping[str, NodePool],
        level: Level = Level.normal,
    ) -> None:
        self._console, self._folder, self._pools, self._level = console, folder, pools, level
        drawn = console.is_terminal and level is Level.normal
        self._live = Live(console=console, auto_refresh=False, transient=True) if drawn else None
        self._shown: dict[str, tuple[str, str]] = {}
        self._read: dict[str, int] = {}
        self._spoke: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, run: RunRecord) -> None:
        if self._live:
            self._live.update(table(run, self._folder, self._pools), refresh=True)
        elif self._level is not Level.quiet:
            self._lines(run)
        if self._level is Level.verbose:
            self._logs(run)

    def _logs(self, run: RunRecord) -> None:
        """Print new lines of the tasks' logs."""
        for name, task in run.tasks.items():
            path = self._folder / "tasks" / name / "stderr.log"
            if not path.exists():
                continue
            with path.open("rb") as log:
                log.seek(self._read.get(name, 0))
                new = log.read()
            whole = new[: max(new.rfind(b"\n"), new.rfind(b"\r")) + 1]  # an incomplete line waits
            self._read[name] = self._read.get(name, 0) + len(whole)
            for line in whole.decode(errors="replace").replace("\r", "\n").splitlines():
                if line.strip():
                    self._console.print(Text(f"{task.name} | {line.rstrip()}"), soft_wrap=True)

    def _lines(self, run: RunRecord) -> None:
        now = clock.local()
        for name, task in run.tasks.items():
            status, said = self._shown.get(name, ("waiting", ""))
            news = run_record.news(self._folder / "tasks" / name)
            quiet = now.timestamp() - self._spoke.get(name, 0.0) < QUIET_SECONDS
            if state(task) == status and (task.status != "running" or news == said or quiet):
                continue
            self._shown[name], self._spoke[name] = (state(task), news), now.timestamp()
            cost = formatting.money(usd(task.seconds, self._pools.get(task.pool)))
            text = news if task.status == "running" or BEGINNING in news else task.message
            line = (
                f"{now:%H:%M:%S} {task.name} [{task.pool}] {state(task)} {task.seconds:.1f} s {cost} {text}"
            )
            self._console.print(Text(line.rstrip()), soft_wrap=True)
