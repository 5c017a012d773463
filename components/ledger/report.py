"""Render the ledger as Markdown and as one HTML page; all names may come from data and are escaped."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from deepcuts.components.core import escape
from deepcuts.components.core.markdown import table
from deepcuts.components.ledger import charts, formatting, outcome
from deepcuts.components.ledger.charges import NO_CUT, Charge
from deepcuts.components.ledger.charts import CurvePoint
from deepcuts.components.ledger.ledger import AFTER, BEFORE, Ledger
from deepcuts.components.ledger.plans import Bound, Plan

MAX_ROWS, MAX_CUTS, MAX_CARDS = 60, 12, 24
"""Rows on the page, to keep it below 400 kB; ``ledger.jsonl`` has all."""

NOTES = (
    "A node is billed whole: cost = seconds from the start of the process to the end of the step x price of "
    "the pool. Two tasks on one node at the same time are each charged the node.",
    "Not included: node start, image pulls, pods of the orchestrator, storage, network, this ledger itself. "
    "No invoice has been compared.",
    "A step served from a cache is charged what it cost when it ran.",
    "Wasted is what attempts cost that did not end ok: an upper bound, a preempted one leaves a checkpoint.",
    "Intervals: 95\u00a0% bootstrap over examples for a model; 90\u00a0% paired for a change, whose upper "
    "end below the margin means no worse, below 0 means better.",
)


def quality(book: Ledger) -> str:
    """Format completion loss before and after, the change with its interval, and the verdict."""
    loss = {name: f"{card.completion_loss.mean:.3f}" for name, card in book.scorecards.items()}
    compared = book.comparisons.get(AFTER)
    if compared is None:
        measured = ", ".join(f"{loss[name]} {name}" for name in (BEFORE, AFTER) if name in loss)
        return f"not measured{f' (completion loss {measured})' if measured else ''}"
    low, high = map(formatting.change, (compared.low, compared.high))
    interval = f"{formatting.percent(0.9)} interval {low} to {high}"
    return (
        f"completion loss {loss[BEFORE]} → {loss[AFTER]} nats/token, "
        f"{formatting.change(compared.worse_by)} ({interval}): {book.verdict}"
    )


def cuts(rows: Sequence[Charge]) -> list[Charge]:
    """Select the attempts that applied or judged a cut and have figures to show."""
    return [row for row in rows if row.facts and (row.cut != NO_CUT or formatting.verdicts(row.facts))]


def tokens_per_second(row: Charge) -> str:
    """Format the speed of a charge; a dash if it has none."""
    if not row.quantity or not row.tokens or not row.quantity.node_seconds:
        return "–"
    return formatting.number(round(row.tokens / row.quantity.node_seconds, 1))


def environment(*folders: Path) -> Environment:
    """Load templates from ``folders``; output is escaped, and an unknown name is an error."""
    return Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        finalize=_harmless,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(
    book: Ledger,
    rows: Sequence[Charge],
    curves: Mapping[str, Sequence[CurvePoint]],
    plans: Mapping[str, Plan],
) -> str:
    """Render one page without scripts or external references, light and dark, for phone and desktop."""
    templates = environment(Path(__file__).parent)
    templates.globals |= {"formatting": formatting, "tokens_per_second": tokens_per_second, "places": places}
    return templates.get_template("report.html.jinja").render(
        book=book,
        before=book.scorecards.get(BEFORE),
        after=book.scorecards.get(AFTER),
        compared=book.comparisons.get(AFTER),
        quality=quality(book),
        rows=rows[:MAX_ROWS],
        hidden=len(rows[MAX_ROWS:]),
        cuts=outcome.cut_cards(rows)[:MAX_CARDS],
        evidence=cuts(rows)[:MAX_CUTS],
        status=outcome.status(rows, interrupted=book.interrupted),
        done=outcome.done(rows),
        repeated=outcome.repeated(rows),
        headline=outcome.headline(rows, book),
        reason=outcome.reason(rows),
        sources=outcome.sources(rows),
        period=outcome.period(rows),
        measured=outcome.quality(book),
        savings=outcome.savings(rows, book),
        next_command=outcome.next_command(rows, book),
        charts=[
            ("Loss in training and validation", charts.losses(curves)),
            ("Cost by task", charts.costs(rows)),
            ("Timeline by node pool", charts.timeline(rows)),
        ],
        memory=charts.memory(rows),
        notes=NOTES,
        plan_sentences=plan_sentences(book),
        plans=plans,
    )


def plan_sentences(book: Ledger) -> str:
    """Return a sentence each on budget, estimate against actual, and goodput; empty without training."""
    found = [budgeted(book.bound)] if book.bound else []
    if book.plan_accuracy:
        seen = book.plan_accuracy
        usd = (seen.predicted_usd_p50, seen.predicted_usd_p90, seen.actual_usd)
        low, high, actual = map(formatting.money, usd)
        found.append(
            f"{formatting.short(seen.task, 60)}: planned "
            f"{formatting.duration(seen.predicted_hours_p50 * 3600)} to "
            f"{formatting.duration(seen.predicted_hours_p90 * 3600)} and {low} to {high} (p50 to p90), took "
            f"{formatting.duration(seen.actual_hours * 3600)} and {actual}."
        )
    if book.goodput_share is not None:
        share = formatting.percent(book.goodput_share, 1)
        found.append(f"Goodput: {share} of the seconds of training tasks were steps that count.")
    return " ".join(found)


def budgeted(budget: Bound) -> str:
    """Describe how a budget was used."""
    if budget.over_usd is None:
        rest = "whether it was kept is unknown"
    elif budget.over_usd > 0:
        rest = f"{formatting.money(budget.over_usd)} more was spent"
    else:
        rest = f"{formatting.money(-budget.over_usd)} is left"
    if not budget.ended:
        return f"Budget {formatting.money(budget.budget_usd)}: {rest}; it ended nothing early."
    share = f" at {formatting.percent(budget.trained_share, 1)} of its tokens" if budget.trained_share else ""
    return (
        f"Budget {formatting.money(budget.budget_usd)}: {rest}; it ended "
        f"{formatting.short(budget.ended, 60)}{share}, "
        "so its learning rate had not fallen to 0."
    )


def markdown(book: Ledger, rows: Sequence[Charge]) -> str:
    """Render the summary for the Kubeflow UI."""
    terms = [f"{each.name} {each.before or '–'} → {each.after or '–'}" for each in outcome.quality(book)[:-1]]
    terms = terms if AFTER in book.comparisons else []
    lines = [
        f"**{outcome.status(rows, interrupted=book.interrupted).capitalize()}** · "
        f"**Quality**: {escape.markdown('; '.join([*terms, quality(book)]))} · "
        f"**Cost**: {escape.markdown(formatting.cost(book.total))} · "
        f"**Next**: {escape.markdown(formatting.short(book.next_action, 400))}",
        "",
        f"Wasted: {escape.markdown(formatting.cost(book.wasted))}. {_reused(book)}"
        f"Prices of a node-hour: {escape.markdown(prices(book))}.",
        "",
        *(f"- Saved, {each.how}: {escape.markdown(each.what)}" for each in outcome.savings(rows, book)),
        "",
    ]
    known = {"Why": outcome.reason(rows), "Done": outcome.done(rows), "Attempts": outcome.repeated(rows)}
    for name, text in known.items():
        lines += [f"{name}: {escape.markdown(formatting.short(text, 2000))}", ""] if text else []
    lines += _table(
        ["task", "attempt", "pool", "wall", "tokens", "cost", "end"],
        [
            [
                row.task,
                str(row.attempt),
                row.pool,
                formatting.unbroken(formatting.duration(row.quantity.node_seconds))
                if row.quantity
                else formatting.UNKNOWN,
                formatting.number(row.tokens) if row.tokens else "–",
                f"{formatting.UNKNOWN}: {row.unknown_because}"
                if row.usd is None
                else formatting.money(row.usd),
                row.end_reason,
            ]
            for row in rows[:MAX_ROWS]
        ],
    )
    if plan_sentences(book):
        lines += [escape.markdown(plan_sentences(book)), ""]
    if rows[MAX_ROWS:]:
        lines += [f"{len(rows[MAX_ROWS:])} more attempts are in ledger.jsonl.", ""]
    lines += _table(
        ["cut", "task", "verdict", "evidence"],
        [
            [
                row.cut,
                row.task,
                *map(_pairs, (formatting.verdicts(row.facts), formatting.evidence(row.facts))),
            ]
            for row in cuts(rows)[:MAX_CUTS]
        ],
    )
    return "\n".join([*lines, *(f"- {escape.markdown(note)}" for note in NOTES)]) + "\n"


def prices(book: Ledger) -> str:
    """List the price of every charged pool, with source and date."""
    return (
        "; ".join(
            f"{formatting.short(pool, 60)} {formatting.money(price.usd_per_hour)} "
            f"({price.source}, {price.date})"
            for pool, price in book.prices.items()
        )
        or formatting.UNKNOWN
    )


def _pairs(facts: Mapping[str, str]) -> str:
    return "; ".join(f"{label}: {text}" for label, text in facts.items()) or "–"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [table(head, [[escape.markdown(formatting.short(cell, 400)) for cell in row] for row in rows]), ""]


def places(text: str) -> Markup:
    """Escape a path, a URI or a command, allowing line breaks only after slashes."""
    return Markup(re.sub(r"(?<=[^\s/])/", "/<wbr>", escape.html(text)))


def _harmless(value: object) -> object:
    """Escape a template's output, except drawings, which are finished HTML."""
    return Markup(escape.html(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def _reused(book: Ledger) -> str:
    """Describe what a cache saved this run; empty if nothing."""
    cost = escape.markdown(formatting.cost(book.reused))
    return f"Of the cost, earlier runs paid {cost}. " if book.reused.node_seconds else ""
