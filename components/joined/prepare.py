"""Data for a training in two tasks: for each task Kubeflow takes 20 s and 40 kB of a run's status by itself.

What stands between the steps of a task lies in its scratch folder and is not uploaded.
"""

from types import SimpleNamespace
from typing import Any

from kfp import dsl

from components.core.container import chain, container
from components.ingest import component as ingest


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
        ),
        ingest=ingest.with_flags(SimpleNamespace(**locals()), raw, f"{receipt.path}_ingest"),
    )


def _select(given: Any, cut: str) -> dsl.ContainerSpec:
    return container(
        "components.select.step",
        image="train",
        receipt=f"{given.receipt.path}_select",
        base=given.base.path,
        corpus=given.corpus.path,
        valid=given.valid.path,
        test=given.test.path,
        cut=cut,
        dropped=given.dropped.path,
        report=given.selection.path,
        method=given.method,
        budget_tokens=given.budget_tokens,
        near_threshold=given.near_threshold,
        word_threshold=given.word_threshold,
        semantic_threshold=given.semantic_threshold,
        embedder_uri=given.embedder_uri,
        seed=given.seed,
    )


def _curriculum(given: Any, cut: str) -> dsl.ContainerSpec:
    return container(
        "components.curriculum.step",
        image="train",
        receipt=f"{given.receipt.path}_curriculum",
        base=given.base.path,
        cut=cut,
        curriculum=given.curriculum.path,
        report=given.ordering.path,
        signal=given.signal,
        pacing=given.pacing,
        phases=given.phases,
        recipe=given.recipe,
        seed=given.seed,
    )


def _plan(given: Any) -> dsl.ContainerSpec:
    receipt = given.receipt.path
    return container(
        "components.plan.step",
        image="train",
        receipt=f"{receipt}_plan",
        base=given.base.path,
        receipts=f'{{"select": "{receipt}_select", "curriculum": "{receipt}_curriculum"}}',
        run=given.decision.uri,
        decision=given.decision.path,
        report=given.plan.path,
        planned=given.planned,
        recipe=given.recipe,
        nodepools=given.nodepools,
        deadline_hours=given.deadline_hours,
        budget_usd=given.budget_usd,
        reserve_share=given.reserve_share,
        objective="cheapest",
        answer_share="1",
        pool=given.pool,
        beside=given.beside,
        calibrate="{}",
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
    given, cut = SimpleNamespace(**locals()), f"{receipt.path}.cut"
    return chain(
        "train",
        receipt,
        select=_select(given, cut),
        curriculum=_curriculum(given, cut),
        plan=_plan(given),
    )
