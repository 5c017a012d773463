"""The KFP face of plan."""

from kfp import dsl

from deepcuts.components.core.container import container


@dsl.container_component
def plan(
    base: dsl.Input[dsl.Model],
    decision: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    planned: dsl.OutputPath(dict),  # type: ignore[valid-type]
    recipe: dict,
    nodepools: dict,
    deadline_hours: float,
    budget_usd: float,
    reserve_share: float,
    objective: str,
    answer_share: float,
    pool: str,
    beside: str,
    serve_on: str,
    candidates: list,
    calibrate: dict,
):
    """Choose pool, strategy, micro-batch and checkpointing for a training run, before anything is bought.

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
        pool: Where training is placed; empty leaves the choice free.
        beside: Where the watcher runs, which is paid for as long as training; empty for none.
        serve_on: Kind of node that the model will be served on, cpu or gpu.
        candidates: Formats that quantize will try; [off] where it does not run.
        calibrate: One measured step (pool, saved_bytes, tokens_per_second); empty for none.
    """
    return container(
        "deepcuts.components.plan.step",
        image="train",
        receipt=receipt,
        base=base.path,
        receipts="{}",
        run=decision.uri,
        decision=decision.path,
        report=report.path,
        planned=planned,
        recipe=recipe,
        nodepools=nodepools,
        deadline_hours=deadline_hours,
        budget_usd=budget_usd,
        reserve_share=reserve_share,
        objective=objective,
        answer_share=answer_share,
        pool=pool,
        beside=beside,
        serve_on=serve_on,
        candidates=candidates,
        calibrate=calibrate,
    )
