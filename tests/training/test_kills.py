"""Crash safety of finetune: SIGKILL at counted events, SIGTERM between steps. See kills.py."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def report(folder, method: str, seed: int, trials: int) -> dict[str, int]:
    argv = [sys.executable, "-m", "tests.training.kills", folder, method, str(seed), str(trials)]
    ended = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ended.stdout)


def assert_exact(found: dict[str, int], trials: int) -> None:
    assert found["exact"] == found["trials"] == trials, found
    assert found["kills"] >= trials, found
    assert found["preempted_exact"] == 2, found
    assert found["ignored_steps"] == 0, "a committed checkpoint was not used"


@pytest.mark.parametrize("method", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_killed_runs_go_on_and_end_bit_identical(tmp_path, method):
    assert_exact(report(tmp_path, method, seed=0, trials=10), 10)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_many_killed_runs_go_on_and_end_bit_identical(tmp_path, method):
    assert_exact(report(tmp_path, method, seed=1, trials=100), 100)
