"""Draw charts as inline SVG, without scripts or external references, in the page's colours."""

import datetime
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from deepcuts.components.ledger.charges import Charge
from deepcuts.components.ledger.formatting import duration, short

WIDTH, ROW, MARGIN = 330, 20, 66
"""Points. A phone shows them about 1:1, a desktop in two columns at 1.5:1, so text of 11 is readable on
both."""
INK, LINE = "#000001", "#000002"
SERIES = ["#000011", "#000012", "#000013", "#000014", "#000015", "#000016"]
CSS = {INK: "currentColor", LINE: "var(--line)"} | {c: f"var(--series-{i})" for i, c in enumerate(SERIES)}
"""Placeholder colours, replaced in the finished SVG because the page decides on light or dark later."""
FONT = "font-family: 'DejaVu Sans'; "
"""Font for measuring text; the page's own font is drawn."""
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "text.parse_math": False,  # a dollar sign is just a dollar sign
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
WATCHED = "watch"
"""Name of the curve of scored checkpoints."""
MAX_BARS, MAX_POINTS, NAME = 30, 200, 18


class CurvePoint(msgspec.Struct, frozen=True):
    tokens: float
    """Trained tokens so far."""
    loss: float | None
    """Training loss in nats per answer token; null if it was not finite."""


def timeline(rows: Sequence[Charge]) -> Markup:
    """Draw one bar per attempt, grouped and coloured by pool, idle time cut; empty if nothing was timed."""
    timed = sorted(_longest(rows), key=lambda row: (row.pool, row.start or ""))
    if not timed:
        return Markup()
    colours = _colours(row.pool for row in timed)
    spans = [(_epoch(row.start or ""), _epoch(row.end or "")) for row in timed]
    lefts, folds = fold(spans)
    ends = [left + end - start for left, (start, end) in zip(lefts, spans, strict=True)]
    unit, scale = _time_unit(max(ends))
    with rc_context(STYLE | {"svg.hashsalt": "timeline"}):
        figure, axes = _bars(timed)
        for y, (row, (start, end), left) in enumerate(zip(timed, spans, lefts, strict=True)):
            alpha = 1.0 if row.end_reason == "ok" else 0.45
            axes.barh(y, (end - start) / scale, left=left / scale, color=colours[row.pool], alpha=alpha)
        for position, gap in folds:
            axes.axvline(position / scale, color=INK, linestyle=":", linewidth=1)
            where: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center"}
            axes.text(position / scale, 1, f"+{duration(gap)}", **where)
        axes.set_xlabel(f"{unit}; faded: did not end ok")
        return svg(figure, colours, "Timeline of the tasks by node pool")


def costs(rows: Sequence[Charge]) -> Markup:
    """Draw what each attempt cost, by node pool; empty if no price is known."""
    priced = [row for row in _longest(rows) if row.usd]
    if not priced:
        return Markup()
    colours = _colours(row.pool for row in priced)
    with rc_context(STYLE | {"svg.hashsalt": "costs"}):
        figure, axes = _bars(priced)
        for y, row in enumerate(priced):
            axes.barh(y, row.usd or 0, color=colours[row.pool])
        axes.set_xlabel("cost by price list, $")
        return svg(figure, colours, "Cost of the tasks by node pool")


def memory(rows: Sequence[Charge]) -> Markup:
    """Draw peak resident and device memory of each attempt; empty if nothing was measured."""
    measured = _longest(rows)
    if not measured:
        return Markup()
    resident = [row.quantity.peak_resident_bytes for row in measured if row.quantity]
    device = [row.quantity.peak_device_bytes for row in measured if row.quantity]
    kinds = {"resident": resident, "device": device} if any(device) else {"resident": resident}
    colours = _colours(kinds)
    unit, scale = ("GiB", 2**30) if max(resident + device) >= 2**30 else ("MiB", 2**20)
    height = 0.8 / len(kinds)
    with rc_context(STYLE | {"svg.hashsalt": "memory"}):
        figure, axes = _bars(measured)
        for i, (kind, values) in enumerate(kinds.items()):
            places = np.arange(len(values)) - 0.4 + height * (i + 0.5)
            axes.barh(places, np.array(values) / scale, height=height, color=colours[kind])
        axes.set_xlabel(f"peak memory, {unit}")
        return svg(figure, colours, "Peak memory by task")


