"""Every pipeline on a real server: submitted with the command, released, and its ledger brought home."""

import json
import os
from typing import Any

import kfp
import pytest
import yaml

from deepcuts.components.core.store import open_store
from deepcuts.pipelines.kubeflow import server_rules
from tests.kfp.conftest import EXAMPLES, SMALL, Client, kubectl, metadata, workflow

pytestmark = pytest.mark.kfp
BASE, DATA = str(EXAMPLES / "base"), str(EXAMPLES / "support.jsonl")
STATUS_BYTES = 700_000
GIVEN: dict[str, dict[str, Any]] = {
    "finetune": SMALL | {"base_uri": BASE, "data_uri": DATA, "quantize_candidates": ["gguf-q8_0"]},
    "compress": SMALL
    | {
        "base_uri": BASE,
        "data_uri": DATA,
        "quantize_candidates": ["gguf-q8_0"],
        "recipe": SMALL["recipe"] | {"method": "full"},
    },
    "distill": SMALL
    | {
        "teacher_uri": BASE,
        "student_uri": BASE,
        "data_uri": DATA,
        "recipe": SMALL["recipe"] | {"method": "full"},
    },
    "retrain": SMALL
    | {
        "service_uri": BASE,
        "data_uri": DATA,
        "usd_per_unit": 0.01,
        "predictions": 10_000,
        "retraining_usd": 1.0,
        "policy": "always",
        "window": "2026-W48",
    },
    "tune": SMALL
    | {
        "base_uri": BASE,
        "data_uri": DATA,
        "configurations": 3,
        "search_min_tokens": 5_000,
        "search_max_tokens": 20_000,
        "parallel": 1,
    },
    "tune_katib": SMALL
    | {
        "base_uri": BASE,
        "data_uri": DATA,
        "configurations": 3,
        "search_min_tokens": 5_000,
        "search_max_tokens": 20_000,
        "parallel": 1,
        "pool": "gpu",
        "trial_image": f"localhost/deepcuts/train:{os.environ.get('DEEPCUTS_TAG', 'dev')}",
    },
}
ROWS = {
    "finetune": {
        "fetch_model",
        "ingest",
        "select",
        "plan",
        "finetune",
        "watch",
        "accept",
        "quantize",
        "publish",
    },
    "compress": {"fetch_model", "ingest", "prune", "heal", "accept", "quantize", "publish"},
    "distill": {"fetch_teacher", "fetch_student", "ingest", "distill", "control", "accept", "publish"},
    "retrain": {"fetch_service", "ingest", "retrain", "finetune", "accept", "publish"},
    "tune_katib": {"fetch_model", "ingest", "tune", "trials", "finetune", "accept", "publish"},
    "tune": {"fetch_model", "ingest", "tune", "finetune", "accept", "publish"},
}


UI = {
    ("fetch-model", "model"): "system.Model",
    ("prepare", "train"): "system.Dataset",
    ("prepare", "preview"): "system.Markdown",
    ("prepare", "page"): "system.HTML",
    ("prepare", "selection"): "system.Markdown",
    ("prepare", "ordering"): "system.Markdown",
    ("prepare", "plan"): "system.Markdown",
    ("finetune", "model"): "system.Model",
    ("judge", "verdict"): "system.Markdown",
    ("judge", "formats"): "system.Markdown",
    ("judge", "served_verdict"): "system.Markdown",
    ("judge", "accepted"): "system.Model",
    ("publish", "card"): "system.Markdown",
    ("ledger", "summary"): "system.Markdown",
    ("ledger", "report"): "system.HTML",
    ("ledger", "ledger"): "system.Dataset",
}
"""What the main pipeline shows, by task and output."""


