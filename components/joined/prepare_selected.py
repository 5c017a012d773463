"""Prepare data for a search or a distillation in one task, and plan it; see ``prepare.py``."""

from types import SimpleNamespace
from typing import Any

from kfp import dsl

from deepcuts.components.core.container import ChainedStep, between, chain, places
from deepcuts.components.joined.prepare import fetch_data_part, ingest_part, plan_part, select_part


def _selected(given: Any, plan: ChainedStep) -> dsl.ContainerSpec:
    corpus = between("corpus")
    return chain(
        "train",
        given.receipt,
        fetch_data=fetch_data_part(given),
        ingest=ingest_part(given, train=corpus, seed=given.split_seed),
        select=select_part(given, corpus, given.train.path),
        plan=plan,
    )


@dsl.container_component
@places("train", "scoring")
def select_and_plan(
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
    decision: dsl.Output[dsl.Artifact],
    plan: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    planned: dsl.OutputPath(dict),  # type: ignore[valid-type]
    placed: object,
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
    engine: str,
    ray: dict,
    store: str,
    recipe: dict,
    space: dict,
    parallel: int,
    nodepools: dict,
    pool: str,
    spot: str,
    compiled_for: dict,
    max_examples: int,
    seed: int,
):
    """Fetch data, select the examples worth their tokens (``train``), and plan the trials of a search."""
    given = SimpleNamespace(**locals())
    return _selected(given, plan_part(given, ("select",), space=space, parallel=parallel))


@dsl.container_component
@places("train", "scoring")
def select_and_plan_student(
    base: dsl.Input[dsl.Model],
    student: dsl.Input[dsl.Model],
    train: dsl.Output[dsl.Dataset],
    valid: dsl.Output[dsl.Dataset],
    test: dsl.Output[dsl.Dataset],
    labels: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    preview: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
    dropped: dsl.Output[dsl.Dataset],
    selection: dsl.Output[dsl.Markdown],
    decision: dsl.Output[dsl.Artifact],
    plan: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    planned: dsl.OutputPath(dict),  # type: ignore[valid-type]
    placed: object,
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
    engine: str,
    ray: dict,
    store: str,
    recipe: dict,
    layers: str,
    student_config: dict,
    teaching: str,
    nodepools: dict,
    pool: str,
    spot: str,
    compiled_for: dict,
    max_examples: int,
    seed: int,
):
    """Fetch data, select the examples worth their tokens, and plan how ``base`` teaches ``student``."""
    given = SimpleNamespace(**locals())
    made = f'"layers": "{layers}", "config": {student_config}, "method": "{teaching}"'
    taught = f'{{"teacher": "{base.path}", {made}}}'
    return _selected(given, plan_part(given, ("select",), base=student.path, taught=taught))
