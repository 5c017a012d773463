"""The KFP face of plan."""

from types import SimpleNamespace
from typing import Any

from kfp import dsl

from deepcuts.components.core.container import container, parameter_files


def flags(given: Any, **changed: object) -> dict[str, object]:
    """Return the flags of plan, from ``given``, a component's parameters of the same names."""
    placed = {name: value for name, value in vars(given).items() if name.startswith(("train_", "scoring_"))}
    return {
        "base": given.base.path,
        "receipts": "{}",
        "run": given.decision.uri,
        "decision": given.decision.path,
        "planned": given.planned,
        "placed": parameter_files(**placed),
        "recipe": given.recipe,
        "nodepools": given.nodepools,
        "deadline_hours": given.deadline_hours,
        "budget_usd": given.budget_usd,
        "reserve_share": given.reserve_share,
        "pool": given.pool,
        "spot": given.spot,
        "queue": given.queue,
        "watcher": given.watcher,
        "serve_on": given.serve_on,
        "candidates": given.candidates,
    } | changed


@dsl.container_component
def plan(
    base: dsl.Input[dsl.Model],
    decision: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    planned: dsl.OutputPath(dict),  # type: ignore[valid-type]
    train_pool: dsl.OutputPath(str),  # type: ignore[valid-type]
    train_selector: dsl.OutputPath(dict),  # type: ignore[valid-type]
    train_taints: dsl.OutputPath(list),  # type: ignore[valid-type]
    train_cpu: dsl.OutputPath(str),  # type: ignore[valid-type]
    train_memory: dsl.OutputPath(str),  # type: ignore[valid-type]
    train_device: dsl.OutputPath(str),  # type: ignore[valid-type]
    train_devices: dsl.OutputPath(str),  # type: ignore[valid-type]
    scoring_cpu: dsl.OutputPath(str),  # type: ignore[valid-type]
    scoring_memory: dsl.OutputPath(str),  # type: ignore[valid-type]
    recipe: dict,
    nodepools: dict,
    deadline_hours: float,
    budget_usd: float,
    reserve_share: float,
    objective: str,
    answer_share: float,
    pool: str,
    spot: str,
    queue: str,
    watcher: str,
    serve_on: str,
    candidates: list,
    calibrate: dict,
):
    """Choose pool, strategy, micro-batch and checkpointing for a training run, before anything is bought.

    The outputs ``train_…`` place its task; ``scoring_…`` size the tasks that score the model meanwhile.

    Args:
        base: The pretrained model, which is saved, merged and loaded again for a test.
        decision: What to run, and every rejected alternative with its reason (JSON); report for people.
        planned: The recipe with micro_batch_size, gradient_checkpointing and budget_seconds decided.
        recipe: Hyperparameters; see components/core/recipe.py.
        nodepools: Where steps may run, what an hour costs, and what the devices can do.
        deadline_hours: The run has to be done by then at p90; 0 is no deadline.
        budget_usd: What the whole run may cost; 0 is no bound. Unknown prices are then refused.
        reserve_share: Share of it that is kept for the steps after training.
        objective: cheapest or fastest.
        answer_share: Share of the tokens that carry loss; 1 is the safe bound.
        pool: Where training has to run; auto leaves the choice free.
        spot: Whether a spot pool may be taken: never or allowed.
        queue: Kueue queue that the training's pods are labelled for; pools of another are not taken.
        watcher: Where the watcher runs, which is paid for as long as training; empty for none.
        serve_on: Kind of node that the model will be served on, cpu or gpu.
        candidates: Formats that quantize will try; [off] where it does not run.
        calibrate: One measured step (pool, saved_bytes, tokens_per_second); empty for none.
    """
    own = flags(
        SimpleNamespace(**locals()),
        report=report.path,
        objective=objective,
        answer_share=answer_share,
        calibrate=calibrate,
    )
    return container("deepcuts.components.plan.step", image="train", receipt=receipt, **own)
