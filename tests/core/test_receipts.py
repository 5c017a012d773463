import datetime
import os
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import msgspec
import pytest

from deepcuts.components.core import receipts
from deepcuts.components.core.errors import DataError, exit_code
from deepcuts.components.core.receipts import END_REASONS, Meter, Receipt
from tests.conftest import ROOT

MIB = 1 << 20
BURN = "while time.process_time() < 0.7: pass"


def receipt_of(code: str, **environment: str) -> Receipt:
    """The receipt of a step in a separate process; ``code`` replaces the body of its module."""
    module = f"import subprocess, sys, time\nfrom deepcuts.components.core import cli\n{code}\ncli.main(work)"
    done = subprocess.run(
        [sys.executable, "-c", module],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        check=True,
    )
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Receipt)


@pytest.fixture(scope="module")
def idle() -> Receipt:
    """What a step costs that does nothing."""
    return receipt_of("def work(): return {}")


def test_receipt_shows_the_cpu_seconds_a_step_burns(idle):
    burnt = receipt_of(f"def work():\n    {BURN}\n    return {{}}")
    assert 0.5 < burnt.cpu_seconds - idle.cpu_seconds < 1.2
    assert burnt.wall_seconds > 0.6


def test_receipt_counts_the_cpu_seconds_of_child_processes(idle):
    child = f"import time\n{BURN}"
    burnt = receipt_of(f"def work():\n    subprocess.run([sys.executable, '-c', {child!r}])\n    return {{}}")
    assert 0.5 < burnt.cpu_seconds - idle.cpu_seconds < 1.2


def test_receipt_tells_waiting_from_working(idle):
    slept = receipt_of("def work():\n    time.sleep(0.6)\n    return {}")
    assert slept.wall_seconds - slept.cpu_seconds > 0.5  # on a busy machine, idle may take as long
    assert slept.cpu_seconds < idle.cpu_seconds + 0.3


def test_receipt_pays_for_slow_imports_too():
    slow = receipt_of("time.sleep(0.6)\ndef work(): return {}")
    assert slow.wall_seconds > 0.6


def test_receipt_shows_the_peak_of_memory_not_its_end(idle):
    used = receipt_of("def work():\n    del (block := bytearray(b'x') * (200 << 20))[:]\n    return {}")
    assert 190 * MIB < used.peak_resident_bytes - idle.peak_resident_bytes < 260 * MIB


def test_receipt_does_not_carry_the_memory_of_a_large_parent():
    step = "from deepcuts.components.core import cli\ndef work(): return {}\ncli.main(work)"
    start = f"subprocess.run([sys.executable, '-c', {step!r}])"
    parent = f"import subprocess, sys; block = b'x' * (300 << 20); {start}"
    done = subprocess.run([sys.executable, "-c", parent], cwd=ROOT, stdout=PIPE, check=True)
    assert msgspec.json.decode(done.stdout, type=Receipt).peak_resident_bytes < 100 * MIB


def test_receipt_shows_the_memory_of_a_child():
    child = "block = b'x' * (200 << 20)"
    used = receipt_of(f"def work():\n    subprocess.run([sys.executable, '-c', {child!r}])\n    return {{}}")
    assert 190 * MIB < used.peak_resident_bytes < 260 * MIB


def test_receipt_knows_pool_and_attempt_from_the_environment(idle):
    here = receipt_of("def work(): return {}", DEEPCUTS_POOL="gpu-spot", DEEPCUTS_ATTEMPT="3")
    assert (here.pool, here.attempt) == ("gpu-spot", 3)
    assert (idle.pool, idle.attempt) == ("unknown", 1)


def test_receipt_takes_tokens_from_the_facts_and_keeps_the_rest(idle):
    told = receipt_of(
        "def work(): return {'tokens': 7, 'loss': 0.5, 'name': 'a', 'flag': True, 'none': None}"
    )
    assert told.tokens == 7
    assert told.facts == {"tokens": 7, "loss": 0.5, "name": "a", "flag": True, "none": None}
    assert idle.tokens == 0


def test_receipt_without_an_accelerator_holds_none(idle):
    assert (idle.device_seconds, idle.peak_device_bytes) == (0.0, 0)


def test_receipt_start_is_utc_and_now():
    started = datetime.datetime.fromisoformat(Meter().receipt("s", 0, {}).started_at)
    assert started.utcoffset() == datetime.timedelta(0)
    assert abs(started.timestamp() - time.time()) < 5


def test_meter_within_a_process_counts_from_its_own_start():
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    measured = Meter().receipt("s", 0, {})
    assert measured.cpu_seconds < 0.1 and measured.wall_seconds < 0.1


def test_process_start_is_before_this_module_and_not_long_ago():
    own = Path("/proc/self/stat")
    if not own.exists():
        pytest.skip("no /proc here: the start is that of the import")
    code = "import time, deepcuts.components.core.receipts as r; print(time.time() - r.process_start())"
    before = time.time()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < time.time() - before + 0.02  # the kernel counts in 10 ms


def test_every_exit_code_has_an_end_reason():
    for error in (ValueError(), DataError(), OSError(), MemoryError(), KeyError(), TimeoutError()):
        assert exit_code(error) in END_REASONS


def test_read_gives_back_what_was_written(tmp_path):
    written = Meter().receipt("select", 3, {"kept": 1})
    (tmp_path / "r.json").write_bytes(msgspec.json.encode(written))
    assert receipts.read(tmp_path / "r.json") == written
    assert written.end_reason == "data"


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b'{"step": 1}'])
def test_read_names_a_file_that_is_no_receipt(tmp_path, data):
    (tmp_path / "r.json").write_bytes(data)
    with pytest.raises(DataError, match="r.json is not a receipt .* run the step again"):
        receipts.read(tmp_path / "r.json")


@pytest.mark.gpu
def test_receipt_shows_what_an_accelerator_held():
    held = receipt_of(
        "import torch\n"
        "def work():\n"
        "    block = torch.ones(64 << 20, device='cuda')\n"
        "    time.sleep(0.5)\n"
        "    return {'sum': float(block[:4].sum())}"
    )
    assert 256 * MIB <= held.peak_device_bytes < 300 * MIB
    assert held.device_seconds >= held.wall_seconds > 0.5
