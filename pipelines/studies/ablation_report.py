"""Render a study's findings as Markdown, charts, and one HTML page."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from deepcuts.components.core import escape
from deepcuts.components.core import markdown as markdown_text
from deepcuts.components.core.scorecards import Comparison
from deepcuts.components.ledger import charts, formatting
from deepcuts.components.ledger.report import environment
from deepcuts.pipelines.studies.savings import Findings, Saving, SavingsRow


def verdict(comparison: Comparison | None) -> str:
    """Return the conclusion that the 90 % interval allows."""
    if comparison is None:
        return "–"
    if comparison.high < 0:
        return "better"
    if comparison.non_inferior:
        return "no worse"
    return "worse" if comparison.low > 0 else "undecided"


def difference(comparison: Comparison | None) -> str:
    """Return ``+0.012 [−0.004, +0.028]``: positive is worse."""
    if comparison is None:
        return "–"
    low, high = formatting.change(comparison.low), formatting.change(comparison.high)
    return f"{formatting.change(comparison.worse_by)} [{low}, {high}]"


def ratio(value: float | None, bound: str = "") -> str:
    """Format a ratio; a dash if there is none."""
    return "–" if value is None else f"{bound}{value:.2f}"


def rows(findings: Findings) -> list[list[str]]:
    """Return every arm at every budget, once for each arm it is compared with."""
    return [
        [
            row.arm,
            f"{row.budget_tokens:,}",
            str(row.seeds),
            f"{row.loss:.3f}" + ("" if row.loss_sd is None else f" ± {row.loss_sd:.3f}"),
            other,
            difference(comparison),
            verdict(comparison),
            f"{row.cost.train_cpu_seconds:,.0f}",
            f"{row.cost.cpu_seconds:,.0f}",
            formatting.money(row.cost.usd),
        ]
        for row in findings.rows
        for other, comparison in (row.comparisons or {"–": None}).items()
    ]


REFUSED = {"worse": "worse than", "undecided": "undecided against"}
"""Sentences for verdicts other than non-inferior."""
CANDIDATE = "candidate"
"""accept's verdict on the trained model against its base, which is not a cut."""
ROWS = [
    "arm",
    "trained tokens",
    "seeds",
    "completion loss ± sd",
    "against",
    "worse by [90 %]",
    "verdict",
    "training CPU-s",
    "all CPU-s",
    "$",
]
SAVINGS = ["arm", "smallest budget", "worse by [90 %]", "training", "all CPU-s", "$"]


def savings(findings: Findings) -> list[list[str]]:
    """Tabulate the cost to the reference's quality; a ratio above 1 saves."""
    return [
        [
            saving.arm,
            ("" if saving.reached else "not by ") + f"{saving.budget_tokens:,}",
            difference(saving.comparison),
            *(
                ratio(value, "" if saving.reached else "< ")
                for value in (saving.train_ratio, saving.cpu_ratio, saving.usd_ratio)
            ),
        ]
        for saving in findings.savings
    ]


def refusals(findings: Findings) -> list[str]:
    """List the arms that lost quality or never reached it, each with its figure."""
    lines = [
        f"{row.arm} at {row.budget_tokens:,} tokens: "
        f"{REFUSED[verdict(comparison)]} {other}, {difference(comparison)} nats"
        for row in findings.rows
        for other, comparison in row.comparisons.items()
        if comparison and not comparison.non_inferior
    ]
    return lines + [
        f"{saving.arm}: the reference's quality at no budget up to {saving.budget_tokens:,} tokens"
        for saving in findings.savings
        if not saving.reached
    ]


def said(findings: Findings) -> list[str]:
    """Return the steps' verdicts on their cuts, each once, with the arms in which it occurred."""
    arms: dict[str, dict[str, None]] = {}
    for row in findings.rows:
        for cut, text in row.cost.verdicts.items():
            if cut != CANDIDATE and text != "off":
                arms.setdefault(f"{cut}: {text}", {})[row.arm] = None
    return [f"{text} ({', '.join(names)})" for text, names in sorted(arms.items())]


def headline(findings: Findings) -> str:
    """Summarise what all accepted cuts save together, and what the single ones predict."""
    if findings.predicted_ratio is None:
        return ""
    promised = f"Single cuts multiply to {ratio(findings.predicted_ratio)} times less training cost"
    if findings.joint_ratio is None:
        return f"{promised}; together they never reach the reference's quality."
    text = f"{promised}; together they give {ratio(findings.joint_ratio)}"
    if findings.naive_ratio is None:
        return f"{text}."
    bound = "" if findings.naive_reached else "more than "
    return f"{text}, and {bound}{ratio(findings.naive_ratio)} against the naive arm."


