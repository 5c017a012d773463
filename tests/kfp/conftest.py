"""A real Kubeflow Pipelines server: KFP_ENDPOINT, its cluster in KUBECONFIG, our images on the nodes.

``DEEPCUTS_TAG`` names the images; the store is the cluster's own MinIO (S3_ENDPOINT). Each test submits with
the command and looks at what the server, the store and the folder of the run then hold.
"""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import urllib3
import yaml

from deepcuts.pipelines.kubeflow import pods
from deepcuts.pipelines.pools import NODEPOOLS
from deepcuts.pipelines.runner import run_record
from deepcuts.pipelines.runner.run_record import RunRecord
from tests.conftest import ROOT

NAMESPACE = "kubeflow"
EXAMPLES = ROOT / "pipelines" / "examples"
SMALL: dict[str, Any] = {
    "max_tokens": 256,
    "max_examples": 20,
    "recipe": {
        "method": "lora",
        "lora_rank": 16,
        "learning_rate": 5e-3,
        "budget_tokens": 20_000,
        "tokens_per_step": 2048,
        "seq_len": 256,
    },
}
"""Seconds of training for the bundled example: what is tested is the server."""
Json = dict[str, Any]


class Submitted(NamedTuple):
    """A run that has ended, as the client left it."""

    code: int
    folder: Path
    record: RunRecord
    told: str
    seconds: float

    def ledger(self) -> Json:
        text = (self.folder / "tasks/ledger/outputs/ledger/ledger.json").read_text()
        found: Json = json.loads(text)
        return found

    def statuses(self) -> dict[str, str]:
        return {name.rpartition(".")[2]: task.status for name, task in self.record.tasks.items()}


@pytest.fixture(scope="session")
def endpoint() -> str:
    """Address of the server."""
    found = os.environ.get("KFP_ENDPOINT", "")
    try:
        urllib3.PoolManager(timeout=5, retries=False).request("GET", f"{found}/apis/v2beta1/healthz")
    except (urllib3.exceptions.HTTPError, ValueError):
        pytest.skip("no Kubeflow Pipelines server answers at KFP_ENDPOINT: start one and set it")
    for name in ("KUBECONFIG", "S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        if name not in os.environ:
            pytest.skip(f"{name} is not set: the tests look into the cluster and its store")
    return found


@pytest.fixture(scope="session")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped pools, with nodes of this machine's size."""
    value = yaml.safe_load(NODEPOOLS.read_text())
    for pool in value["pools"]:
        pool |= {"cpu_cores": os.cpu_count(), "memory_bytes": 20 * 2**30}
    path = tmp_path_factory.mktemp("pools") / "nodepools.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


class Client:
    """The ``deepcuts`` command against the server, in a separate folder."""

    def __init__(self, endpoint: str, pools: Path, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "KF_PIPELINES_ENDPOINT": endpoint,
            "DEEPCUTS_NODEPOOLS": str(pools),
            "PYTHONPATH": str(ROOT),
        }

    def __call__(self, *words: object, **changed: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "deepcuts.pipelines.command.cli", *map(str, words)],
            cwd=self.folder,
            env=self.environment | changed,
            capture_output=True,
            text=True,
        )

    def submit(
        self, pipeline: str, given: Mapping[str, Any], *words: object, title: str = "", **changed: str
    ) -> Submitted:
        """Submit and follow to the end."""
        title = title or f"{pipeline}-{uuid.uuid4().hex[:6]}"
        (self.folder / f"{title}.yaml").write_text(json.dumps(dict(given)))
        began = time.monotonic()
        done = self("submit", pipeline, "-f", f"{title}.yaml", "--name", title, *words, **changed)
        folder = self.folder / "runs" / title
        told = done.stdout + done.stderr
        assert (folder / "run.json").exists(), told
        return Submitted(done.returncode, folder, run_record.read(folder), told, time.monotonic() - began)


@pytest.fixture(scope="session")
def deepcuts(endpoint: str, pools: Path, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(endpoint, pools, tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="session")
def fresh() -> str:
    """Makes arguments that no earlier session's cache knows."""
    return uuid.uuid4().hex[:8]


def kubectl(*words: str) -> str:
    """Ask the cluster, three times where it does not answer: on a busy machine it may not."""
    command = ["kubectl", "-n", NAMESPACE, *words]
    for pause in (2, 2, 0):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            break
        time.sleep(pause)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def workflow(run_id: str) -> Json:
    """The Argo workflow of a run."""
    told = kubectl("get", "workflows", "-l", f"pipeline/runid={run_id}", "-o", "json")
    (found,) = json.loads(told)["items"]
    assert isinstance(found, dict)
    return found


def metadata(run_id: str) -> Json:
    """What ML Metadata has of a run: that is what the UI shows."""
    if not (python := os.environ.get("MLMD_PYTHON")):
        pytest.skip("MLMD_PYTHON is not set: a Python with ml-metadata, which asks what the UI shows")
    service = kubectl("get", "service", "metadata-grpc-service", "-o", "jsonpath={.spec.clusterIP}:8080")
    command = [python, str(Path(__file__).with_name("metadata_of_run.py")), service, run_id]
    found: Json = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def pods_of(run_id: str, task: str) -> list[str]:
    """Names of the running pods of a task."""
    items = json.loads(kubectl("get", "pods", "-l", f"pipeline/runid={run_id}", "-o", "json"))["items"]
    return [
        pod["metadata"]["name"]
        for pod in items
        if pods.path_of(pod["metadata"]["annotations"].get(pods.NODE_ANNOTATION, "")) == task
        and pod["status"]["phase"] == "Running"
    ]


@pytest.fixture
def during() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Runs something during a submit; its failure fails the test."""
    threads: list[threading.Thread] = []
    failed: list[BaseException] = []

    def start(work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # re-raised below, in the test
                failed.append(error)

        threads.append(threading.Thread(target=guarded, daemon=True))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(60)
    if failed:
        raise failed[0]
