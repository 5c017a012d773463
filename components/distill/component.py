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
    """Train a smaller student on what a teacher knows.

    Args:
        teacher: The model to learn from (safetensors folder).
        base: What the student is made of: the teacher again, or a smaller model.
        train: Examples to train on (JSONL).
        valid: Examples scored once at the end (JSONL, may be empty).
        model: The student, a whole model.
        curve: Loss, learning rate and gradient norm, one JSON record a step.
        receipt: What it took, the teacher's part included, and what serving costs.
        worth_tokens: What the student alone would have trained on in the seconds of teacher and writing.
        store: Where checkpoints live (file:// or s3://); a rerun resumes from the newest.
        recipe: Hyperparameters; see components/core/recipe.py.
        layers: Layers of base that the student keeps: all, every-2, or indices such as 0,2,4.
        config: Settings that differ from base's, for a student of random weights; empty for none.
        method: Compare distributions on the data's answers (forward-kl, reverse-kl) or on answers of the
            student's own (on-policy), learn answers that the teacher writes (sequence), or none: the control.
        temperature: At which distributions are compared (not with sequence).
        cross_entropy_weight: Share of the answers' own loss (not with sequence).
        hidden_weight: Weight of the distance of hidden states (not with sequence).
        cached_draws: Draws a token, made once before training; 0 asks the teacher at every step (forward-kl).
        max_new_tokens: Longest answer that the teacher (sequence) or the student (on-policy) writes.
        extra_tokens: Beyond the recipe's budget; for the control, what the teacher was worth.
    """
    return container("deepcuts.components.distill.step", image="train", receipt=receipt, **flags(locals()))
