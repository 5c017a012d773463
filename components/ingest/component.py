"""The KFP face of ingest."""

from types import SimpleNamespace
from typing import Any

from kfp import dsl

from deepcuts.components.core.container import container, image_name


def flags(given: Any, raw: str, image: str, **changed: object) -> dict[str, object]:
    """Return the flags of ingest in ``image``, from ``given``, a component's parameters of the same names."""
    return {
        "raw": raw,
        "base": given.base.path,
        "train": given.train.path,
        "valid": given.valid.path,
        "test": given.test.path,
        "labels": given.labels.path,
        "quarantine": given.quarantine.path,
        "preview": given.preview.path,
        "page": given.page.path,
        "format": given.format,
        "columns": given.columns,
        "config": given.config,
        "valid_share": given.valid_share,
        "test_share": given.test_share,
        "max_bad_share": given.max_bad_share,
        "fold_system": given.fold_system,
        "max_tokens": given.max_tokens,
        "engine": given.engine,
        "ray": given.ray,
        "ray_image": image_name(image),
        "nodepools": given.nodepools,
        "store": given.store,
        "seed": given.seed,
    } | changed


@dsl.container_component
def ingest(
    raw: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Model],
    train: dsl.Output[dsl.Dataset],
    valid: dsl.Output[dsl.Dataset],
    test: dsl.Output[dsl.Dataset],
    labels: dsl.Output[dsl.Dataset],
    quarantine: dsl.Output[dsl.Dataset],
    preview: dsl.Output[dsl.Markdown],
    page: dsl.Output[dsl.HTML],
    receipt: dsl.Output[dsl.Metrics],
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
    nodepools: dict,
    store: str,
    seed: int,
):
    """Check, convert and split raw training data; set aside unusable rows.

    Args:
        raw: A file or folder of JSONL, JSON, CSV or Parquet, may be compressed.
        base: The model whose tokenizer counts tokens.
        train: Examples to train on (JSONL).
        valid: Examples to steer by (JSONL).
        test: Examples to judge by (JSONL).
        labels: The distinct labels (JSON list), empty if it is not classification.
        quarantine: Bad rows with file, line and reason (JSONL).
        preview: What was read, set aside and why, with rendered examples.
        page: The same for a browser, token by token.
        receipt: Resources used, and numbers of rows read, kept and set aside.
        format: Format of the rows; auto detects it.
        columns: Meaning of columns, {"prompt": "question_text", "completion": "gold"}; empty to detect.
        config: Which of several configurations in the folder; empty if there is one.
        valid_share: Share split off train if the data has no valid file; at least two examples.
        test_share: Share split off train if the data has no test file; at least two examples.
        max_bad_share: The data is refused if the share of bad rows is higher.
        fold_system: Move a system turn into the first question, for templates without it.
        max_tokens: Longer examples are set aside, longer plain texts cut into pieces.
        engine: local, on the cores of one node, or ray, on those of several.
        ray: Size and place of the cluster; see components/rayjob/settings.py.
        nodepools: Node pools, among them the one of the cluster.
        store: How data gets to the cluster (s3://).
        seed: Seed of the split.
    """
    return container(
        "deepcuts.components.ingest.step",
        image="data",
        receipt=receipt,
        **flags(SimpleNamespace(**locals()), raw.path, "data"),
    )
