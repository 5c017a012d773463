from kfp import dsl

from deepcuts.components.core.container import container

MAX_NEW_TOKENS = 64
"""Longest greedy answer for exact_match in the pipelines: a label, a number or a sentence. It is not a
parameter of components used only there, as each parameter takes 1 kB of a run's status."""


@dsl.container_component
def evaluate(
    base: dsl.Input[dsl.Model],
    model: dsl.Input[dsl.Model],
    split: dsl.Input[dsl.Dataset],
    labels: dsl.Input[dsl.Dataset],
    scorecard: dsl.Output[dsl.Artifact],
    receipt: dsl.Output[dsl.Metrics],
    store: str,
    measures: list,
    max_examples: int,
    max_new_tokens: int,
    seed: int,
):
    """Score a model on a split, example by example.

    Args:
        base: The base of an adapter; for a whole model, the model itself.
        model: An adapter or a whole model.
        split: Examples to score (JSONL).
        labels: All labels of a classification (JSON list), else an empty list.
        scorecard: Summary with confidence intervals, and per-example scores.
        receipt: What it took.
        store: Where scores are kept meanwhile (file:// or s3://); a rerun resumes there.
        measures: completion_loss (always), exact_match, label_accuracy, general (text), lm-eval:TASK.
        max_examples: Score at most this many, drawn by seed.
        max_new_tokens: Longest greedy answer, for exact_match.
        seed: Draws the examples; the same seed draws the same ones for every model.
    """
    return container(
        "deepcuts.components.evaluate.step",
        image="train",
        receipt=receipt,
        base=base.path,
        model=model.path,
        split=split.path,
        labels=labels.path,
        scorecard=scorecard.path,
        store=store,
        measures=measures,
        max_examples=max_examples,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )


@dsl.container_component
def evaluate_whole(
    model: dsl.Input[dsl.Model],
    split: dsl.Input[dsl.Dataset],
    labels: dsl.Input[dsl.Dataset],
    scorecard: dsl.Output[dsl.Artifact],
    receipt: dsl.Output[dsl.Metrics],
    store: str,
    measures: list,
    max_examples: int,
    seed: int,
):
    """Score a whole model on a split: one input, as KFP accepts an artifact once per task.

    Args:
        model: A whole model.
        split: Examples to score (JSONL).
        labels: All labels of a classification (JSON list), else an empty list.
        scorecard: Summary with confidence intervals, and per-example scores.
        receipt: What it took.
        store: Where scores are kept meanwhile (file:// or s3://); a rerun continues there.
        measures: completion_loss (always), exact_match, label_accuracy, lm-eval:TASK.
        max_examples: Score at most this many, drawn by seed.
        seed: Draws the examples; the same seed draws the same ones for every model.
    """
    return container(
        "deepcuts.components.evaluate.step",
        image="train",
        receipt=receipt,
        base=model.path,
        model=model.path,
        split=split.path,
        labels=labels.path,
        scorecard=scorecard.path,
        store=store,
        measures=measures,
        max_examples=max_examples,
        max_new_tokens=f"{MAX_NEW_TOKENS}",
        seed=seed,
    )
