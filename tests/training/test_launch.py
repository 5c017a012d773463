"""A training step over several processes of one machine, started by the step itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepcuts.components.training.launch import launch, of_pod, processes
from tests.conftest import ROOT
from tests.training import tiny

STEP = "deepcuts.components.finetune.step"


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(ROOT)


@pytest.fixture
def argv(tmp_path):
    """Of a finetune on a tiny base; ``changed`` goes to the recipe."""
    base = tiny.base(tmp_path / "base")
    tiny.write_sums(tmp_path / "train.jsonl", 60)
    (tmp_path / "valid.jsonl").write_text("")

    def words(**changed: object) -> list[str]:
        flags = {
            "base": base,
            "train": tmp_path / "train.jsonl",
            "valid": tmp_path / "valid.jsonl",
            "model": tmp_path / "model",
            "curve": tmp_path / "curve.jsonl",
            "store": (tmp_path / "store").as_uri(),
            "recipe": json.dumps(tiny.RECIPE | {"strategy": "ddp"} | changed),
            "receipt": tmp_path / "receipt.json",
        }
        return tiny.argv(flags)

    return words


def receipt(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "receipt.json").read_text())


@pytest.mark.parametrize(("strategy", "count"), [("auto", 1), ("ddp", 4), ("fsdp", 4), ("hsdp", 4)])
def test_a_process_for_each_device_where_the_recipe_names_a_strategy_of_several(strategy, count):
    argv = ["--base", "x", "--recipe", json.dumps({"strategy": strategy})]
    assert processes(argv, devices=4) == count
    assert processes(argv, devices=0) == 1


def test_the_recipe_of_a_task_is_looked_up_in_its_executor_input():
    executor = {"inputs": {"parameterValues": {"recipe": {"strategy": "ddp"}}}}
    argv = ["--recipe", "$.recipe", "--executor-input", json.dumps(executor)]
    assert processes(argv, devices=4) == 4


@pytest.mark.parametrize("argv", [[], ["--recipe", "{"], ["--recipe", '{"strategy": "both"}']])
def test_a_command_that_cannot_be_read_gets_one_process(argv):
    assert processes(argv, devices=4) == 1


@pytest.mark.slow  # 20 s or more on two busy cores
def test_two_processes_train_and_leave_one_receipt_from_the_start_of_the_launcher(tmp_path, argv):
    began = time.time()
    assert launch(STEP, argv(), of_pod(2)) == 0
    found = receipt(tmp_path)
    assert (found["facts"]["strategy"], found["facts"]["processes"]) == ("ddp", 2)
    assert found["facts"]["steps"] == len((tmp_path / "curve.jsonl").read_text().splitlines())
    assert found["wall_seconds"] > time.time() - began  # this process is the launcher, and older


def test_one_process_that_torchrun_started_shards_its_weights_where_the_recipe_says_fsdp(tmp_path, argv):
    assert launch(STEP, argv(strategy="fsdp", method="full"), of_pod(1)) == 0
    found = receipt(tmp_path)
    assert (found["facts"]["strategy"], found["facts"]["processes"]) == ("fsdp", 1)
    assert (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.parametrize(("error", "left"), [("", False), ("raise ValueError('x: y')", True)])
def test_a_rank_that_succeeds_destroys_its_process_group_and_one_that_fails_does_not(tmp_path, error, left):
    code = f"""
import torch.distributed as dist
from deepcuts.components.training import launch

def step() -> dict:
    dist.init_process_group("gloo", init_method="file://{tmp_path}/group", rank=0, world_size=1)
    {error}
    return {{}}

try:
    launch.main(step, "unused")
finally:
    print("left", dist.is_initialized())
"""
    words = [sys.executable, "-c", code, "--receipt", tmp_path / "receipt.json"]
    ended = subprocess.run(words, env=os.environ | {"RANK": "0"}, capture_output=True, text=True, check=False)
    assert f"left {left}" in ended.stdout, ended.stderr
    assert bool(ended.returncode) == left


@pytest.mark.slow
def test_the_exit_code_of_a_failed_process_is_handed_on(tmp_path, argv, capfd):
    (tmp_path / "train.jsonl").write_text("{}\n")
    assert launch(STEP, argv(), of_pod(2)) == 3
    assert receipt(tmp_path)["end_reason"] == "data"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow)]
)
def test_a_launcher_that_is_ended_takes_its_processes_along(tmp_path, argv, number, code):
    words = argv(budget_tokens=2_000_000, schedule_tokens=2_000_000, save_every_seconds=0.2)
    call = "import sys; from deepcuts.components.training.launch import launch, of_pod\n"
    call += f"sys.exit(launch({STEP!r}, {words}, of_pod(2)))"
    launcher = subprocess.Popen([sys.executable, "-c", call], stderr=subprocess.DEVNULL)
    committed = tmp_path / "store" / "trainings"
    deadline = time.monotonic() + 120
    while not list(committed.rglob("manifest*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    ranks = _ranks(tmp_path)
    assert len(ranks) == 2
    launcher.send_signal(number)
    assert launcher.wait(60) == code
    while any(_alive(pid) for pid in ranks) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in ranks)


def _ranks(tmp_path: Path) -> list[int]:
    """Processes of the step that train in ``tmp_path``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # ended meanwhile
            continue
        if words[1:3] == ["-m", STEP] and any(word.startswith(str(tmp_path)) for word in words):
            found.append(int(path.parent.name))
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
