"""Data for a training in two tasks: for each task Kubeflow takes 20 s and 40 kB of a run's status by itself.

What stands between the steps of a task lies in its scratch folder and is not uploaded.
"""

from kfp import dsl

from components.core.container import chain, container


@dsl.container_component
def fetch_and_ingest(
    base: dsl.Input[dsl.Model],
    train: dsl.Output[dsl.Dataset],
    valid: dsl.Output[dsl.Dataset],
    test: dsl.Output[dsl.Dataset],
    labels: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    preview: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
    receipt: dsl.Output[dsl.Metrics],
    uri: str,
    format: str,
    columns: dict,
    config: str,
    valid_share: float,
    test_share: float,
    max_bad_share: float,
    fold_system: bool,
    max_tokens: int,
    seed: int,
):
    """Bring raw data into the pipeline; check, convert and split it."""
    raw = f"{receipt.path}.raw"
    return chain(
        "data",
        receipt,
        fetch_data=container(
            "components.fetch.step",
            image="data",
            receipt=f"{receipt.path}_fetch_data",
            uri=uri,
            kind="dataset",
            artifact=raw,
            config=config,
        ),
        ingest=container(
            "components.ingest.step",
            image="data",
            receipt=f"{receipt.path}_ingest",
            raw=raw,
            base=base.path,
            train=train.path,
            valid=valid.path,
            test=test.path,
            labels=labels.path,
            quarantine=quarantine.path,
            preview=preview.path,
            page=page.path,
            format=format,
            columns=columns,
            config=config,
            valid_share=valid_share,
            test_share=test_share,
            max_bad_share=max_bad_share,
            fold_system=fold_system,
            max_tokens=max_tokens,
            seed=seed,
        ),
    )


@dsl.container_component
def select_and_plan(
    base: dsl.Input[dsl.Model],
    corpus: dsl.Input[dsl.Dataset],
    valid: dsl.Input[dsl.Dataset],
    test: dsl.Input[dsl.Dataset],
    curriculum: dsl.Output[dsl.Dataset],
    dropped: dsl.Output[dsl.Dataset],
    selection: dsl.Output[dsl.Markdown],
    ordering: dsl.Output[dsl.Markdown],
    decision: dsl.Output[dsl.Artifact],
    plan: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    planned: dsl.OutputPath(dict),  # type: ignore[valid-type]
    method: str,
    budget_tokens: int,
    near_threshold: float,
    word_threshold: float,
    semantic_threshold: float,
    embedder_uri: str,
    signal: str,
    pacing: str,
    phases: int,
    recipe: dict,
    nodepools: dict,
    deadline_hours: float,
    budget_usd: float,
    reserve_share: float,
    pool: str,
    beside: str,
    seed: int,
):
    """Keep the examples worth their tokens, put them into order, and plan their training."""
    cut = f"{receipt.path}.cut"
    return chain(
        "train",
        receipt,
        select=container(
            "components.select.step",
            image="train",
            receipt=f"{receipt.path}_select",
            base=base.path,
            corpus=corpus.path,
            valid=valid.path,
            test=test.path,
            cut=cut,
            dropped=dropped.path,
            report=selection.path,
            method=method,
            budget_tokens=budget_tokens,
            near_threshold=near_threshold,
            word_threshold=word_threshold,
            semantic_threshold=semantic_threshold,
            embedder_uri=embedder_uri,
            seed=seed,
        ),
        curriculum=container(
            "components.curriculum.step",
            image="train",
            receipt=f"{receipt.path}_curriculum",
            base=base.path,
            cut=cut,
            curriculum=curriculum.path,
            report=ordering.path,
            signal=signal,
            pacing=pacing,
            phases=phases,
            recipe=recipe,
            seed=seed,
        ),
        plan=container(
            "components.plan.step",
            image="train",
            receipt=f"{receipt.path}_plan",
            base=base.path,
            receipts=f'{{"select": "{receipt.path}_select", "curriculum": "{receipt.path}_curriculum"}}',
            run=decision.uri,
            decision=decision.path,
            report=plan.path,
            planned=planned,
            recipe=recipe,
            nodepools=nodepools,
            deadline_hours=deadline_hours,
            budget_usd=budget_usd,
            reserve_share=reserve_share,
            objective="cheapest",
            answer_share="1",
            pool=pool,
            beside=beside,
            calibrate="{}",
        ),
    )
