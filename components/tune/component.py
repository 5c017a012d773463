from kfp import dsl

from deepcuts.components.core.container import container


@dsl.container_component
def tune(
    base: dsl.Input[dsl.Model],
    train: dsl.Input[dsl.Dataset],
    valid: dsl.Input[dsl.Dataset],
    trials: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    best_recipe: dsl.OutputPath(dict),  # type: ignore[valid-type]
    store: str,
    recipe: dict,
    space: dict,
    min_tokens: int,
    max_tokens: int,
    eta: int,
    brackets: int,
    configurations: int,
    parallel: int,
    seed: int,
):
    """Find a Recipe: start many configurations, continue the better ones from checkpoints.

    Args:
        base: The pretrained model (safetensors folder).
        train: Examples to train on (JSONL).
        valid: Examples for comparing trials (JSONL).
        trials: One record per trial, including failed ones, with receipts.
        summary: The best trials, and what the search saved.
        receipt: What it took.
        best_recipe: The recipe with the best values.
        store: Where trials and their checkpoints live (file:// or s3://); a rerun resumes from there.
        recipe: Hyperparameters that are not searched; see components/core/recipe.py.
        space: What to search, by hyperparameter; see components/tune/space.py.
        min_tokens: Budget of the first rung.
        max_tokens: Budget of the last rung, and of every trial's schedule.
        eta: A rung promotes one of eta trials, with eta times the budget.
        brackets: 1 starts all at the first rung; more start some later (Hyperband).
        configurations: How many to start.
        parallel: Concurrent trials.
        seed: Seed of the configurations.
    """
    return container(
        "deepcuts.components.tune.step",
        image="train",
        receipt=receipt,
        base=base.path,
        train=train.path,
        valid=valid.path,
        trials=trials.path,
        summary=summary.path,
        best_recipe=best_recipe,
        store=store,
        recipe=recipe,
        space=space,
        min_tokens=min_tokens,
        max_tokens=max_tokens,
        eta=eta,
        brackets=brackets,
        configurations=configurations,
        parallel=parallel,
        seed=seed,
    )
