from kfp import dsl

from deepcuts.components.core.container import container
from deepcuts.components.core.faces import flags

POLL_SECONDS, START_SECONDS, STALE_SECONDS = 5.0, 1200.0, 900.0
"""Limits in pipelines: a GPU node may have to start first, and saves, the heartbeats, are 300 s apart."""


@dsl.container_component
def watch(
    base: dsl.Input[dsl.Model],
    train: dsl.Input[dsl.Dataset],
    valid: dsl.Input[dsl.Dataset],
    scores: dsl.Output[dsl.Artifact],
    curve: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    store: str,
    recipe: dict,
    patience: int,
    poll_seconds: float,
    start_seconds: float,
    stale_seconds: float,
):
    """Score a training run's checkpoints while it trains, on cheaper hardware.

    Args:
        base: The pretrained model, as finetune gets it.
        train: The training examples, as finetune gets them: they name the run.
        valid: Examples to score every checkpoint on (JSONL, may be empty).
        scores: A Scorecard per step, and the skipped steps.
        curve: Trained tokens and completion loss, one JSON record per score.
        summary: The curve as a table, with the best checkpoint marked.
        receipt: What it took; best_step is the checkpoint with the lowest loss.
        store: Where finetune's checkpoints live (file:// or s3://).
        recipe: Hyperparameters, as finetune gets them.
        patience: Stop training after this many scores without a significant gain; 0: never.
        poll_seconds: Interval between checks for a new checkpoint.
        start_seconds: Give up if training has not started by then; above a new node's time.
        stale_seconds: Give up if its last heartbeat is older; above the time between saves.
    """
    return container("deepcuts.components.watch.step", image="train", receipt=receipt, **flags(locals()))


@dsl.container_component
def watch_training(
    base: dsl.Input[dsl.Model],
    train: dsl.Input[dsl.Dataset],
    valid: dsl.Input[dsl.Dataset],
    scores: dsl.Output[dsl.Artifact],
    curve: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    store: str,
    recipe: dict,
    patience: int,
):
    """Score a training's checkpoints while it trains; times as inputs would be 4 kB of status."""
    given = flags(locals())
    times = {
        "poll_seconds": str(POLL_SECONDS),
        "start_seconds": str(START_SECONDS),
        "stale_seconds": str(STALE_SECONDS),
    }
    return container("deepcuts.components.watch.step", image="train", receipt=receipt, **given, **times)
