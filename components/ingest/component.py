"""The KFP face of ingest."""

from kfp import dsl

from components.core.container import container


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
    receipt: dsl.Output[dsl.Metrics],
    format: str,
    valid_share: float,
    test_share: float,
    max_bad_share: float,
    fold_system: bool,
    max_tokens: int,
    seed: int,
):
    """Check, convert and split raw training data; set aside what cannot be used.

    Args:
        raw: A file or folder of JSONL, JSON, CSV or Parquet.
        base: The model whose tokenizer counts tokens.
        train: Examples to train on (JSONL).
        valid: Examples to steer by (JSONL).
        test: Examples to judge by (JSONL).
        labels: The distinct labels (JSON list), empty where the data is no classification.
        quarantine: Bad rows with file, line and reason (JSONL).
        preview: What was read, set aside and why, with rendered examples.
        format: How rows look; auto finds out.
        valid_share: Share carved out of train where the data has no valid file.
        test_share: Share carved out of train where the data has no test file.
        max_bad_share: Above this share of bad rows the data is refused.
        fold_system: Put a system turn into the first question, for templates that have no such role.
        max_tokens: Longer examples are set aside.
        seed: Of the carving.
    """
    return container(
        "components.ingest.step",
        image="data",
        receipt=receipt,
        raw=raw.path,
        base=base.path,
        train=train.path,
        valid=valid.path,
        test=test.path,
        labels=labels.path,
        quarantine=quarantine.path,
        preview=preview.path,
        format=format,
        valid_share=valid_share,
        test_share=test_share,
        max_bad_share=max_bad_share,
        fold_system=fold_system,
        max_tokens=max_tokens,
        seed=seed,
    )
