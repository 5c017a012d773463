"""The KFP face of distill."""

from kfp import dsl

from deepcuts.components.core.container import container
from deepcuts.components.core.faces import flags


@dsl.container_component
def distill(
    teacher: dsl.Input[dsl.Model],
    base: dsl.Input[dsl.Model],
    train: dsl.Input[dsl.Dataset],
    valid: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    curve: dsl.Output[dsl.Artifact],
    receipt: dsl.Output[dsl.Metrics],
    worth_tokens: dsl.OutputPath(int),  # type: ignore[valid-type]
    store: str,
    recipe: dict,
    layers: str,
    config: dict,
    method: str,
    temperature: float,
    cross_entropy_weight: float,
    hidden_weight: float,
    cached_draws: int,
    max_new_tokens: int,
    extra_tokens: int,
):
    """Train a smaller student to imitate a teacher.

    Args:
        teacher: The model to learn from (safetensors folder).
        base: Model the student is made from: the teacher or a smaller model.
        train: Examples to train on (JSONL).
        valid: Examples scored once at the end (JSONL, may be empty).
        model: The student, a whole model.
        curve: Loss, learning rate and gradient norm, one JSON record a step.
        receipt: What it took, including the teacher, and what serving costs.
        worth_tokens: Tokens the student alone could have trained on in the time of teacher and writing.
        store: Where checkpoints live (file:// or s3://); a rerun resumes from the newest.
        recipe: Hyperparameters; see components/core/recipe.py.
        layers: Layers of base that the student keeps: all, every-2, or indices (0,2,4).
        config: Changes to base's config, for a student of random weights; empty for none.
        method: forward-kl, reverse-kl, on-policy (the student's own answers), sequence (the teacher's), or
            none for the control without teacher.
        temperature: Temperature of the comparison (not sequence).
        cross_entropy_weight: Weight of the completion loss (not sequence).
        hidden_weight: Weight of the distance of hidden states (not sequence).
        cached_draws: Draws per token made once before training; 0 runs the teacher at each step (forward-kl).
        max_new_tokens: Longest answer of the teacher (sequence) or student (on-policy).
        extra_tokens: Added to the recipe's budget; for the control, the worth_tokens.
    """
    return container("deepcuts.components.distill.step", image="train", receipt=receipt, **flags(locals()))
