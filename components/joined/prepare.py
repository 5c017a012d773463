"""Data for a training in one task: for each task Kubeflow takes 20 s and 60 kB of a run's status by itself.

What stands between the steps of a task lies in its scratch folder and is not uploaded.
"""

from types import SimpleNamespace
from typing import Any

from kfp import dsl

from deepcuts.components.core.container import ChainedStep, between, chain, part
from deepcuts.components.ingest import component as ingest
from deepcuts.components.plan import component as plan_step


def _fetch_data(given: Any) -> ChainedStep:
    return part(
        "deepcuts.components.fetch.step",
        uri=given.uri,
        kind="dataset",
        artifact=between("raw"),
        config=given.config,
    )


def _ingest(given: Any, **changed: object) -> ChainedStep:
    return part("deepcuts.components.ingest.step", **ingest.flags(given, between("raw"), **changed))


def _select(given: Any, corpus: str, cut: str) -> ChainedStep:
    return part(
        "deepcuts.components.select.step",
        base=given.base.path,
        corpus=corpus,
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


def _curriculum(given: Any, cut: str) -> ChainedStep:
    return part(
        "deepcuts.components.curriculum.step",
        base=given.base.path,
        cut=cut,
        curriculum=given.train.path,
        report=given.ordering.path,
        difficulty_signal=given.difficulty_signal,
        pacing=given.pacing,
        phases=given.phases,
        recipe=given.recipe,
        seed=given.seed,
    )


def _plan(given: Any) -> ChainedStep:
    receipt = given.receipt.path
    return part(
        "deepcuts.components.plan.step",
        **plan_step.flags(
            given,
            receipts=f'{{"select": "{receipt}_select", "curriculum": "{receipt}_curriculum"}}',
            report=given.plan.path,
            objective="cheapest",
            answer_share="1",
            calibrate="{}",
        ),
    )


def _planned(given: Any) -> dsl.ContainerSpec:
    receipt = given.receipt
    corpus, cut = between("corpus"), between("cut")
    return chain(
        "train",
        receipt,
        fetch_data=_fetch_data(given),
        ingest=_ingest(given, train=corpus, seed=given.split_seed),
        select=_select(given, corpus, cut),
        curriculum=_curriculum(given, cut),
        plan=_plan(given),
    )


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
    given = SimpleNamespace(**locals())
    return chain("data", receipt, fetch_data=_fetch_data(given), ingest=_ingest(given))


@dsl.container_component
def ingest_and_select(
    base: dsl.Input[dsl.Model],
    train: dsl.Output[dsl.Dataset],
    valid: dsl.Output[dsl.Dataset],
    test: dsl.Output[dsl.Dataset],
    labels: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    preview: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
    dropped: dsl.Output[dsl.Dataset],
    selection: dsl.Output[dsl.Markdown],
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
    split_seed: int,
    method: str,
    budget_tokens: int,
    near_threshold: float,
    word_threshold: float,
    semantic_threshold: float,
    embedder_uri: str,
    seed: int,
):
    """Bring data in and keep the examples worth their tokens: ``train`` is what was selected."""
    given, corpus = SimpleNamespace(**locals()), between("corpus")
    return chain(
        "train",
        receipt,
        fetch_data=_fetch_data(given),
        ingest=_ingest(given, train=corpus, seed=split_seed),
        select=_select(given, corpus, train.path),
    )


@dsl.container_component
def ingest_and_plan(
    base: dsl.Input[dsl.Model],
    train: dsl.Output[dsl.Dataset],
    valid: dsl.Output[dsl.Dataset],
    test: dsl.Output[dsl.Dataset],
    labels: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    preview: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
    dropped: dsl.Output[dsl.Dataset],
    selection: dsl.Output[dsl.Markdown],
    ordering: dsl.Output[dsl.Markdown],
    decision: dsl.Output[dsl.Artifact],
    plan: dsl.Output[dsl.Markdown],
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
    uri: str,
    format: str,
    columns: dict,
    config: str,
    valid_share: float,
    test_share: float,
    max_bad_share: float,
    fold_system: bool,
    max_tokens: int,
    split_seed: int,
    method: str,
    budget_tokens: int,
    near_threshold: float,
    word_threshold: float,
    semantic_threshold: float,
    embedder_uri: str,
    difficulty_signal: str,
    pacing: str,
    phases: int,
    recipe: dict,
    nodepools: dict,
    deadline_hours: float,
    budget_usd: float,
    reserve_share: float,
    pool: str,
    spot: str,
    queue: str,
    watcher: str,
    serve_on: str,
    candidates: list,
    seed: int,
):
    """Bring data in, keep and order the examples worth their tokens (``train``), and plan their training."""
    return _planned(SimpleNamespace(**locals()))
