"""The KFP face of warmstart."""

from kfp import dsl

from deepcuts.components.core.container import container


@dsl.container_component
def warmstart(
    donor: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Model],
    train: dsl.Input[dsl.Dataset],
    valid: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    store: str,
    shape: dict,
    layers: str,
    rescale: bool,
    trial_share: float,
    recipe: dict,
):
    """Start a new or resized model from a donor's weights, if a short trial shows that it pays off.

    Args:
        donor: The pretrained model that gives rows and blocks (safetensors folder).
        tokenizer: Folder with the new model's tokenizer; the donor to keep its own.
        train: Examples for the trial (JSONL).
        valid: Examples to judge the trial by (JSONL).
        model: The warm model, or the cold one if warm was not better; not trained.
        report: The verdict in words.
        receipt: What it took, including both arms of the trial.
        store: Where checkpoints live (file:// or s3://); a rerun resumes from the newest.
        shape: Changes to the donor's config, for example {"num_hidden_layers": 10}.
        layers: Blocks from the donor: none (token rows only), copy or stack (depthwise).
        rescale: Shrink token rows to the scale of random ones.
        trial_share: Share of recipe.budget_tokens that each arm of the trial trains.
        recipe: Hyperparameters; method must be full.
    """
    return container(
        "deepcuts.components.warmstart.step",
        image="train",
        receipt=receipt,
        donor=donor.path,
        tokenizer=tokenizer.path,
        train=train.path,
        valid=valid.path,
        model=model.path,
        report=report.path,
        store=store,
        shape=shape,
        layers=layers,
        rescale=rescale,
        trial_share=trial_share,
        recipe=recipe,
    )
