"""Fetch: bring a model or a data set into the pipeline, identified by content and without code."""

from pathlib import Path

from deepcuts.components.core import cli, files
from deepcuts.components.core.receipts import Facts
from deepcuts.components.fetch import safety, sources
from deepcuts.components.ingest import layouts


def fetch(uri: str, kind: str, artifact: Path, config: str | None) -> Facts:
    """Copy the model or data set at ``uri`` to ``artifact``, a folder or, if ``uri`` is a file, a file.

    ``uri`` is a path, ``file://``, ``s3://``, ``minio://`` or ``hf://[datasets/]org/name@40-digit-commit``;
    ``kind`` is ``model`` or ``dataset``. A model must have config.json and safetensors. Of a data set with
    several configurations only ``config`` is fetched.

    Raises:
        ValueError: the kind, scheme or revision is not supported.
        DataError: the content is broken, needs code, or has several configurations.
        StoreError: the store or the hub is unreachable.
    """
    if kind not in safety.KEPT:
        raise ValueError(f"kind {kind!r} is unknown: give {' or '.join(safety.KEPT)}")
    source = sources.locate(uri, kind)
    names = source.names()
    kept = safety.choose(names, kind)
    if kind == "dataset":
        kept = layouts.of_configuration(uri, kept, config or "")
    safety.check_names(kept)
    with files.staged(artifact) as staging:
        source.copy(kept, staging)
        if kind == "model":
            safety.check_model(staging)
    left = sorted(set(names) - set(kept))
    facts: Facts = {
        "source": uri,
        "digest": files.digest(artifact),
        "bytes": files.size_bytes(artifact),
        "files": len(kept),
        "skipped": len(left),
        "skipped_unsafe": ", ".join(safety.unsafe(left)),
    }
    return facts | (published(artifact) if kind == "model" else {})


def published(model: Path) -> Facts:
    """Return what later steps correct in the published model."""
    # imported here: transformers takes seconds, which data sets do not need
    from deepcuts.components.training import generation

    return {"generation_config": generation.published(model)}


if __name__ == "__main__":
    cli.main(fetch)
