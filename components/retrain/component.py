from kfp import dsl

from deepcuts.components.core.container import container
from deepcuts.components.core.faces import flags


@dsl.container_component
def retrain(
    scorecard: dsl.Input[dsl.Artifact],
    decision: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    retrain: dsl.OutputPath(str),  # type: ignore[valid-type]
    store: str,
    service: str,
    window: str,
    run: str,
    metric: str,
    policy: str,
    usd_per_unit: float,
    predictions: int,
    retraining_usd: float,
    ledger_uri: str,
    price_ratio: float,
    period: int,
    horizon: int,
    memory: int,
    lease_hours: float,
    seed: int,
):
    """Decide once per window, before paying for it, whether to retrain a model now.

    Args:
        scorecard: The model in service on a fresh labelled sample of the window.
        decision: Reasons, figures, and what other policies say (JSON).
        report: The same in words.
        receipt: What it took.
        retrain: true or false.
        store: Where decisions live (file:// or s3://).
        service: Name of the service.
        window: Name of the window, which must sort by time (2026-W48); empty for this ISO week.
        run: Identity of this run.
        metric: completion_loss, exact_match or label_accuracy.
        policy: res, or one of those it is compared with.
        usd_per_unit: Value of a unit of quality per prediction.
        predictions: Number in the window.
        retraining_usd: Cost of a retraining; 0 takes it from the ledger.
        ledger_uri: ledger.json of the last retraining; empty for none.
        price_ratio: Current prices / those of retraining_usd or the ledger.
        period: Windows between two retrainings (periodic).
        horizon: Windows for which a new model is sure to serve (res).
        memory: Past windows used to tune res and CARA.
        lease_hours: Longest time from a decision to the new model in service.
        seed: Seed of ski-rental-random.
    """
    return container("deepcuts.components.retrain.step", image="ops", receipt=receipt, **flags(locals()))
