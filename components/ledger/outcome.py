"""Summarise the outcome of a run for the top of its report and the terminal, from its charges."""

import math
import shlex
from collections.abc import Sequence
from typing import Literal, NamedTuple
from urllib.parse import unquote

from deepcuts.components.core import epochs, step_facts, verdicts
from deepcuts.components.core.run_records import CHAIN
from deepcuts.components.core.scorecards import Interval, Scorecard
from deepcuts.components.core.step_facts import (
    LengthFacts,
    ReleaseFacts,
    SavedFacts,
    SelectFacts,
    SourceFacts,
)
from deepcuts.components.core.verdicts import Outcome
from deepcuts.components.ledger import formatting
from deepcuts.components.ledger.charges import Charge
from deepcuts.components.ledger.ledger import AFTER, BEFORE, RESUME, Ledger, bad_ends, last_ends, name_of

RunOutcome = Literal["released", "refused", "failed", "interrupted", "nothing released"]
INTERRUPTED = ("preempted", "no receipt")
NAMES = {
    "candidate": "quality gate",
    "checkpointing": "activation checkpointing",
    "lora": "LoRA",
    "plan": "right-sizing",
    "select": "data selection",
    "tune": "search",
    "warmstart": "warm start",
}
ORDER: tuple[Outcome, ...] = ("applied", "refused", "off")
TERMS = {"label_accuracy": "label accuracy", "exact_match": "exact match"}
"""Measures in a task's own terms, most informative first; perplexity if none was requested."""


class CutCard(NamedTuple):
    """Outcome of one cut in one task."""

    cut: str
    outcome: Outcome
    reason: str
    row: Charge

    @property
    def name(self) -> str:
        """Return the cut's common name."""
        return NAMES.get(self.cut, self.cut)


class Measured(NamedTuple):
    """One measure before and after; None if it was not taken."""

    name: str
    before: str | None
    after: str | None
    range: str
    """The 95 % interval of the last value."""


class SavingLine(NamedTuple):
    what: str
    how: Literal["measured here", "from the study", "not known"]
    saves: bool = True


def status(rows: Sequence[Charge], *, interrupted: bool = False) -> RunOutcome:
    """Return how a run ended, by the last attempt of each task, unless it was ``interrupted``."""
    if interrupted:
        return "interrupted"
    bad = bad_ends(rows)
    if any(row.end_reason == "gate" for row in bad):
        return "refused"
    if [row for row in bad if row.end_reason not in INTERRUPTED]:
        return "failed"
    if bad:
        return "interrupted"
    return "released" if release(rows) else "nothing released"


def release(rows: Sequence[Charge]) -> ReleaseFacts | None:
    """Return what was released, and where."""
    found = [step_facts.read(ReleaseFacts, row.facts) for row in rows if row.step == "publish"]
    return next((each for each in found if each), None)


def release_name(uri: str) -> str:
    """Return NAME of ``…/releases/NAME/VERSION``."""
    return uri.rstrip("/").split("/")[-2] if uri.count("/") > 1 else uri


def store_of(uri: str) -> str:
    """Return the URI of a release's store."""
    return uri.rpartition("/releases/")[0]


def headline(rows: Sequence[Charge], book: Ledger) -> str:
    """Summarise the outcome in one sentence."""
    match status(rows, interrupted=book.interrupted):
        case "released":
            made = release(rows)
            assert made
            where = unquote(made.release.removeprefix("file://"))
            return f"Released {release_name(made.release)}, {formatting.size(made.bytes)}, at {where}"
        case "refused":
            return f"Refused: {book.next_action}"
        case "failed":
            return f"Failed: {book.next_action}"
        case "interrupted":
            stopped = ", ".join(in_words(name_of(row)) for row in bad_ends(rows))
            return f"Interrupted{f' in {stopped}' if stopped else ''}: {book.next_action}"
        case _:
            return "Nothing was released"


def reason(rows: Sequence[Charge]) -> str:
    """Return what the first task that did not end well said; empty where all did."""
    return next((row.message for row in bad_ends(rows) if row.message), "")


def next_command(rows: Sequence[Charge], book: Ledger) -> str:
    """Return the command to type next."""
    made, ended = release(rows), status(rows, interrupted=book.interrupted)
    if ended == "released" and made:
        if made.release.startswith("file://"):
            return f"deepcuts chat {shlex.quote(unquote(made.release.removeprefix('file://')))}"
        return f"deepcuts chat {release_name(made.release)} --store {store_of(made.release)}"
    if ended == "interrupted":
        return RESUME
    return "the same command again, once that is done: it resumes"


def in_words(task: str) -> str:
    """Return a task's name as people write it."""
    return task.replace("_", " ")


def done(rows: Sequence[Charge]) -> str:
    """List the tasks that ended well in a run that did not: what a rerun takes from the cache."""
    if release(rows) and not bad_ends(rows):
        return ""
    return ", ".join(
        in_words(row.task) for row in last_ends(rows) if row.step != CHAIN and row.end_reason == "ok"
    )