def losses(curves: Mapping[str, Sequence[CurvePoint]]) -> Markup:
    """Draw loss against trained tokens, from training and the watcher; empty without points."""
    named = {
        f"{WATCHED} (validation)" if name == WATCHED else name: points for name, points in curves.items()
    }
    drawn = {name: points for name, points in list(named.items())[: len(SERIES)] if points}
    if not drawn:
        return Markup()
    colours = _colours(drawn)
    with rc_context(STYLE | {"svg.hashsalt": "losses"}):
        figure = Figure(figsize=(WIDTH / 72, 230 / 72))
        axes = figure.subplots()
        for name, points in drawn.items():
            tokens, loss = thin(points)
            axes.plot(tokens, loss, color=colours[name], marker="o" if len(tokens) == 1 else "")
        axes.xaxis.set_major_formatter(lambda value, _: _short_count(value))
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("trained tokens")
        axes.set_ylabel("loss, nats per answer token")
        return svg(figure, colours, "Loss against trained tokens")


def trade(points: Mapping[str, tuple[float, float]]) -> Markup:
    """Draw the loss of runs against their cost; empty if no run has both."""
    if not points:
        return Markup()
    colours = {name: SERIES[i % len(SERIES)] for i, name in enumerate(list(points)[: len(SERIES)])}
    with rc_context(STYLE | {"svg.hashsalt": "trade"}):
        figure = Figure(figsize=(WIDTH / 72, 230 / 72))
        axes = figure.subplots()
        for name, (usd, loss) in points.items():
            axes.plot([usd], [loss], color=colours.get(name, INK), marker="o", markersize=9)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("cost by price list, $; left is cheaper")
        axes.set_ylabel("completion loss; low is good")
        return svg(figure, colours, "Completion loss against cost by run", columns=1)


def fold(spans: Sequence[tuple[float, float]]) -> tuple[list[float], list[tuple[float, float]]]:
    """Return the new start of each (start, end) with long idle time cut, and each cut (position, seconds).

    A step served from a cache ran hours or days before the others, which would be too thin on a true scale.
    """
    busy = sum(end - start for start, end in spans)
    lefts, folds = [0.0] * len(spans), []
    origin = reached = min(start for start, _ in spans)
    for i in sorted(range(len(spans)), key=lambda i: spans[i]):
        start, end = spans[i]
        gap = start - reached
        if gap > max(busy, 1.0):
            origin += gap
            folds.append((start - origin, gap))
        lefts[i] = start - origin
        reached = max(reached, end)
    return lefts, folds


def thin(points: Sequence[CurvePoint]) -> tuple[list[float], list[float]]:
    """Return (tokens, loss), at most MAX_POINTS each: means of equal runs. A null loss is a gap."""
    tokens = np.array([point.tokens for point in points])
    loss = np.array([np.nan if point.loss is None else point.loss for point in points])
    parts = min(MAX_POINTS, len(points))
    return (
        [float(part.mean()) for part in np.array_split(tokens, parts)],
        [float(part.mean()) for part in np.array_split(loss, parts)],
    )


def _longest(rows: Sequence[Charge]) -> list[Charge]:
    """Select the measured attempts, the longest ones if there are many, in their order."""
    seconds = {i: row.quantity.node_seconds for i, row in enumerate(rows) if row.quantity}
    return [rows[i] for i in sorted(sorted(seconds, key=lambda i: -seconds[i])[:MAX_BARS])]


def _epoch(time: str) -> float:
    return datetime.datetime.fromisoformat(time).timestamp()


def _time_unit(seconds: float) -> tuple[str, float]:
    return ("hours", 3600) if seconds > 7200 else ("minutes", 60) if seconds > 300 else ("seconds", 1)


def _colours(names: Iterable[str]) -> dict[str, str]:
    return {name: SERIES[i % len(SERIES)] for i, name in enumerate(dict.fromkeys(names))}


def _short_count(value: float) -> str:
    for scale, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= scale:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.3g}"


def _bars(rows: Sequence[Charge]) -> tuple[Figure, Axes]:
    """Draw axes for one horizontal bar per row, first row on top."""
    figure = Figure(figsize=(WIDTH / 72, (MARGIN + ROW * len(rows)) / 72))
    axes = figure.subplots()
    names = [short(row.task, NAME) + (f" #{row.attempt}" if row.attempt > 1 else "") for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.locator_params(axis="x", nbins=5)
    return figure, axes


def svg(figure: Figure, colours: Mapping[str, str], title: str, columns: int = 2) -> Markup:
    """Return the finished figure: legend on top, theme colours, no external references."""
    handles = [Patch(color=colour, label=short(name, 2 * NAME)) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True)
    text = out.getvalue().replace(FONT, "")
    text = text[text.index("<g id=") :]  # drops doctype, namespaces and metadata, which contain external URLs
    text = re.sub('<g id="[^"]*"', "<g", text)  # matplotlib numbers them from 1 in each chart
    text = re.sub(r"(fill|stroke): (#0000\d\d)", lambda match: f"{match[1]}: {CSS[match[2]]}", text)
    width, height = (side * 72 for side in figure.get_size_inches())
    head = Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">').format(width, height, title)
    return head + Markup(text)
