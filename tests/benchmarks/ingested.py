"""Data as Examples for the benchmarks, by ingest in this process."""

from pathlib import Path

from deepcuts.components.core.nodepools import NodePools
from deepcuts.components.ingest.step import ingest
from deepcuts.components.rayjob.settings import RayCluster


def ingested(
    raw: Path,
    base: Path,
    folder: Path,
    max_tokens: int,
    *,
    valid_share: float,
    test_share: float,
    max_bad_share: float,
) -> dict[str, Path]:
    """Write ``raw`` into ``folder`` as Examples for ``base``; return the outputs by name."""
    folder.mkdir(parents=True, exist_ok=True)
    places = {name: folder / name for name in ("train", "valid", "test", "labels", "quarantine", "preview")}
    ingest(
        raw=raw,
        base=base,
        **places,
        page=None,
        format="auto",
        columns=None,
        config=None,
        valid_share=valid_share,
        test_share=test_share,
        max_bad_share=max_bad_share,
        fold_system=False,
        max_tokens=max_tokens,
        engine="local",
        ray=RayCluster(),
        ray_image="",
        nodepools=NodePools(()),
        store="",
        seed=0,
    )
    return places
