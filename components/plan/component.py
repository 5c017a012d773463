"""The KFP face of plan."""

from kfp import dsl

from components.core.container import container


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
    objective: str,
    answer_share: float,
    pool: str,
    calibrate: dict,
):
    """Choose pool, strategy, micro-batch and checkpointing for a training run, before anything is bought.

    Args:
        base: The pretrained model; only its config.json is read.
        decision: What to run, and every rejected alternative with its reason (JSON).
        report: The same for people.
        receipt: What it took.
        planned: The recipe with micro_batch_blocks and gradient_checkpointing decided.
        recipe: Hyperparameters; see components/core/recipe.py.
        nodepools: Where steps may run, what an hour costs, and what the devices can do.
        deadline_hours: The run has to be done by then at p90; 0 is no deadline.
        objective: cheapest or fastest.
        answer_share: Share of the tokens that carry loss; 1 is the safe bound.
        pool: Where training is placed; empty leaves the choice free.
        calibrate: One measured step (pool, saved_bytes, tokens_per_second); empty for none.
    """
    return container(
        "components.plan.step",
        image="data",
        receipt=receipt,
        base=base.path,
        decision=decision.path,
        report=report.path,
        planned=planned,
        recipe=recipe,
        nodepools=nodepools,
        deadline_hours=deadline_hours,
        objective=objective,
        answer_share=answer_share,
        pool=pool,
        calibrate=calibrate,
    )
