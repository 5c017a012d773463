"""The KFP face of select."""

from kfp import dsl

from deepcuts.components.core.container import container, image_name
from deepcuts.components.core.faces import flags


@dsl.container_component
def select(
    base: dsl.Input[dsl.Model],
    corpus: dsl.Input[dsl.Dataset],
    valid: dsl.Input[dsl.Dataset],
    test: dsl.Input[dsl.Dataset],
    cut: dsl.Output[dsl.Dataset],
    dropped: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    method: str,
    budget_tokens: int,
    near_threshold: float,
    word_threshold: float,
    semantic_threshold: float,
    embedder_uri: str,
    engine: str,
    ray: dict,
    nodepools: dict,
    store: str,
    seed: int,
):
    """Keep the examples worth their tokens: no duplicates, no leaks, the best under a budget.

    Args:
        base: The model whose tokenizer, states and losses are used.
        corpus: Examples to choose from (JSONL).
        valid: Examples to steer by: their leaks are removed, target chooses similar ones.
        test: Examples to judge by: their leaks are removed.
        cut: The examples kept, in the order of the corpus (JSONL).
        dropped: The others, with reason and the example kept in their place (JSONL).
        report: What was dropped and why, with examples.
        receipt: What it took, including scoring passes.
        method: deduplicate-only, random, coverage, target or loss.
        budget_tokens: Maximum tokens to keep; 0 with deduplicate-only, or with random to keep all.
        near_threshold: Jaccard similarity of 5-byte shingles from which texts are duplicates.
        word_threshold: The same for sets of words, in any order; 1: never, as order has meaning:
            "Ann is older than Bob" has the words of "Bob is older than Ann".
        semantic_threshold: The same for the cosine of the base model's states; 1: never.
        embedder_uri: A sentence-transformers model to use instead; empty for the base.
        engine: local, with all examples in memory, or ray, in blocks on several nodes.
        ray: Size and place of the cluster; see components/rayjob/settings.py.
        nodepools: Node pools, among them the one of the cluster.
        store: How data gets to the cluster (s3://).
        seed: Seed of the random choice.
    """
    return container(
        "deepcuts.components.select.step",
        image="train",
        receipt=receipt,
        ray_image=image_name("train"),
        **flags(locals()),
    )
