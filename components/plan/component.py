"""The KFP face of plan."""

from typing import Any

from kfp import dsl

from deepcuts.components.core.container import container, places
from deepcuts.components.core.faces import flags as own_flags

NEUTRAL = {
    "receipts": "{}",
    "space": "{}",
    "parallel": "1",
    "taught": "{}",
    "deadline_hours": "0",
    "budget_usd": "0",
    "reserve_share": "0",
    "objective": "cheapest",
    "answer_share": "1",
    "watched": "false",
    "serve_on": "cpu",
    "candidates": '["off"]',
    "calibrate": "{}",
}
"""Default flags of plan, for pipelines without these settings."""
GIVEN = ("recipe", "nodepools", "pool", "spot", "compiled_for", "max_examples", "max_tokens")


def flags(given: Any, **own: object) -> dict[str, object]:
    """Return the flags of plan, from ``given``, a component's parameters of the same names."""
    same = {name: getattr(given, name) for name in GIVEN}
    paths = {"base": given.base.path, "run": given.decision.uri, "decision": given.decision.path}
    return NEUTRAL | same | paths | {"placed": given.placed} | own


@dsl.container_component
@places("train", "scoring", "watch")
def plan(
    base: dsl.Input[dsl.Model],
    train: dsl.Input[dsl.Dataset],
    decision: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    planned: dsl.OutputPath(dict),  # type: ignore[valid-type]
    placed: object,
    recipe: dict,
    space: dict,
    parallel: int,
    nodepools: dict,
    deadline_hours: float,
    budget_usd: float,
    reserve_share: float,
    objective: str,
    answer_share: float,
    pool: str,
    spot: str,
    compiled_for: dict,
    watched: bool,
    max_examples: int,
    max_tokens: int,
    serve_on: str,
    candidates: list,
    calibrate: dict,
):
    """Choose pool, strategy, micro-batch and checkpointing for a training run before paying for it.

    The outputs ``train_…``, ``scoring_…`` and ``watch_…`` place its tasks.

    Args:
        base: The pretrained model, which is saved, merged and reloaded as a test.
        train: Training data, counted for recipe.epochs. They are passed on as tokens, unless select comes
            later: the training step counts them then.
        decision: What to run, and every rejected alternative with its reason (JSON).
        report: The same for people.
        receipt: Resources used, and the choice.
        planned: The recipe with micro_batch_size, gradient_checkpointing and budget_seconds decided.
        recipe: Hyperparameters; see components/core/recipe.py.
        space: Hyperparameters of a search, as tune takes them; the largest trial must fit.
        parallel: Concurrent trainings on one node.
        nodepools: Where steps may run, what an hour costs, what devices can do.
        deadline_hours: The run must be done by then at p90; 0 is no deadline.
        budget_usd: Limit for the whole run; 0 is none. With it, prices must be known.
        reserve_share: Share of it kept for the steps after training.
        objective: cheapest or fastest.
        answer_share: Share of the tokens that carry loss; 1 is the safe bound.
        pool: Where training must run; auto to choose.
        spot: Whether spot pools may be used: never or allowed.
        compiled_for: Kueue's training_queue and scoring_queue and the accelerators' resource name (device)
            that its tasks are compiled for; other pools are not used.
        watched: Whether a watcher scores checkpoints, and is paid for, during training.
        max_examples: Maximum examples scored before and after training.
        max_tokens: Tokens of the longest example.
        serve_on: Kind of node the model will be served on, cpu or gpu.
        candidates: Formats that quantize will try; [off] if it does not run.
        calibrate: One measured step (pool, saved_bytes, tokens_per_second); empty for none.
    """
    given = NEUTRAL | own_flags(locals()) | {"run": decision.uri}
    return container("deepcuts.components.plan.step", image="train", receipt=receipt, **given)
