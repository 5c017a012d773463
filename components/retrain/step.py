"""Retrain: decide, once per window and before paying for it, whether to retrain the model now."""

import json
from pathlib import Path
from typing import Literal

import msgspec

from deepcuts.components.core import cli, clock, files, scorecards
from deepcuts.components.core.bounds import Count, NonNegative, Positive, Seed
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.scorecards import Interval, Metric, Scorecard
from deepcuts.components.core.store import open_store
from deepcuts.components.core.strict import MALFORMED
from deepcuts.components.core.verdicts import Verdict
from deepcuts.components.retrain import names, windows
from deepcuts.components.retrain.policies import POLICIES, Policy, Terms, advise
from deepcuts.components.retrain.report import markdown
from deepcuts.components.retrain.windows import Decision, Window, WindowLog


class LedgerTotal(msgspec.Struct, frozen=True):
    usd: float | None
    unknown: int


class Bill(msgspec.Struct, frozen=True):
    """The part of a ledger.json that is read here, from any version of the ledger."""

    total: LedgerTotal


def retrain(
    scorecard: Path,
    store: str,
    service: str,
    window: str,
    run: str,
    metric: Literal["completion_loss", "exact_match", "label_accuracy"],
    policy: Policy,
    usd_per_unit: Positive,
    predictions: Count,
    retraining_usd: NonNegative,
    ledger_uri: str,
    price_ratio: Positive,
    period: Count,
    horizon: Count,
    memory: Count,
    lease_hours: Positive,
    seed: Seed,
    decision: Path,
    report: Path,
    retrain: Path,
) -> Facts:
    """Decide by ``policy`` whether to retrain ``service`` after ``window``; keep the decision in ``store``.

    A window is decided once: another call returns the first decision, and retrains only for the same ``run``
    and model in service. While a retraining may be under way (``lease_hours``), no other begins, nor does one
    for a window older than the newest decided one. component.py describes the arguments.

    Raises:
        ValueError: the metric was not measured, or the cost of a retraining is unknown.
        DataError: a file is not a Scorecard or a ledger.
    """
    cost = price_ratio * (retraining_usd or ledger_usd(ledger_uri))
    terms = Terms(cost=cost, period=period, horizon=horizon, memory=memory, seed=seed)
    card = scorecards.read(scorecard)
    loss = loss_of(card, metric)
    seen = Window(
        service=service,
        window=names.named("window", window or clock.now().strftime("%G-W%V")),
        run=run,
        at=clock.utc(),
        model_digest=card.model_digest,
        loss=loss,
        usd_lost=loss * usd_per_unit * predictions,
    )
    made = decide(WindowLog(open_store(store), service), seen, policy, terms, 3600 * lease_hours)
    now = made.retrain and (made.seen.run, made.seen.model_digest) == (run, card.model_digest)
    cli.write_json(decision, made)
    with files.staged(report) as staging:
        staging.write_text(markdown(made, now))
    with files.staged(retrain) as staging:
        staging.write_text(json.dumps(now))
    return {
        "retrain": json.dumps(now),
        **Verdict("retrain", "applied" if now else "refused", made.why).facts(),
        "decided_before": made.seen.run != run,
        "loss": made.seen.loss,
        "usd_lost": made.seen.usd_lost,
        "cost_usd": made.cost_usd,
    } | made.numbers


def decide(book: WindowLog, seen: Window, policy: Policy, terms: Terms, lease_seconds: float) -> Decision:
    """Return the decision on a window: the first one made, or this one if there is none yet."""
    known, leases = book.decisions(), book.leases()
    for decision in known:
        if decision.seen.window == seen.window:
            return decision
    earlier = [decision.seen for decision in known if decision.seen.window < seen.window]
    cycles = windows.cycles([*earlier, seen], leases)
    advised = {name: advise(name, cycles, terms) for name in POLICIES}
    chosen = advised[policy]
    retrain, why = chosen.retrain, chosen.why
    if retrain and len(earlier) < len(known):
        newest = known[-1].seen.window
        retrain, why = False, f"window {newest}, a newer one, is already decided; otherwise: {why}"
    if retrain:
        lease = book.lease(leases, seen, lease_seconds)
        retrain = lease.window == seen.window
        if retrain:
            seen = msgspec.structs.replace(seen, run=lease.run)
        else:
            why = f"the retraining of window {lease.window} may still be under way; otherwise: {why}"
    return book.decide(
        Decision(
            seen=seen,
            retrain=retrain,
            policy=policy,
            why=why,
            cost_usd=terms.cost,
            numbers=chosen.numbers,
            cycle_usd=cycles[-1],
            alternatives=list(advised.values()),
        )
    )


def loss_of(card: Scorecard, metric: Metric) -> float:
    """Return the mean of ``metric`` as a loss, where lower is better.

    Raises:
        ValueError: the metric was not measured.
    """
    interval: Interval | None = getattr(card, metric)
    if interval is None:
        raise ValueError(
            f"the scorecard has no {metric}: add it to evaluate's measures, or use another metric"
        )
    return interval.mean if scorecards.LOWER_IS_BETTER[metric] else 1 - interval.mean


def ledger_usd(uri: str) -> float:
    """Read the total of a ledger.json in a store.

    Raises:
        ValueError: there is no URI, or part of the total is unknown.
        DataError: it is not a ledger.
        FileNotFoundError: there is nothing at the URI.
    """
    folder, _, name = uri.rpartition("/")
    if not folder:
        raise ValueError("retraining_usd is 0 and ledger_uri is empty: give one of them")
    try:
        total = msgspec.json.decode(open_store(folder).get_bytes(name), type=Bill).total
    except MALFORMED as error:
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
