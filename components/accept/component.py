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
    """Accept the cheaper candidate only if it is not worse than the reference by the margin.

    Args:
        candidate_model: The cheaper model.
        reference_model: The model passed on if the candidate is refused.
        candidate: Scorecard of the candidate, or a folder with one per seed.
        reference: The reference's on the same examples, or a folder with one per seed.
        accepted: The model passed on.
        scorecard: Scorecard of the model passed on.
        verdict: The difference, its interval, and the smallest detectable one.
        receipt: What it took; accepted says which was passed on.
        metric: completion_loss, exact_match or label_accuracy.
        margin: Largest loss of quality that counts as equal, in the metric's own unit.
        seed: Seed of the bootstrap.
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
