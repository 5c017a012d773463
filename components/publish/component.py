from kfp import dsl

from deepcuts.components.core.container import container


@dsl.container_component
def publish(
    model: dsl.Input[dsl.Model],
    base: dsl.Input[dsl.Model],
    candidate: dsl.Input[dsl.Artifact],
    reference: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Markdown],
    accept_receipt: dsl.Input[dsl.Metrics],
    model_receipt: dsl.Input[dsl.Metrics],
    data_receipt: dsl.Input[dsl.Metrics],
    ledger: dsl.Input[dsl.Dataset],
    card: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    base_licence: str,
    store: str,
    name: str,
):
    """Release the accepted model: verified in the store, then in service.

    Args:
        model: The model accept passed on; an adapter is merged.
        base: The base of an adapter.
        candidate: Scorecard of accept's candidate.
        reference: Scorecard of accept's reference.
        verdict: Accept's, for the card.
        accept_receipt: Accept's; says which of the two was passed on.
        model_receipt: Fetch's, with the base's origin and digest.
        data_receipt: Fetch's, with the data's origin and digest.
        ledger: What the run cost.
        card: The model card.
        receipt: What it took; where the release is.
        base_licence: The base's licence (SPDX); empty if unknown.
        store: Where releases live (file:// or s3://).
        name: The release's name; its versions are digests.
    """
    return container(
        "deepcuts.components.publish.step",
        image="train",
        receipt=receipt,
        model=model.path,
        base=base.path,
        evidence={
            "candidate": candidate,
            "reference": reference,
            "verdict": verdict,
            "accept_receipt": accept_receipt,
            "model_receipt": model_receipt,
            "data_receipt": data_receipt,
        },
        training="",
        run="",
        ledger=ledger.path,
        base_licence=base_licence,
        store=store,
        name=name,
        card=card.path,
    )
