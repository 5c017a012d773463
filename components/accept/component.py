from kfp import dsl

from deepcuts.components.core.container import container


@dsl.container_component
def accept(
    candidate_model: dsl.Input[dsl.Model],
    reference_model: dsl.Input[dsl.Model],
    candidate: dsl.Input[dsl.Artifact],
    reference: dsl.Input[dsl.Artifact],
    accepted: dsl.Output[dsl.Model],
    scorecard: dsl.Output[dsl.Artifact],
    verdict: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    metric: str,
    margin: float,
    seed: int,
):
    """Pass the cheaper candidate on only when it is no worse than the reference by the margin.

    Args:
        candidate_model: The cheaper model.
        reference_model: What is passed on when the candidate is refused.
        candidate: Scorecard of the candidate, or a folder of one a seed.
        reference: Scorecard of the reference on the same examples, or a folder of one a seed.
        accepted: The model that is passed on.
        scorecard: Of the model passed on.
        verdict: By how much, how sure, and what the comparison could have seen.
        receipt: What it took; accepted says which one went on.
        metric: completion_loss, exact_match or label_accuracy.
        margin: Largest loss of quality that counts as equal, in the metric's own unit.
        seed: Of the bootstrap.
    """
    return container(
        "deepcuts.components.accept.step",
        image="ops",
        receipt=receipt,
        candidate_model=candidate_model.path,
        reference_model=reference_model.path,
        candidate=candidate.path,
        reference=reference.path,
        metric=metric,
        margin=margin,
        accepted=accepted.path,
        scorecard=scorecard.path,
        verdict=verdict.path,
        seed=seed,
    )