def conditions(findings: Findings) -> str:
    """Describe the conditions under which the figures hold."""
    return (
        f"Non-inferior within {findings.margin_nats} nats: upper end of the 90 % interval, paired, seeds and "
        "examples both resampled. Cost: every task of the run, including cached ones in full, and the "
        "search for its settings. Ratios: the reference's cost / the arm's, so above 1 saves. Serving "
        "is not included."
    )


def markdown(findings: Findings) -> str:
    """Return the tables for a README or an issue."""
    parts = [f"# {escape.markdown(findings.question)}", table(ROWS, rows(findings))]
    if findings.savings:
        parts += ["## Cost to the reference's quality", table(SAVINGS, savings(findings))]
        parts += [headline(findings)]
    for title, lines in lists(findings).items():
        parts += [f"## {title}", "\n".join(f"- {escape.markdown(line)}" for line in lines)] if lines else []
    if findings.missing:
        parts += [f"Not included, because they failed: {escape.markdown(', '.join(findings.missing))}."]
    return "\n\n".join(part for part in [*parts, conditions(findings)] if part) + "\n"


def lists(findings: Findings) -> dict[str, list[str]]:
    """Return the lines below the tables, by title."""
    return {"Refused, and why": refusals(findings), "What the steps said": said(findings)}


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with untrusted text in its cells."""
    escaped = [[escape.markdown(cell) for cell in line] for line in (head, *body)]
    return markdown_text.table(escaped[0], escaped[1:])


def page(findings: Findings) -> str:
    """Return one page without scripts or external references."""
    here = Path(__file__).parent
    template = environment(here, Path(charts.__file__).parent).get_template("ablation.html.jinja")
    return template.render(
        findings=findings,
        tables=[
            ("Arms", ROWS, rows(findings)),
            ("Cost to the reference's quality", SAVINGS, savings(findings)),
        ],
        charts=[
            ("Cost against quality", quality(findings.rows)),
            ("Saved at equal quality", saved(findings.savings)),
        ],
        headline=headline(findings),
        lists=lists(findings),
        conditions=conditions(findings),
    )


def quality(found: Sequence[SavingsRow]) -> Markup:
    """Draw all arms: CPU-seconds of training against completion loss, with one standard deviation."""
    arms = list(dict.fromkeys(row.arm for row in found))
    with rc_context(charts.STYLE | {"svg.hashsalt": "quality"}):
        figure = Figure(figsize=(charts.WIDTH / 72, 290 / 72))
        axes = figure.subplots()
        for number, arm in enumerate(arms):
            mine = [row for row in found if row.arm == arm and row.cost.train_cpu_seconds]
            if not mine:
                continue  # an untrained model has no training cost
            colour = charts.SERIES[number % len(charts.SERIES)]
            where = [row.cost.train_cpu_seconds for row in mine], [row.loss for row in mine]
            axes.errorbar(*where, yerr=[row.loss_sd or 0.0 for row in mine], color=colour, marker="o", ms=3)
            label = formatting.short(arm, charts.NAME)
            axes.annotate(label, (where[0][-1], where[1][-1]), xytext=(4, 2), textcoords="offset points")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,g}")  # its own are powers in TeX, which the style does not set
        axes.xaxis.set_minor_formatter("")
        axes.set_xlabel("training, CPU-seconds")
        axes.set_ylabel("completion loss, nats per token")
        return charts.svg(figure, {}, "Training cost against completion loss, all arms")


def saved(found: Sequence[Saving]) -> Markup:
    """Draw how many times less training costs at the reference's quality; empty if no arm reached it."""
    reached = [saving for saving in found if saving.reached and saving.train_ratio is not None]
    if not reached:
        return Markup()
    with rc_context(charts.STYLE | {"svg.hashsalt": "saved"}):
        figure = Figure(figsize=(charts.WIDTH / 72, (charts.MARGIN + charts.ROW * len(reached)) / 72))
        axes = figure.subplots()
        axes.barh(range(len(reached)), [s.train_ratio or 0.0 for s in reached], color=charts.SERIES[0])
        axes.axvline(1, color=charts.INK, linewidth=1)
        axes.set_yticks(range(len(reached)), [formatting.short(s.arm, charts.NAME) for s in reached])
        axes.set_ylim(len(reached) - 0.4, -0.6)
        axes.set_xlabel("reference's training cost / this arm's")
        return charts.svg(figure, {}, "Saved training cost at equal quality")
