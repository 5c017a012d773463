"""Attempts of one task of KFP's, or of a step in a Job, in a real MinIO."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from deepcuts.components.core import attempts, cli, errors, receipts, run_records
from deepcuts.components.core.receipts import Facts, Receipt
from deepcuts.components.core.store import open_store


def executor(url: str, run: str, salt: str = "1", rate: float = 0.1) -> str:
    """What the KFP launcher hands a task of ``run`` whose outputs go below ``url``."""
    uri = f"{url}/pipeline/{run}/train/{salt}/receipt"
    given = {"uri": f"{url}/corpus", "name": salt, "metadata": {}}
    return json.dumps(
        {
            "inputs": {"parameterValues": {"rate": rate}, "artifacts": {"corpus": {"artifacts": [given]}}},
            "outputs": {
                "artifacts": {"receipt": {"artifacts": [{"uri": uri}]}},
                "outputFile": "/nowhere/executor_output.json",
            },
        }
    )


def attempt(step: Callable[[], Facts], executor_input: str, tmp_path: Path) -> tuple[int, Receipt]:
    """Exit code and receipt of one attempt."""
    path = tmp_path / "receipt.json"
    code = cli.run(step, ["--receipt", str(path), "--executor-input", executor_input])
    return code, msgspec.json.decode(path.read_bytes(), type=Receipt)


def never() -> Facts:
    raise AssertionError("an attempt after a final end did the work again")


def raising(error: Exception) -> Callable[[], Facts]:
    def fails() -> Facts:
        raise error

    return fails


FINAL = [
    (errors.DataError("row 3 is no row: mend it"), 3),
    (ValueError("rate is 0: raise it"), 2),
    (errors.GateRefused("0.71 is below 0.75"), 5),
]


@pytest.mark.parametrize(("error", "code"), FINAL, ids=["data", "config", "gate"])
def test_attempt_after_a_final_end_repeats_it_without_work(s3_url, tmp_path, capsys, error, code):
    assert attempt(raising(error), executor(s3_url, "run"), tmp_path)[0] == code
    again, receipt = attempt(never, executor(s3_url, "run", salt="2"), tmp_path)
    assert (again, receipt.attempt) == (code, 1)
    assert capsys.readouterr().err.splitlines()[-1] == f"never: {error}"


def test_terminal_end_says_step_class_and_message(s3_url, tmp_path):
    attempt(
        raising(ValueError("rate is 0: raise it\nseed is x: give a number")), executor(s3_url, "r"), tmp_path
    )
    store = open_store(s3_url)
    (key,) = [key for key in store.list("pipeline/r/train/") if key.endswith(attempts.TERMINAL)]
    end = msgspec.json.decode(store.get_bytes(key), type=attempts.Terminal)
    assert (end.step, end.code, end.end_reason) == ("fails", 2, "config")
    assert end.message.splitlines() == ["rate is 0: raise it", "seed is x: give a number"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"step":"s","code":4,"end_reason":"x","message":""}'])
def test_final_end_that_cannot_be_read_bars_no_attempt_and_is_written_again(s3_url, tmp_path, content):
    attempt(raising(ValueError("rate is 0: raise it")), executor(s3_url, "r"), tmp_path)
    store = open_store(s3_url)
    (key,) = [key for key in store.list("pipeline/r/train/") if key.endswith(attempts.TERMINAL)]
    store.put_bytes(key, content)
    code, receipt = attempt(raising(ValueError("again")), executor(s3_url, "r", salt="2"), tmp_path)
    assert (code, receipt.attempt) == (2, 2)
    assert msgspec.json.decode(store.get_bytes(key), type=attempts.Terminal).message == "again"


def test_wrong_flags_are_a_final_end(s3_url, tmp_path):
    argv = ["--nonsense", "1", "--executor-input", executor(s3_url, "run")]
    assert cli.run(never, argv) == 2
    assert attempt(never, executor(s3_url, "run"), tmp_path)[0] == 2


@pytest.mark.parametrize("error", [errors.StoreError("away"), errors.Preempted("saved"), KeyError("bug")])
def test_other_ends_are_tried_again_and_attempts_are_counted(s3_url, tmp_path, error):
    for number in (1, 2):
        assert attempt(raising(error), executor(s3_url, "run"), tmp_path)[1].attempt == number


def test_new_run_and_other_inputs_start_afresh(s3_url, tmp_path):
    attempt(raising(errors.DataError("row 3")), executor(s3_url, "run"), tmp_path)
    for other in (executor(s3_url, "later"), executor(s3_url, "run", rate=0.2)):
        assert attempt(raising(errors.StoreError("away")), other, tmp_path)[1].attempt == 1


def test_task_whose_pods_are_lost_again_and_again_gives_up(s3_url, tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "MAX_LOST", 2)
    codes = [
        attempt(raising(errors.Preempted("saved")), executor(s3_url, "run"), tmp_path)[0] for _ in range(3)
    ]
    assert codes == [143, 143, 4]


def test_unreachable_store_or_missing_settings_hinder_no_step(s3_url, tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "OUTAGE_SECONDS", 0.1)
    monkeypatch.setenv("S3_ENDPOINT", "http://127.0.0.1:9")
    assert attempt(raising(errors.DataError("row 3")), executor(s3_url, "run"), tmp_path)[0] == 3
    monkeypatch.delenv("S3_ENDPOINT")
    assert attempt(raising(errors.DataError("row 4")), executor(s3_url, "run"), tmp_path)[0] == 3


def test_one_of_several_processes_counts_the_attempt(s3_url, tmp_path, monkeypatch):
    lost = raising(errors.StoreError("away"))
    monkeypatch.setenv("RANK", "1")
    assert cli.run(lost, ["--executor-input", executor(s3_url, "run")]) == 4
    monkeypatch.setenv("RANK", "0")
    assert attempt(lost, executor(s3_url, "run"), tmp_path)[1].attempt == 1


def test_attempts_in_a_job_are_counted_by_step_and_none_is_barred(s3_url, tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPCUTS_ATTEMPTS", f"{s3_url}/attempts/job-1")
    path = tmp_path / "receipt.json"

    def number(step: Callable[[], Facts]) -> int:
        cli.run(step, ["--receipt", str(path)])
        return msgspec.json.decode(path.read_bytes(), type=Receipt).attempt

    def other() -> Facts:
        return {}

    mended = raising(errors.DataError("row 3 is no row: mend it"))  # a Job is made anew when it is mended
    assert [number(mended), number(mended), number(other)] == [1, 2, 1]
    monkeypatch.setenv("DEEPCUTS_ATTEMPTS", f"{s3_url}/attempts/job-2")
    assert number(mended) == 1


def test_step_knows_its_run_for_its_leases_and_the_process_does_not_afterwards(s3_url, tmp_path, monkeypatch):
    monkeypatch.delenv(attempts.RUN, raising=False)
    seen = []

    def looks() -> Facts:
        seen.append(os.environ.get(attempts.RUN))
        return {}

    for run in ("one", "two"):
        assert attempt(looks, executor(s3_url, run), tmp_path)[0] == 0
    assert seen == [f"{s3_url}/pipeline/one", f"{s3_url}/pipeline/two"]
    assert attempts.RUN not in os.environ


def test_receipts_of_pods_that_a_step_starts_become_rows_of_the_runs_ledger(s3_url, tmp_path):
    def starts() -> Facts:
        receipt = receipts.Meter().receipt("select", 0, {})
        open_store(os.environ[attempts.POD_RECEIPTS]).put_bytes(
            "select_ray_head", msgspec.json.encode(receipt)
        )
        return {}

    assert attempt(starts, executor(s3_url, "one"), tmp_path)[0] == 0
    assert attempts.POD_RECEIPTS not in os.environ
    store = open_store(f"{s3_url}/pipeline/one")
    rows = run_records.attempts(store, "train", store.list("train/"))
    assert {name: len(found) for name, found in rows.items()} == {"train": 1, "select_ray_head": 1}
