"""Ingest on Ray: every output is that of a local ingest, byte by byte."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.nodepools import NodePools
from deepcuts.components.ingest import convert
from deepcuts.components.ingest.step import ingest
from deepcuts.components.rayjob.settings import RayCluster
from tests.benchmarks import ray_rows
from tests.training import tiny

# threads of Ray stay in the process, and a session takes ten seconds
pytestmark = pytest.mark.slow
OUTPUTS = ray_rows.OUTPUTS["ingest"]


@pytest.fixture(autouse=True)
def ray() -> None:
    pytest.importorskip("ray", reason='pip install "deepcuts[ray]"')


def values(folder: Path, engine: str, **changed: Any) -> dict[str, Any]:
    places = {name: folder / name for name in ("raw", "base")}
    places |= {name: folder / engine / name for name in OUTPUTS}
    settings: dict[str, Any] = {
        "format": "auto",
        "columns": {},
        "config": "",
        "fold_system": False,
        "seed": 0,
    }
    shares = {"valid_share": 0.05, "test_share": 0.1, "max_bad_share": 0.2, "max_tokens": 120}
    cluster = {"engine": engine, "ray": RayCluster(workers=1), "ray_image": "", "nodepools": NodePools(())}
    return places | settings | shares | cluster | {"store": ""} | changed


def made(folder: Path, engine: str, **changed: Any) -> tuple[dict[str, object], dict[str, bytes]]:
    """(facts, bytes by output) of one run."""
    facts = ingest(**values(folder, engine, **changed))
    return facts, {name: (folder / engine / name).read_bytes() for name in OUTPUTS}


@pytest.fixture
def raw(tmp_path) -> Path:
    """Train in two files with broken, empty, long and repeated rows, valid in CSV, test in Parquet."""
    tiny.base(tmp_path / "base")
    folder = tmp_path / "raw"
    folder.mkdir()
    rows: list[dict[str, Any]] = [
        {"id": str(n % 300), "prompt": f"what is {n % 250}?", "completion": "x" * (n % 150)}
        for n in range(400)
    ]
    lines = [json.dumps(row) for row in rows]
    lines[7], lines[203] = '{"prompt": 1,', "[]"
    (folder / "train-00000-of-00002.jsonl").write_text("\n".join(lines[:250]) + "\n")
    (folder / "train-00001-of-00002.jsonl").write_text("\n".join(lines[250:]) + "\n")
    (folder / "valid.csv").write_text('prompt,completion\n"what, is\n5?",six\n,none\nwhat is 9?,nine\n')
    parquet.write_table(pa.Table.from_pylist([*rows[3:9], {"prompt": None}]), folder / "test.parquet")
    return tmp_path


def test_ray_ingests_what_a_local_ingest_does(raw, monkeypatch):
    monkeypatch.setattr(convert, "CHUNK_ROWS", 30)  # many chunks
    facts, outputs = made(raw, "ray")
    assert (facts, outputs) == made(raw, "local")
    assert facts["bad"] and facts["too_long"] and facts["overlap_removed"] and facts["kept"]
    assert "duplicate ids, renumbered" in str(facts["changes"])


def test_data_that_is_refused_on_ray_has_the_quarantine_and_the_message_of_a_local_ingest(raw):
    with pytest.raises(DataError, match="rows are bad, above max_bad_share 0") as ours:
        made(raw, "ray", max_bad_share=0.0)
    with pytest.raises(DataError) as local:
        made(raw, "local", max_bad_share=0.0)
    assert str(ours.value).replace("/ray/", "/local/") == str(local.value)
    assert [path.name for path in (raw / "ray").iterdir()] == ["quarantine"]
    assert (raw / "ray/quarantine").read_bytes() == (raw / "local/quarantine").read_bytes()
