"""Prepare training data in one task: each Kubeflow task costs 20 s and 60 kB of a run's status.

Files passed between the steps of a task are in its scratch folder and are not uploaded.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from kfp import dsl

from deepcuts.components.core.container import ChainedStep, between, chain, image_name, part, places
from deepcuts.components.ingest import component as ingest
from deepcuts.components.plan import component as plan_step
from deepcuts.components.plan.budget import RESERVE_SHARE


def fetch_data_part(given: Any) -> ChainedStep:
    """Fetch the raw data."""
    return part(
        "deepcuts.components.fetch.step",
        uri=given.uri,
        kind="dataset",
        artifact=between("raw"),
        config=given.config,
    )


def ingest_part(given: Any, **changed: object) -> ChainedStep:
    """Check, convert and split it."""
    return part("deepcuts.components.ingest.step", **ingest.flags(given, between("raw"), "train", **changed))


def select_part(given: Any, corpus: str, cut: str) -> ChainedStep:
    """Select the examples of ``corpus`` worth their tokens, as ``cut``."""
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
        engine=given.engine,
        ray=given.ray,
        ray_image=image_name("train"),
        nodepools=given.nodepools,
        store=given.store,
        seed=given.seed,
    )


def curriculum_part(given: Any, cut: str) -> ChainedStep:
    """Order them."""
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


def plan_part(given: Any, selected: Sequence[str], **own: object) -> ChainedStep:
    """Plan the training; ``selected`` are earlier steps of this task, paid from its budget."""
    charged = ", ".join(f'"{step}": "{given.receipt.path}_{step}"' for step in selected)
    own = {
        "train": given.train.path,
        "receipts": f"{{{charged}}}",
        "planned": given.planned,
        "report": given.plan.path,
    } | own
    return part("deepcuts.components.plan.step", **plan_step.flags(given, **own))


def _ordered(given: Any) -> dsl.ContainerSpec:
    """Return the steps of ``ingest_and_plan``."""
    corpus, cut = between("corpus"), between("cut")
    names = ("deadline_hours", "budget_usd", "serve_on", "candidates")
    own = {name: getattr(given, name) for name in names} | {
        "train": cut,
        "watched": "true",
        "reserve_share": f"{RESERVE_SHARE:g}",
    }
    return chain(
        "train",
        given.receipt,
        fetch_data=fetch_data_part(given),
        ingest=ingest_part(given, train=corpus, seed=given.split_seed),
        select=select_part(given, corpus, cut),
        curriculum=curriculum_part(given, cut),
        plan=plan_part(given, ("select", "curriculum"), **own),
    )


@dsl.container_component
@places("train", "scoring")
def fetch_and_plan(
    base: dsl.Input[dsl.Model],
    train: dsl.Output[dsl.Dataset],
    valid: dsl.Output[dsl.Dataset],
    test: dsl.Output[dsl.Dataset],
    labels: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    preview: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
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
    engine: str,
    ray: dict,
    store: str,
    recipe: dict,
    nodepools: dict,
    pool: str,
    spot: str,
    compiled_for: dict,
    max_examples: int,
    serve_on: str,
    candidates: list,
    teaching: str,
    split_seed: int,
):
    """Fetch raw data, check, convert and split it, and plan a training on it.

    ``teaching`` is the method by which the base teaches the model made from it; empty for none.
    """
    given = SimpleNamespace(**locals(), seed=split_seed)
    taught = f'{{"teacher": "{base.path}", "method": "{teaching}"}}'
    own = {"taught": taught, "serve_on": serve_on, "candidates": candidates}
    return chain(
        "train",
        receipt,
        fetch_data=fetch_data_part(given),
        ingest=ingest_part(given),
        plan=plan_part(given, (), **own),
    )


@dsl.container_component
@places("train", "scoring", "watch")
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
    difficulty_signal: str,
    pacing: str,
    phases: int,
    recipe: dict,
    deadline_hours: float,
    budget_usd: float,
    nodepools: dict,
    pool: str,
    spot: str,
    compiled_for: dict,
    max_examples: int,
    serve_on: str,
    candidates: list,
    seed: int,
):
    """Fetch data, select and order examples worth their tokens (``train``), and plan training."""
    return _ordered(SimpleNamespace(**locals()))
