"""Select: keep the examples worth their tokens, without duplicates and leaks of valid or test (cut 12)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from deepcuts.components.core import cli, examples, files, strict
from deepcuts.components.core.bounds import PositiveShare, Seed, Whole
from deepcuts.components.core.examples import Example
from deepcuts.components.core.nodepools import NodePools
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.store import open_store
from deepcuts.components.core.verdicts import Verdict
from deepcuts.components.rayjob import elsewhere
from deepcuts.components.rayjob.session import session
from deepcuts.components.rayjob.settings import Engine, RayCluster
from deepcuts.components.select.ray_selection import RaySelection
from deepcuts.components.select.report import markdown
from deepcuts.components.select.selection import Selection

ALL = "deduplicate-only"
METHODS = (ALL, "random", "coverage", "target", "loss")


def select(
    base: Path,
    corpus: Path,
    valid: Path,
    test: Path,
    cut: Path,
    dropped: Path,
    report: Path,
    method: str,
    budget_tokens: Whole,
    near_threshold: PositiveShare,
    word_threshold: PositiveShare,
    semantic_threshold: PositiveShare,
    embedder_uri: str,
    engine: Engine,
    ray: RayCluster,
    ray_image: str,
    nodepools: NodePools,
    store: str,
    seed: Seed,
) -> Facts:
    """Write examples of ``corpus`` worth ``budget_tokens`` to ``cut``, others with reasons to ``dropped``.

    First drops exact duplicates, examples (nearly) in ``valid`` or ``test``, near-duplicates
    (``near_threshold``, Jaccard of shingles), reordered ones (``word_threshold``, Jaccard of sets of words,
    which are the same in "Ann is older than Bob" and "Bob is older than Ann") and semantic ones
    (``semantic_threshold``, cosine of the base model's pooled states, or of the sentence-transformers model
    at ``embedder_uri``); a word or semantic threshold of 1 skips that pass. Then ``method`` spends the
    budget: random, coverage, target (similar to ``valid``), loss (medium for the base); deduplicate-only, and
    random with budget 0, keep the rest.

    ``engine`` local has all examples in memory, ray has them in blocks on the cluster ``ray``, with the same
    result; in a pod of a pipeline that is a RayJob of ``ray_image``, and ``store`` is how data gets there.

    Raises:
        ValueError: the method is unknown, or the budget does not fit it or is below the shortest example.
        DataError: the corpus is not usable, or scores are not finite.
    """
    given = dict(locals())
    check(method, budget_tokens)
    if engine == "ray" and elsewhere.is_needed():
        files_of = ("base", "corpus", "valid", "test"), ("cut", "dropped", "report")
        return elsewhere.run("deepcuts.components.select.step", given, *files_of)
    steered, judged = ([] if files.size_bytes(path) == 0 else examples.read(path) for path in (valid, test))
    with selection_by(engine, base, embedder_uri, corpus, store, ray) as selection:
        bands = selection.drop_duplicates(near_threshold, word_threshold, [*steered, *judged])
        if semantic_threshold < 1:
            selection.drop_semantic(semantic_threshold)
        unique = len(selection.rows)
        if budget_tokens:
            spend(selection, method, budget_tokens, steered, seed)
        facts = verdict(method, budget_tokens, unique, len(selection.rows)).facts() | selection.facts()
        selection.write(cut)
        cases = selection.dropped()
    with files.staged(dropped) as staging:
        staging.write_bytes(b"".join(msgspec.json.encode(case) + b"\n" for case in cases))
    with files.staged(report) as staging:
        staging.write_text(markdown(facts, bands, cases), encoding="utf-8")
    return facts | {"data_digest": files.digest(cut)}


def check(method: str, budget_tokens: int) -> None:
    """Raise ValueError unless ``method`` exists and the budget fits it."""
    if method not in METHODS:
        raise ValueError(strict.unknown_key("", method, METHODS).replace("unknown key", "unknown method"))
    if budget_tokens and method == ALL or not budget_tokens and method not in (ALL, "random"):
        raise ValueError(
            f"method {method} with budget_tokens {budget_tokens}: give 0 to {ALL}, at least 1 to the others; "
            "random takes both"
        )


@contextmanager
def selection_by(
    engine: Engine, base: Path, embedder_uri: str, corpus: Path, store: str, ray: RayCluster
) -> Iterator[Selection | RaySelection]:
    """Yield a selection in this process, or on Ray."""
    if engine == "local":
        yield Selection(base, embedder_uri, examples.read(corpus))
        return
    with session(ray.workers):
        selection = RaySelection(base, embedder_uri, corpus, open_store(store), ray.workers)
        try:
            yield selection
        finally:
            selection.close()


def spend(
    selection: Selection | RaySelection, method: str, budget_tokens: int, steered: list[Example], seed: int
) -> None:
    """Spend the budget with ``method``; ``steered`` are the examples for target."""
    orders = {
        "random": lambda: selection.random(seed),
        "coverage": lambda: selection.coverage(budget_tokens, seed),
        "target": lambda: selection.target(steered),
        "loss": selection.middling,
    }
    selection.spend(budget_tokens, orders[method])


def verdict(method: str, budget_tokens: int, unique: int, kept: int) -> Verdict:
    """Return what was kept, for the ledger's row of this cut."""
    if not budget_tokens:
        return Verdict("select", "off", f"{ALL}: {kept:,} kept")
    if kept == unique:
        return Verdict("select", "off", f"{method}: budget above the corpus, all {kept:,} kept")
    return Verdict("select", "applied", f"{method}: {kept:,} of {unique:,} unique kept")


if __name__ == "__main__":
    cli.main(select)
