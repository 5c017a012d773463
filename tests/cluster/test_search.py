"""A search of the pipeline tune_katib on real nodes; only Katib's controller and database are played."""

import json
import os
import subprocess
import sys
import time

import msgspec
import pytest
import yaml

from components.core.store import open_store
from components.tune.trials import Record
from pipelines.pools import NODEPOOLS
from tests.cluster.controller import DATABASE, PORT, Controller
from tests.cluster.kfp import BUCKET, Run
from tests.conftest import ROOT

pytestmark = pytest.mark.cluster
EXAMPLES = ROOT / "pipelines" / "examples"
FIRST, LAST = 3_000, 9_000
"""Tokens of the two rungs."""


def test_search_trains_on_spot_nodes_promotes_from_a_checkpoint_and_leaves_nothing_behind(
    kubectl, namespace, crds, tag, store, tmp_path
):
    objects = open_store(store)
    for path in (EXAMPLES / "base").iterdir():
        objects.put(f"base/{path.name}", path)
    lines = (EXAMPLES / "support.jsonl").read_text().splitlines(keepends=True)[:300]
    objects.put_bytes("data.jsonl", "".join(lines).encode())
    code = "from pipelines.command.cli import main; main()"
    words = ["compile", "tune_katib", "--output", str(tmp_path / "tune.yaml")]
    environment = os.environ | {"DEEPCUTS_TAG": tag}
    subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, env=environment, check=True)
    given = {
        "base_uri": f"{store}/base",
        "data_uri": f"{store}/data.jsonl",
        "store_uri": f"{store}/search",
        "max_tokens": 256,
        "recipe": {"block_length": 256, "batch_tokens": 1024},
        "space": {"learning_rate": {"kind": "float", "min": 1e-4, "max": 1e-2, "log": True}},
        "search_min_tokens": FIRST,
        "search_max_tokens": LAST,
        "configurations": 3,
        "parallel": 1,
        "trial_cpu": 0.5,
        "trial_memory": "2Gi",
        "db_manager": f"{DATABASE}.{namespace}:{PORT}",
        "nodepools": yaml.safe_load(NODEPOOLS.read_text()),
    }
    run = Run(tmp_path / "tune.yaml", given, namespace)
    controller = Controller(kubectl, namespace, f"localhost/deepcuts/ops:{tag}")
    with controller.running():
        for task in ("fetch-model", "fetch-data", "ingest", "select", "tune-katib"):
            ended = run.run(task)
            assert ended.code == 0, f"{task} on {ended.node}: {ended.log}"

    everything = open_store(f"minio://{BUCKET}")
    lines = everything.get_bytes(run.key("tune-katib", "trials")).splitlines()
    records = [msgspec.json.decode(line, type=Record) for line in lines]
    assert [record.budget_tokens for record in records] == [FIRST, FIRST, FIRST, LAST]
    assert all(record.state == "ok" and record.attempts == 1 for record in records)
    first = min(records[:3], key=lambda record: record.valid_loss)
    last = records[3]
    assert last.values == first.values and last.valid_loss < first.valid_loss
    assert last.receipts[0].facts["resumed_at_step"] > 0
    assert set(controller.nodes.values()) == {"spot-0"} and len(controller.nodes) == 4
    assert run.made["tune-katib"].parameters["best_recipe"]["learning_rate"] == last.values["learning_rate"]

    receipts = everything.list(run.key("tune-katib", "trial_receipts") + "/")
    pools = {json.loads(everything.get_bytes(key))["pool"] for key in receipts}
    assert len(receipts) == 4 and pools == {"gpu-spot"}
    end = time.monotonic() + 60
    while left := kubectl("-n", namespace, "get", "experiments,trials,jobs", "-o", "name"):
        assert time.monotonic() < end, left
        time.sleep(1)
