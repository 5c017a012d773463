from kfp import dsl

from deepcuts.components.core.container import container


@dsl.container_component
def prune(
    model: dsl.Input[dsl.Model],
    text: dsl.Input[dsl.Dataset],
    pruned: dsl.Output[dsl.Model],
    summary: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    method: str,
    amount: float,
    calibration_tokens: int,
    seed: int,
):
    """Remove the parts of a model that matter least on calibration text.

    Args:
        model: A whole model.
        text: Examples to measure importance on (JSONL); never the test split.
        pruned: A plain model folder with a smaller config.
        summary: What was cut, and what it saves in storage and serving.
        receipt: What it took; bytes, weights, time and loss before and after.
        method: magnitude, width, depth, or random-depth (the control of depth).
        amount: Share to cut, between 0 and 1.
        calibration_tokens: Tokens of text to measure importance on.
        seed: Seed for the text, and for the blocks of random-depth.
    """
    return container(
        "deepcuts.components.prune.step",
        image="train",
        receipt=receipt,
        base=model.path,
        model=model.path,
        text=text.path,
        pruned=pruned.path,
        summary=summary.path,
        method=method,
        amount=amount,
        calibration_tokens=calibration_tokens,
        seed=seed,
    )
