"""The KFP face of curriculum."""

from kfp import dsl

from deepcuts.components.core.container import container


@dsl.container_component
def curriculum(
    base: dsl.Input[dsl.Model],
    cut: dsl.Input[dsl.Dataset],
    curriculum: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    difficulty_signal: str,
    pacing: str,
    phases: int,
    recipe: dict,
    seed: int,
):
    """Order examples for training: the easiest first, then more and more, finally all.

    Args:
        base: The model whose tokenizer counts and whose loss can be the difficulty signal.
        cut: Examples to train on (JSONL).
        curriculum: The same in training order, for a recipe with order given (JSONL).
        report: The phases, the easiest and the hardest examples.
        receipt: What it took, including scoring.
        difficulty_signal: none, length, loss, compression, diversity, column or random (the control).
        pacing: How fast harder examples come in: linear, root or step.
        phases: Parts of equal tokens, each drawing from more examples than the last.
        recipe: Hyperparameters; budget_tokens is the length, order must be given.
        seed: Seed for drawing examples.
    """
    return container(
        "deepcuts.components.curriculum.step",
        image="train",
        receipt=receipt,
        base=base.path,
        cut=cut.path,
        curriculum=curriculum.path,
        report=report.path,
        difficulty_signal=difficulty_signal,
        pacing=pacing,
        phases=phases,
        recipe=recipe,
        seed=seed,
    )