def repeated(rows: Sequence[Charge]) -> str:
    """Return the ends of the attempts of each task that needed several: ``finetune: preempted, ok``."""
    ends: dict[str, dict[int, str]] = {}
    for row in rows:
        if row.step != CHAIN:  # trials of a search are first attempts of one task
            ends.setdefault(row.task, {})[row.attempt] = row.end_reason
    several = {task: ", ".join(found.values()) for task, found in ends.items() if len(found) > 1}
    return "; ".join(f"{in_words(task)}: {found}" for task, found in several.items())


def sources(rows: Sequence[Charge]) -> tuple[str, str]:
    """Return (model, data) that the run started from; a dash if there is none."""
    found = [(row, facts) for row in rows if (facts := step_facts.read(SourceFacts, row.facts))]
    data = [facts.source for row, facts in found if "rows" in row.facts or "data" in row.task]
    models = [facts.source for _, facts in found if facts.source not in data]
    return _shown(models), _shown(data)


def _shown(names: Sequence[str]) -> str:
    return unquote(names[0].removeprefix("file://")) if names else "–"


def period(rows: Sequence[Charge]) -> str:
    """Return the start of a run's first task in UTC."""
    begun = sorted(row.start for row in rows if row.start and not row.reused) or sorted(
        row.start for row in rows if row.start
    )
    return f"{begun[0][:16].replace('T', ' ')} UTC" if begun else "–"


def lengths(rows: Sequence[Charge]) -> list[str]:
    """Return ``finetune trained 450,000 tokens = 12.3 epochs`` of each task that trains.

    Epochs are of what select kept, where it ran: a curriculum repeats rows to the length of the run.
    """
    own = [row for row in rows if row.step != CHAIN]  # a chain's facts mix those of its steps
    chosen = [step_facts.read(SelectFacts, row.facts) for row in own if row.step == "select"]
    kept = [found.tokens for found in chosen if found]
    trained = {row.task: found for row in own if (found := step_facts.read(LengthFacts, row.facts))}
    return [
        f"{task} trained {epochs.in_words(found.total_tokens, kept[-1] if kept else found.data_tokens)}"
        for task, found in trained.items()
    ]


def quality(book: Ledger) -> list[Measured]:
    """Return quality measures, the task's own first and the loss last."""
    before, after = book.scorecards.get(BEFORE), book.scorecards.get(AFTER)
    found = [_share(words, before, after, name) for name, words in TERMS.items()]
    if not any(found):
        cards = (before, after)
        shown = [formatting.number(card.perplexity) if card else None for card in cards]
        found.append(Measured("perplexity", shown[0], shown[1], _perplexities(after or before)))
    losses = [card.completion_loss if card else None for card in (before, after)]
    loss = [formatting.nats(interval.mean) if interval else None for interval in losses]
    last = losses[1] or losses[0]
    found.append(
        Measured("completion loss", loss[0], loss[1], f"{last.low:.3f} to {last.high:.3f}" if last else "")
    )
    return [each for each in found if each and (each.before or each.after)]


def _perplexities(card: Scorecard | None) -> str:
    """Return the interval of a perplexity, the exponential of the loss's: it rises with the loss."""
    if not card or not card.completion_loss:
        return ""
    low, high = (
        formatting.number(math.exp(min(nats, 700.0)))
        for nats in (card.completion_loss.low, card.completion_loss.high)
    )
    return f"{low} to {high}"


def _share(words: str, before: Scorecard | None, after: Scorecard | None, name: str) -> Measured | None:
    shares: list[Interval | None] = [getattr(card, name) if card else None for card in (before, after)]
    last = shares[1] or shares[0]
    if not last:
        return None
    shown = [formatting.tenths(share.mean) if share else None for share in shares]
    low, high = (formatting.tenths(share) for share in (last.low, last.high))
    return Measured(words, shown[0], shown[1], f"{low} to {high}")


def cut_cards(rows: Sequence[Charge]) -> list[CutCard]:
    """Return the outcome of every cut: applied ones first, then refused ones, then those that are off.

    A chain's receipt repeats those of its steps and counts only if theirs are missing.
    """
    found = [
        CutCard(verdict.cut, verdict.outcome, formatting.prose(verdict.reason), row)
        for row in rows
        for verdict in verdicts.read(row.facts)
    ]
    own = {(card.cut, card.reason) for card in found if card.row.step != CHAIN}
    once = [card for card in found if card.row.step != CHAIN or (card.cut, card.reason) not in own]
    return sorted(once, key=lambda card: ORDER.index(card.outcome))


def savings(rows: Sequence[Charge], book: Ledger) -> list[SavingLine]:
    """Return each saving with how it is known; only a study compares with the plain run."""
    found = []
    for row in rows:
        saved = step_facts.read(SavedFacts, row.facts)
        if saved and row.step == "quantize" and saved.bytes_after < saved.bytes_before:
            share = 1 - saved.bytes_after / saved.bytes_before
            found.append(
                SavingLine(
                    f"{formatting.percent(share)} of the served bytes, by quantization", "measured here"
                )
            )
    if book.reused.node_seconds:
        reused = formatting.cost(book.reused)
        found.append(
            SavingLine(f"{reused} of this run's cost was paid by earlier runs (cache)", "measured here")
        )
    if book.studied:
        return [*found, *(SavingLine(each.what, "from the study", each.saves) for each in book.studied)]
    plain = "against the plain run: no study in the store trained like this; run deepcuts ablate STUDY"
    return [*found, SavingLine(plain, "not known", saves=False)]
