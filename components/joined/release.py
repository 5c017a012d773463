"""A released model with the ledger of what it cost, in one task; see ``prepare.py`` for why."""

from kfp import dsl

from components.core.container import chain, part


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
    """Release the model that the gate passed on, with what it took to make it."""
    ledger, summary, report = (f"{receipt.path}.{name}" for name in ("ledger", "summary", "report"))
    return chain(
        "train",
        receipt,
        bill=part(
            "components.ledger.step",
            receipts="{}",
            scorecards=scorecards,
            curves="{}",
            plans="{}",
            run=card.uri,
            nodepools=nodepools,
            margin_nats=margin_nats,
            ledger=ledger,
            summary=summary,
            report=report,
        ),
        publish=part(
            "components.publish.step",
            model=model.path,
            base=base.path,
            evidence=evidence,
            run=card.uri,
            ledger=ledger,
            base_licence=base_licence,
            store=store,
            name=name,
            card=card.path,
        ),
    )
