"""A training whose two pods are processes: Gloo between them, files and receipts by the store."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deepcuts.components.core import attempts as attempt_files
from deepcuts.components.core import carry, receipts, run_records
from deepcuts.components.core.spread import SPREAD
from deepcuts.components.core.store import open_store
from tests.components.api_server import serving
from tests.components.trainer import CPUS, PodEnd, TrainerServer
from tests.conftest import ROOT
from tests.training import tiny

pytestmark = pytest.mark.slow  # three or four processes that import torch and transformers
Json = dict[str, Any]


class ProcessPods:
    """Runs each pod as a process, with what Trainer's torch plugin gives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.numbers: dict[str, int] = {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = str(free.getsockname()[1])

    def play(self, job: Json, number: int, uid: str) -> PodEnd | None:
        trainer = job["spec"]["trainer"]
        if uid not in self.running:
            environment = {
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                "PET_NODE_RANK": str(number),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": self._port,
                "POD_UID": uid,
                "PYTHONPATH": str(ROOT),
                "CUDA_VISIBLE_DEVICES": "",
                "OMP_NUM_THREADS": "1",
            }
            command = [sys.executable, *trainer["command"][1:], *trainer["args"]]
            with (self.folder / f"{uid}.log").open("wb") as log:
                self.running[uid] = subprocess.Popen(command, env=os.environ | environment, stderr=log)
            self.numbers[uid] = number
        if (code := self.running[uid].poll()) is None:
            return None
        said = (self.folder / f"{uid}.log").read_text()[-2048:]
        return PodEnd(128 - code if code < 0 else code, said)

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


@pytest.fixture
def pods(tmp_path) -> Iterator[ProcessPods]:
    made = ProcessPods(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def trainer(pods, tmp_path, monkeypatch) -> Iterator[TrainerServer]:
    made = TrainerServer(pods.play)
    with serving(made, tmp_path, "team") as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield made


def executor(folder: Path, s3_url: str, **recipe: object) -> Json:
    """A task of KFP whose inputs lie in the store."""
    given = {}
    tiny.base(folder / "base")
    tiny.write_sums(folder / "train", 60)
    (folder / "valid").write_text("")
    for name in ("base", "train", "valid"):
        uri = f"{s3_url}/run/prepare/x/{name}"
        carry.put(uri, folder / name)
        given[name] = {"artifacts": [{"uri": uri, "customPath": str(folder / name)}]}
    made = {
        name: {
            "artifacts": [
                {"uri": f"{s3_url}/run/finetune/x/{name}", "customPath": str(folder / "out" / name)}
            ]
        }
        for name in ("model", "curve", "receipt")
    }
    values = {
        "store": s3_url,
        "recipe": tiny.RECIPE | {"strategy": "ddp", "precision": "fp32"} | recipe,
        SPREAD: msgspec.to_builtins(CPUS),
        "placed_on": "cpu",
    }
    return {
        "inputs": {"parameterValues": values, "artifacts": given},
        "outputs": {"outputFile": str(folder / "out.json"), "artifacts": made},
    }


def started(folder: Path, task: Json) -> subprocess.Popen[str]:
    """The task as KFP starts it."""
    names = ("base", "train", "valid", "model", "curve", "store", "recipe")
    words = [word for name in names for word in (f"--{name}", f"$.{name}")]
    words += ["--receipt", str(folder / "out" / "receipt"), "--executor-input", json.dumps(task)]
    command = [sys.executable, "-m", "deepcuts.components.finetune.step", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows(task: Json) -> dict[str, list[receipts.Receipt]]:
    root, prefix = attempt_files.of_task(task)
    store = open_store(root)
    return run_records.attempts(store, "finetune", store.list(f"{prefix.rpartition('/')[0]}/"))


def test_two_pods_train_and_a_killed_one_is_replaced(trainer, pods, tmp_path, s3_url):
    task = executor(tmp_path, s3_url, budget_tokens=20_000, schedule_tokens=20_000, save_every_seconds=0.5)
    process = started(tmp_path, task)
    store, until = open_store(s3_url), time.monotonic() + 300
    while not any(key.endswith("manifest.json") for key in store.list("trainings/")):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.2)
    (second,) = [uid for uid, number in pods.numbers.items() if number == 1]
    pods.running[second].send_signal(signal.SIGTERM)  # its node is drained
    told, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    receipt = json.loads(told)
    assert receipt["facts"]["processes"] == receipt["facts"]["nodes"] == 2
    assert receipt["facts"]["resumed_at_step"] > 0
    curve = (tmp_path / "out" / "curve").read_text().splitlines()
    assert len(curve) == receipt["facts"]["steps"]
    assert (tmp_path / "out" / "model").is_dir()
    found = rows(task)
    assert [len(found[f"finetune_node_{number}"]) for number in (0, 1)] == [2, 2]
    assert found["finetune_node_1"][0].end_reason == "preempted"
    assert all(each.wall_seconds > 1 for number in (0, 1) for each in found[f"finetune_node_{number}"])
    assert trainer.jobs == {} and "2 nodes: 2 Running" in said


def test_bad_data_ends_the_task_with_its_own_code_and_message(trainer, tmp_path, s3_url):
    task = executor(tmp_path, s3_url)
    (tmp_path / "train").write_text("{}\n")
    carry.put(task["inputs"]["artifacts"]["train"]["artifacts"][0]["uri"], tmp_path / "train")
    process = started(tmp_path, task)
    told, said = process.communicate(timeout=400)
    assert process.returncode == 3, said
    assert json.loads(told)["end_reason"] == "data" and "node " in json.loads(told)["message"]
