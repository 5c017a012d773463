"""Retrain: should this model be retrained now? Decided before a retraining is paid for, once a window."""

import datetime
import json
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from components.core import cli, files, scorecards
from components.core.errors import DataError
from components.core.receipts import Facts
from components.core.scorecards import Interval, Metric, Scorecard
from components.core.store import open_store
from components.retrain import windows
from components.retrain.policies import POLICIES, Policy, Terms, advise
from components.retrain.report import markdown
from components.retrain.windows import Book, Decision, Window

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class Total(msgspec.Struct, frozen=True):
    usd: float | None
    unknown: int


class Bill(msgspec.Struct, frozen=True):
    """What matters here of a ledger.json, whichever version of the ledger wrote it."""

    total: Total


def retrain(
    scorecard: Path,
    store: str,
    service: str,
    window: str,
    run: str,
    metric: Literal["answer_loss", "exact_match", "label_accuracy"],
    policy: Policy,
    usd_per_unit: Positive,
    predictions: Count,
    retraining_usd: Annotated[float, Meta(ge=0)],
    ledger_uri: str,
    price_ratio: Positive,
    period: Count,
    horizon: Count,
    memory: Count,
    lease_hours: Positive,
    seed: Annotated[int, Meta(ge=0)],
    decision: Path,
    report: Path,
    retrain: Path,
) -> Facts:
    """Decide by ``policy`` whether ``service`` is retrained after ``window``; kept in ``store``.

    A window is decided once: whoever asks again is given the first decision, and retrains only if it is the
    same ``run`` with the same model in service. While one retraining may be on its way (``lease_hours``), no
    other begins. A window older than the newest one decided begins none either.

    Args:
        scorecard: Of the model in service on a fresh labelled sample of the window.
        store: Where decisions live; file:// or s3://.
        service: Name of what is served; its windows are compared with each other.
        window: Name of the window, one that sorts by time (2026-W48); empty for the ISO week of now, UTC.
        run: Identity of this run.
        metric: What a unit of quality is: a nat of answer_loss, or all answers right.
        policy: Who decides; what the others say stands in the decision.
        usd_per_unit: Value of a unit of quality, for one prediction.
        predictions: Of the window.
        retraining_usd: What a retraining costs; 0 takes it from the ledger.
        ledger_uri: ledger.json of the last retraining, file:// or s3://; empty for none.
        price_ratio: Prices now, over those of ``retraining_usd`` or of the ledger.
        period: Windows between two retrainings (periodic).
        horizon: Windows for which a new model is sure to serve (res).
        memory: Windows by which res and CARA tune themselves.
        lease_hours: Longest time from a decision to the new model in service.
        seed: Of ski-rental-random.
        decision: JSON.
        report: Markdown.
        retrain: true or false, for the pipeline.
    """
    cost = price_ratio * (retraining_usd or ledger_usd(ledger_uri))
    terms = Terms(cost=cost, period=period, horizon=horizon, memory=memory, seed=seed)
    card = scorecards.read(scorecard)
    loss = loss_of(card, metric)
    seen = Window(
        service=service,
        window=windows.named("window", window or datetime.datetime.now(datetime.UTC).strftime("%G-W%V")),
        run=run,
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        model_digest=card.model_digest,
        loss=loss,
        usd_lost=loss * usd_per_unit * predictions,
    )
    told = decide(Book(open_store(store), service), seen, policy, terms, 3600 * lease_hours)
    now = told.retrain and (told.seen.run, told.seen.model_digest) == (run, card.model_digest)
    cli.write_json(decision, told)
    with files.staged(report) as staging:
        staging.write_text(markdown(told, now))
    with files.staged(retrain) as staging:
        staging.write_text(json.dumps(now))
    return {
        "retrain": json.dumps(now),
        "cut_retrain": "retrain" if now else "refused, the model in service goes on",
        "decided_before": told.seen.run != run,
        "loss": told.seen.loss,
        "usd_lost": told.seen.usd_lost,
        "cost_usd": told.cost_usd,
    } | told.numbers


def decide(book: Book, seen: Window, policy: Policy, terms: Terms, lease_seconds: float) -> Decision:
    """The one decision on a window: the first that was made, which is this one if there is none."""
    known, leases = book.decisions(), book.leases()
    for decision in known:
        if decision.seen.window == seen.window:
            return decision
    earlier = [decision.seen for decision in known if decision.seen.window < seen.window]
    cycles = windows.cycles([*earlier, seen], leases)
    advices = {name: advise(name, cycles, terms) for name in POLICIES}
    chosen = advices[policy]
    retrain, why = chosen.retrain, chosen.why
    if retrain and len(earlier) < len(known):
        retrain, why = False, f"window {known[-1].seen.window}, a newer one, is decided already; else: {why}"
    if retrain:
        lease = book.lease(leases, seen, lease_seconds)
        retrain = lease.window == seen.window
        if retrain:
            seen = msgspec.structs.replace(seen, run=lease.run)
        else:
            why = f"the retraining of window {lease.window} may still be on its way; else: {why}"
    return book.decide(
        Decision(
            seen=seen,
            retrain=retrain,
            policy=policy,
            why=why,
            cost_usd=terms.cost,
            numbers=chosen.numbers,
            cycle_usd=cycles[-1],
            alternatives=list(advices.values()),
        )
    )


def loss_of(card: Scorecard, metric: Metric) -> float:
    """The mean of ``metric``, turned so that lower is better.

    Raises:
        ValueError: it was not measured.
    """
    interval: Interval | None = getattr(card, metric)
    if interval is None:
        raise ValueError(
            f"the scorecard has no {metric}: add it to evaluate's measures, or take another metric"
        )
    return interval.mean if scorecards.LOWER_IS_BETTER[metric] else 1 - interval.mean


def ledger_usd(uri: str) -> float:
    """The total of a ledger.json in a store.

    Raises:
        ValueError: there is no URI, or part of the total is unknown.
        DataError: it is no ledger.
        FileNotFoundError: nothing is there.
    """
    folder, _, name = uri.rpartition("/")
    if not folder:
        raise ValueError(
            "retraining_usd is 0 and ledger_uri is empty: give one of them, nothing is for nothing"
        )
    try:
        total = msgspec.json.decode(open_store(folder).get_bytes(name), type=Bill).total
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{uri} is not a ledger ({error}): give the ledger.json of the last retraining"
        ) from error
    if not total.usd or total.unknown:
        raise ValueError(
            f"{uri}: {total.unknown} charges of unknown cost: price their pools, or give retraining_usd"
        )
    return total.usd


if __name__ == "__main__":
    cli.main(retrain)
