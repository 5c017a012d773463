"""Selection on Ray: the cut, what was dropped and the report are those of a local selection, byte by byte."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.core import cli, examples, extras, nodepools
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.store import open_store
from deepcuts.components.rayjob.settings import RayCluster
from deepcuts.components.select import duplicates, near
from deepcuts.components.select import ray_blocks as blocks
from deepcuts.components.select.parts import divided, read
from deepcuts.components.select.step import select
from tests.benchmarks import duplicates as stories
from tests.training import tiny

OUTPUTS = ("cut", "dropped", "report")


def values(folder: Path, engine: str, **changed: Any) -> dict[str, Any]:
    places = {name: folder / name for name in ("base", "corpus", "valid", "test")}
    places |= {name: folder / engine / name for name in OUTPUTS}
    settings = {"method": "random", "budget_tokens": 2000, "embedder_uri": "", "engine": engine, "seed": 0}
    thresholds = {"near_threshold": 0.7, "word_threshold": 1.0, "semantic_threshold": 1.0}
    cluster = {"ray": RayCluster(workers=1), "ray_image": "", "nodepools": nodepools.NodePools(())}
    return places | settings | thresholds | cluster | {"store": (folder / "store").as_uri()} | changed


def made(folder: Path, engine: str, **changed: Any) -> dict[str, bytes]:
    select(**values(folder, engine, **changed))
    return {name: (folder / engine / name).read_bytes() for name in OUTPUTS}


def rows(count: int) -> list[Example]:
    """Stories and their copies, under two labels or none."""
    texts, _ = stories.corpus(count, 0)
    labels = ["a", "b", None]
    return [
        Example(f"r{n}", (Message("user", text), Message("assistant", "yes" * (n % 3))), label=labels[n % 3])
        for n, text in enumerate(texts)
    ]


@pytest.fixture
def corpus(tmp_path) -> Path:
    """A folder with a base and 300 rows, of which every ninth is held out."""
    tiny.base(tmp_path / "base")
    records = rows(300)
    examples.write(tmp_path / "corpus", records)
    examples.write(tmp_path / "valid", records[::9])
    examples.write(tmp_path / "test", records[4::9])
    return tmp_path


# threads of Ray stay in the process: once, a later test of the same session never ended
@pytest.mark.slow
def test_ray_selects_what_a_local_selection_does(corpus):
    pytest.importorskip("ray", reason='pip install "deepcuts[ray]"')
    assert made(corpus, "ray") == made(corpus, "local")
    reasons = {json.loads(line)["reason"] for line in (corpus / "ray" / "dropped").open()}
    assert reasons == {"duplicate", "leak", "near_duplicate", "budget"}
    assert [path for path in (corpus / "store").rglob("*") if path.is_file()] == []  # parts are deleted


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {"semantic_threshold": 0.5, "method": "coverage"},
        {"semantic_threshold": 0.6, "method": "target"},
        {"method": "loss"},
    ],
)
def test_what_a_model_reads_on_ray_is_chosen_as_in_a_local_selection(corpus, changed, monkeypatch):
    pytest.importorskip("ray", reason='pip install "deepcuts[ray]"')
    monkeypatch.setattr("deepcuts.components.select.reader.CHUNK", 64)  # several chunks
    torch.set_num_threads(1)  # as in a task of Ray; with more, a vector's last bits may differ
    assert made(corpus, "ray", **changed) == made(corpus, "local", **changed)
    if "semantic_threshold" in changed:
        reasons = {json.loads(line)["reason"] for line in (corpus / "ray" / "dropped").open()}
        assert "semantic_duplicate" in reasons


@pytest.mark.slow  # two sessions of Ray
def test_ray_reports_a_bad_line_by_its_number_and_an_empty_file(corpus, capsys):
    pytest.importorskip("ray", reason='pip install "deepcuts[ray]"')
    lines = (corpus / "corpus").read_bytes().splitlines(keepends=True)
    (corpus / "corpus").write_bytes(b"".join([*lines[:7], b'{"id": 1}\n', *lines[8:]]))
    assert cli.run(select, tiny.argv(flags(corpus, "ray"))) == 3
    assert f"{corpus / 'corpus'}:8: not an Example" in capsys.readouterr().err
    (corpus / "corpus").write_text("")
    assert cli.run(select, tiny.argv(flags(corpus, "ray"))) == 3
    assert "is empty: give it at least one Example" in capsys.readouterr().err


def flags(folder: Path, engine: str, **changed: Any) -> dict[str, Any]:
    return values(folder, engine, **changed) | {"ray": '{"workers": 1}', "nodepools": '{"pools": []}'}


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    asked = ['ray[data]>=2.53,<3; extra == "ray"', "msgspec>=0.19"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked)
    assert extras.advice("ray") == 'ray is not installed: pip install "deepcuts[ray]"'


def test_parts_hold_every_line_once_with_its_number(tmp_path, monkeypatch):
    records = rows(50)
    examples.write(tmp_path / "corpus", records)
    monkeypatch.setattr("deepcuts.components.select.parts.SMALLEST_BYTES", 700)
    parts, count = divided(tmp_path / "corpus", open_store(tmp_path.as_uri()), "parts", workers=3)
    assert len(parts) > 5 and count == 50
    assert [record for part in parts for record in read(part, "corpus")] == records
    starts = [part.first for part in parts]
    assert starts[0] == 0 and starts == sorted(set(starts))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1))
def test_connected_rows_have_the_first_row_that_a_chain_of_pairs_reaches(pairs):
    rows_, firsts = near.connected(np.array(pairs, dtype=np.int64))
    first = dict(zip(rows_.tolist(), firsts.tolist(), strict=True))
    expected = {row: row for pair in pairs for row in pair}
    for _ in expected:  # the slow way: lower both ends until nothing changes
        for one, other in pairs:
            expected[one] = expected[other] = min(expected[one], expected[other])
    assert first == expected


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.integers(1, 5))
def test_pairs_of_partitions_are_those_of_all_rows_together(keys, partitions):
    all_keys, row = np.array(keys, dtype=np.uint64), np.arange(len(keys), dtype=np.uint64)
    whole = set(near.bucket_pairs(all_keys, row).tolist())
    parts = [all_keys % np.uint64(partitions) == part for part in range(partitions)]
    split = {pair for mine in parts for pair in near.bucket_pairs(all_keys[mine], row[mine]).tolist()}
    assert split == whole


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 2)), min_size=1, max_size=30))
def test_preference_as_bytes_sorts_as_by_preference(given_rows):
    records = [
        Example(id, (Message("user", "x" * size), Message("assistant", "y" * size)))
        for id, size in given_rows
    ]
    places = sorted(range(len(records)), key=lambda place: blocks.preference(records[place], place))
    assert places == duplicates.by_preference(records)
