"""Release a model with the ledger of its cost, in one task; see ``prepare.py`` for why."""

from types import SimpleNamespace
from typing import Any

from kfp import dsl

from deepcuts.components.core.container import between, chain, part


def _release(given: Any, training: str) -> dsl.ContainerSpec:
    """Return both steps; ``given`` are the parameters of the whole component."""
    ledger, summary, report = map(between, ("ledger", "summary", "report"))
    return chain(
        "train",
        given.receipt,
        bill=part(
            "deepcuts.components.ledger.step",
            receipts="{}",
            scorecards=given.scorecards,
            curves="{}",
            plans="{}",
            run=given.card.uri,
            studies=given.store,
            nodepools=given.nodepools,
            margin_nats=given.margin_nats,
            ledger=ledger,
            summary=summary,
            report=report,
        ),
        publish=part(
            "deepcuts.components.publish.step",
            model=given.model.path,
            base=given.base.path,
            evidence=given.evidence,
            training=training,
            run=given.card.uri,
            ledger=ledger,
            base_licence=given.base_licence,
            store=given.store,
            name=given.name,
            card=given.card.path,
        ),
    )


@dsl.container_component
def bill_and_publish(
    base: dsl.Input[dsl.Model],
    model: dsl.Input[dsl.Model],
    card: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    evidence: dict,
    scorecards: dict,
    nodepools: dict,
    margin_nats: float,
    base_licence: str,
    store: str,
    name: str,
):
    """Release the model that the gate passed on, with the cost of making it."""
    return _release(SimpleNamespace(**locals()), training="")


@dsl.container_component
def bill_and_publish_steered(
    base: dsl.Input[dsl.Model],
    model: dsl.Input[dsl.Model],
    training: dsl.Input[dsl.Markdown],
    card: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    evidence: dict,
    scorecards: dict,
    nodepools: dict,
    margin_nats: float,
    base_licence: str,
    store: str,
    name: str,
):
    """Release a model with a search's, or a watcher's, report on its ``training``.

    These pass on a recipe or nothing, and the ledger finds cached work by artifacts: without this input their
    cost would be missing.
    """
    return _release(SimpleNamespace(**locals()), training.path)