@pytest.mark.parametrize("pipeline", GIVEN)
def test_pipeline_is_released_with_its_ledger_at_home_and_a_second_submit_comes_from_the_cache(
    deepcuts: Client, fresh: str, pipeline: str
):
    if pipeline == "tune_katib" and "algorithmName: asha" not in kubectl(
        "get", "configmap", "katib-config", "--ignore-not-found", "-o", "yaml"
    ):
        pytest.skip("no Katib with our algorithm: install Katib, apply manifests/katib")
    given = GIVEN[pipeline] | {"release_name": f"{pipeline.replace('_', '-')}-{fresh}"}
    given |= {"service": f"{pipeline}-{fresh}"} if pipeline == "retrain" else {"seed": int(fresh[:6], 16)}
    first = deepcuts.submit(pipeline, given)
    assert first.code == 0, first.told
    assert set(first.statuses().values()) <= {"done"}
    releases = open_store("minio://mlpipeline/deepcuts").list(f"releases/{given['release_name']}/")
    assert any(key.endswith("config.json") for key in releases)
    book = first.ledger()
    assert ROWS[pipeline] <= book["by_task"].keys() and book["total"]["unknown"] == 0
    assert {"before", "after"} <= book["scorecards"].keys()
    assert (first.folder / "report.html").read_text().lstrip().startswith("<!doctype html>")
    assert all((first.folder / "tasks" / path / "receipt.json").exists() for path in first.record.tasks)
    status = workflow(first.record.run_id)["status"]
    assert "compressedNodes" not in status  # nor did the run's details freeze
    size = len(json.dumps(status["nodes"], separators=(",", ":"), ensure_ascii=False).encode())
    documents = list(yaml.safe_load_all((first.folder / "pipeline.yaml").read_text()))
    assert size == pytest.approx(server_rules.status_bytes(documents), rel=0.1)
    assert pipeline != "finetune" or size < STATUS_BYTES
    if pipeline == "retrain":
        return  # a window is decided once, and a decision comes from no cache
    second = deepcuts.submit(pipeline, given)
    assert second.code == 0, second.told
    assert {name for name, task in second.record.tasks.items() if not task.cached} == {"publish", "ledger"}
    again = second.ledger()
    assert again["reused"]["usd"] == pytest.approx(book["total"]["usd"] - _own(book), rel=0.2)
    assert "cached" in second.told


def _own(book: dict[str, Any]) -> float:
    """What the tasks cost that never come from a cache."""
    return float(sum(book["by_task"][name]["usd"] for name in ("bill", "publish", "publish_start")))


def test_compiled_yaml_runs_as_it_is_with_its_default_parameters(deepcuts: Client, endpoint: str):
    """As from the Kubeflow UI: no parameter is given; the budget alone is cut, so that it takes minutes."""
    assert deepcuts("compile", "finetune", "-o", "finetune.yaml").returncode == 0
    client = kfp.Client(host=endpoint)
    run = client.create_run_from_pipeline_package(
        str(deepcuts.folder / "finetune.yaml"),
        arguments={"recipe": SMALL["recipe"], "max_examples": 20},
        experiment_name="ui",
    )
    assert client.wait_for_run_completion(run.run_id, timeout=3000).state == "SUCCEEDED"


def test_artifacts_and_parameters_are_what_the_ui_shows(deepcuts: Client, endpoint: str, fresh: str):
    given = GIVEN["finetune"] | {"release_name": f"finetune-{fresh}", "seed": int(fresh[:6], 16) + 3}
    done = deepcuts.submit("finetune", given)
    assert done.code == 0, done.told
    found = metadata(done.record.run_id)
    kinds = {(artifact["uri"].split("/")[-3], artifact["name"]): artifact for artifact in found["artifacts"]}
    store = open_store("minio://mlpipeline")
    shown = {"system.Markdown": b"\n", "system.HTML": b"<!doctype html>"}  # a paragraph at least
    for (task, name), kind in UI.items():
        artifact = kinds[task, name]
        assert artifact["type"] == kind, (task, name)
        if kind in shown:
            text = store.get_bytes(artifact["uri"].removeprefix("minio://mlpipeline/"))
            assert shown[kind] in text.lower() and len(text) > 40, (task, name)
    receipts = {task: artifact for (task, name), artifact in kinds.items() if name == "receipt"}
    assert receipts.keys() == done.record.tasks.keys()
    assert all(receipt["numbers"]["wall_seconds"] > 0 for receipt in receipts.values())
    assert receipts["finetune"]["numbers"]["valid_loss"] > 0 and receipts["ledger"]["numbers"]["usd"] > 0
    for task in done.record.tasks:
        assert found["tasks"][task] == task.replace("-", " ").capitalize()
    client = kfp.Client(host=endpoint)
    version = client.get_run(done.record.run_id).pipeline_version_reference
    spec = client.get_pipeline_version(version.pipeline_id, version.pipeline_version_id).pipeline_spec
    known = spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    assert all(parameter.get("description") for parameter in known.values())
