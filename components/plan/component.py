"""The KFP face of plan."""

from kfp import dsl

from deepcuts.components.core.container import container, parameter_files


@dsl.container_component
def plan(
    base: dsl.Input[dsl.Model],
    decision: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    planned: dsl.OutputPath(dict),  # type: ignore[valid-type]
    train_pool: dsl.OutputPath(str),  # type: ignore[valid-type]
    train_selector: dsl.OutputPath(dict),  # type: ignore[valid-type]
    train_tolerations: dsl.OutputPath(list),  # type: ignore[valid-type]
    train_cpu: dsl.OutputPath(str),  # type: ignore[valid-type]
    train_memory: dsl.OutputPath(str),  # type: ignore[valid-type]
    train_accelerator: dsl.OutputPath(str),  # type: ignore[valid-type]
    train_accelerators: dsl.OutputPath(str),  # type: ignore[valid-type]
    beside_cpu: dsl.OutputPath(str),  # type: ignore[valid-type]
    beside_memory: dsl.OutputPath(str),  # type: ignore[valid-type]
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
        train_pool: Name of the pool to train on; the next six are what its pod asks for.
        train_selector: Node labels that mean this pool.
        train_tolerations: Of its taints.
        train_cpu: Cores.
        train_memory: Of the node, sized from the model.
        train_accelerator: Resource name of its accelerators.
        train_accelerators: How many; 0 on a CPU pool.
        beside_cpu: Cores of a pod that scores the model meanwhile, on the pool beside.
        beside_memory: Its memory.
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
        spot=spot,
        queue=queue,
        beside=beside,
        serve_on=serve_on,
        candidates=candidates,
        calibrate=calibrate,
        placed=parameter_files(
            train_pool=train_pool,
            train_selector=train_selector,
            train_tolerations=train_tolerations,
            train_cpu=train_cpu,
            train_memory=train_memory,
            train_accelerator=train_accelerator,
            train_accelerators=train_accelerators,
            beside_cpu=beside_cpu,
            beside_memory=beside_memory,
        ),
    )
