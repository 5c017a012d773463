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
    """Decide whether a model is retrained now, before paying for it; once a window.

    Args:
        scorecard: Of the model in service, on a fresh labelled sample of the window.
        decision: Why, with all numbers and what every other policy says (JSON).
        report: The same in words.
        receipt: What it took.
        retrain: true or false.
        store: Where decisions live (file:// or s3://).
        service: Name of what is served.
        window: Name of the window, one that sorts by time (2026-W48); empty for the ISO week of now, UTC.
        run: Identity of this run.
        metric: completion_loss, exact_match or label_accuracy.
        policy: res, or one of those it is compared with.
        usd_per_unit: Value of a unit of quality, for one prediction.
        predictions: Of the window.
        retraining_usd: What a retraining costs; 0 takes it from the ledger.
        ledger_uri: ledger.json of the last retraining; empty for none.
        price_ratio: Prices now, over those of retraining_usd or of the ledger.
        period: Windows between two retrainings (periodic).
        horizon: Windows for which a new model is sure to serve (res).
        memory: Windows by which res and CARA tune themselves.
        lease_hours: Longest time from a decision to the new model in service.
        seed: Of ski-rental-random.
    """
    return container("deepcuts.components.retrain.step", image="ops", receipt=receipt, **flags(locals()))
