from kfp import dsl

from deepcuts.components.core.container import container


@dsl.container_component
def finetune(
    base: dsl.Input[dsl.Model],
    train: dsl.Input[dsl.Dataset],
    valid: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    curve: dsl.Output[dsl.Artifact],
    receipt: dsl.Output[dsl.Metrics],
    store: str,
    recipe: dict,
):
    """Fine-tune a pretrained model on examples: all weights, or a LoRA adapter.

    Args:
        base: The pretrained model (safetensors folder).
        train: Examples to train on (JSONL).
        valid: Examples; a sample is scored at the end (JSONL, may be empty).
        model: The adapter or the full model.
        curve: Loss, learning rate and gradient norm, one JSON record a step.
        receipt: What it took.
        store: Where checkpoints live (file:// or s3://); a rerun resumes from the newest.
        recipe: Hyperparameters; see components/core/recipe.py for their defaults.
    """
    return container(
        "deepcuts.components.finetune.step",
        image="train",
        receipt=receipt,
        base=base.path,
        train=train.path,
        valid=valid.path,
        model=model.path,
        curve=curve.path,
        store=store,
        recipe=recipe,
    )
