"""The KFP face of ledger: the exit task of a run, so it takes parameters only."""

from kfp import dsl

from deepcuts.components.core.container import container


@dsl.container_component
def ledger(
    ledger: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
    receipt: dsl.Output[dsl.Metrics],
    scorecards: dict,
    curves: dict,
    plans: dict,
    studies: str,
    nodepools: dict,
    margin_nats: float,
):
    """Add up the cost of a run, by task, and the quality it bought; after success or failure.

    Args:
        ledger: Folder of ledger.jsonl (one charge per attempt), ledger.json (totals, verdict).
        summary: A short version for people.
        report: The same as a page with charts.
        receipt: What the ledger itself took.
        scorecards: TASK/OUTPUT of each scorecard by name: before, after, and others.
        curves: TASK/OUTPUT of each loss curve by the name of its training.
        plans: TASK/OUTPUT of each plan by the name of its training.
        studies: The store in which deepcuts ablate leaves what it found.
        nodepools: Where steps run, and the price per hour.
        margin_nats: Largest rise of the completion loss that counts as equal.
    """
    return container(
        "deepcuts.components.ledger.step",
        image="ops",
        receipt=receipt,
        receipts="{}",
        scorecards=scorecards,
        curves=curves,
        plans=plans,
        run=ledger.uri,
        studies=studies,
        nodepools=nodepools,
        margin_nats=margin_nats,
        ledger=ledger.path,
        summary=summary.path,
        report=report.path,
    )
