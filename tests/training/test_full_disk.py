"""A full disk: of the store, or of the scratch folder that a checkpoint is written to first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.training import tiny

SCRIPT = """
import json, os, subprocess, sys
from pathlib import Path
disk, folder, argv, full = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[4:], sys.argv[3]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", disk], check=True)
(disk / "tmp").mkdir()
if full == "scratch":
    (disk / "filler").write_bytes(bytes(1_400_000))
    os.environ["TMPDIR"] = str(disk / "tmp")
import torch  # not before: it settles where scratch files go
torch.set_num_threads(1)
from deepcuts.components.core import cli, store
from deepcuts.components.finetune.step import finetune
from deepcuts.components.training.checkpoints import Checkpoints
first = cli.run(finetune, argv)
uri = argv[argv.index("--store") + 1]
training = next(iter((Path(uri.removeprefix("file://")) / "trainings").iterdir())).name
steps = Checkpoints(store.open_store(uri), training, 100).steps()
subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
second = cli.run(finetune, argv)
(folder / "found.json").write_text(json.dumps({"codes": [first, second], "steps": steps}))
"""


@pytest.fixture
def namespace():
    """A command that may mount, or a skip."""
    words = ["unshare", "-Urm", "--"]
    try:
        subprocess.run([*words, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small disk can be mounted here ({error}): the kernel forbids user namespaces")
    return words


@pytest.mark.slow
@pytest.mark.parametrize("full", ["store", pytest.param("scratch", marks=pytest.mark.slow)])
def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_from_it(tmp_path, namespace, full):
    base, disk = tiny.base(tmp_path / "base"), tmp_path / "disk"
    disk.mkdir()
    tiny.write_sums(tmp_path / "train.jsonl", 60)
    (tmp_path / "valid.jsonl").write_text("")
    recipe = tiny.RECIPE | {"learning_rate": 1e-3, "save_every_seconds": 1e-6, "keep_checkpoints": 100}

    def argv(out: Path, store: Path) -> list[str]:
        flags = {"base": base, "train": tmp_path / "train.jsonl", "valid": tmp_path / "valid.jsonl"}
        flags |= {"model": out / "model", "curve": out / "curve.jsonl", "receipt": out / "receipt.json"}
        return tiny.argv(flags | {"store": store.as_uri(), "recipe": json.dumps(recipe)})

    out, store = tmp_path / "out", (disk if full == "store" else tmp_path) / "store"
    words = [*namespace, sys.executable, "-c", SCRIPT, disk, tmp_path, full, *argv(out, store)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    ran = subprocess.run(list(map(str, words)), cwd=ROOT, env=environment, capture_output=True, text=True)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["codes"] == [4, 0], ran.stderr
    assert "No space left" in ran.stderr and "bug" not in ran.stderr
    facts = json.loads((out / "receipt.json").read_text())["facts"]
    assert facts["resumed_at_step"] == (found["steps"] or [0])[-1]
    assert full == "scratch" or len(found["steps"]) > 1
    whole = tmp_path / "whole"
    command = [sys.executable, "-m", "deepcuts.components.finetune.step", *argv(whole, whole / "store")]
    subprocess.run(command, cwd=ROOT, env=environment | {"OMP_NUM_THREADS": "1"}, check=True)
    weights = [(path / "model" / "model.safetensors").read_bytes() for path in (out, whole)]
    assert weights[0] == weights[1]
