"""HSDP: shards within a node, copies across nodes, here two torchruns of two Gloo processes each."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from deepcuts.components.core.store import FileStore
from deepcuts.components.training import adapters, loop, models, sharding
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.losses import CompletionLoss
from tests.conftest import ROOT
from tests.training import tiny

CHANGED = {
    "micro_batch_size": 1,
    "tokens_per_step": 320,
    "schedule_tokens": 2000,
    "method": "full",
    "learning_rate": 1e-3,
}


def on_two_nodes(folder: Path, changed: dict[str, object]) -> dict[str, Any]:
    """What ranks.py reports of a run over two nodes of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    of_all = {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "2",
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": port,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    words = [sys.executable, "-m", "torch.distributed.run", "-m", "tests.training.ranks"]
    nodes = [
        subprocess.Popen(
            [*words, str(folder), json.dumps(changed), "0"],
            cwd=ROOT,
            env=os.environ | of_all | {"PET_NODE_RANK": str(number)},
        )
        for number in range(2)
    ]
    assert [node.wait(300) for node in nodes] == [0, 0]
    found: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return found


@pytest.mark.parametrize(
    ("processes", "of_a_node", "nodes"), [("4", "2", 2), ("4", "4", 1), ("4", "1", 4), ("1", None, 1)]
)
def test_processes_of_a_node_are_counted_from_what_torchrun_says(monkeypatch, processes, of_a_node, nodes):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if of_a_node:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", of_a_node)
    assert sharding.nodes(SimpleNamespace(num_processes=int(processes))) == nodes


@pytest.mark.slow  # four processes that import torch and transformers: a minute of CPU
def test_two_nodes_of_two_processes_train_as_one_process_and_hold_half_the_weights_each(tmp_path):
    torch.set_num_threads(1)
    recipe = tiny.recipe(**CHANGED)
    model = adapters.adapt(tiny.model("qwen2"), recipe, torch.device("cpu"))
    checkpoints = Checkpoints(FileStore(tmp_path / "alone"), "run", recipe.keep_checkpoints)
    alone = loop.train(CompletionLoss(model), tiny.rendered(40), recipe, Accelerator(cpu=True), checkpoints)
    part = on_two_nodes(tmp_path / "four", CHANGED | {"strategy": "hsdp", "budget_tokens": 900})
    rest = on_two_nodes(tmp_path / "four", CHANGED | {"strategy": "hsdp"})
    assert rest["held_share"] == pytest.approx(0.5, abs=0.02)  # of four: a node has a whole copy
    assert rest["resumed_at_step"] == part["step"] > 0
    for one, four in zip(alone.progress.curve, rest["curve"], strict=True):
        assert four == pytest.approx(one, rel=1e-5), one["tokens"]
    saved = torch.load(tmp_path / "four" / "weights.pt", weights_only=True)
    trained = models.trainable(model)
    assert all(torch.allclose(saved[name], trained[name], atol=1e-4) for name in trained)
