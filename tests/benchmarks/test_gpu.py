"""The command for a person with one GPU: what is left out, what its page says, and that it starts."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from deepcuts.components.core import receipts, recipe
from tests.benchmarks.gpu import __main__ as gpu
from tests.benchmarks.gpu import page, prepare, processes
from tests.benchmarks.gpu.cases import Case, cases, why_left_out

H200 = {"name": "NVIDIA H200", "memory_bytes": 150_110_011_392}
PATH = Case("path", "any", {})
MEASURED = {"part": "arm", "name": "LoRA", "ended": "ok", "seconds": 30.0, "message": ""}
FOUND: dict[str, Any] = {
    "dry": False,
    "date": "2026-11-30",
    "minutes": 8,
    "seconds": 432.0,
    "tokens": 200_000,
    "device": H200,
    "versions": {"torch": "2.11.0", "liger-kernel": None},
    "tiny": "base",
    "base": "SmolLM2",
    "rows": [],
}


def done(part: str, seconds: float, ended: str = "ok") -> dict[str, Any]:
    return {"part": part, "seconds": seconds, "ended": ended}


def lines(rows: list[dict[str, Any]], **changed: Any) -> list[str]:
    return page.markdown(FOUND | {"rows": rows} | changed).splitlines()


@pytest.mark.parametrize(
    ("rows", "left", "runs"),
    [
        ([], 21, True),
        ([], 19, False),
        ([done("path", 60)], 59, False),
        ([done("path", 8), done("path", 5)], 9, True),
        ([done("arm", 60), done("path", 90, "failed")], 21, True),
    ],
)
def test_a_case_runs_where_the_slowest_of_its_part_that_ended_well_would_fit(rows, left, runs):
    why = why_left_out(PATH, left, rows, cuda=True, lacks="")
    assert (why == "") == runs
    assert runs or why.startswith(f"{left} s were left, about ")


def test_a_case_that_needs_a_device_or_a_model_says_so():
    assert why_left_out(PATH._replace(cuda_only=True), 99, [], False, "") == "needs a CUDA device"
    assert why_left_out(PATH, 99, [], True, "no SmolLM2: offline") == "no SmolLM2: offline"


@pytest.mark.parametrize("dry", [True, False])
def test_every_recipe_is_one_and_no_two_cases_share_a_folder(dry):
    found = cases(2_000 if dry else 200_000, dry)
    precisions = {recipe.parse(case.recipe).precision for case in found}
    assert precisions == ({"auto"} if dry else {"auto", "bf16"})
    assert len({(case.part, case.name) for case in found}) == len(found)


def test_what_was_not_measured_is_a_dash_and_a_failure_its_message():
    failed = {"part": "path", "name": "nf4", "ended": "failed", "seconds": 9.0, "message": "no a|b: get it"}
    text = lines([failed, MEASURED])
    assert "| nf4 | failed | – | 9.0 | – | – | no a\\|b: get it |" in text
    assert "| LoRA | ok |" + " – |" * 9 + "  |" in text


def test_an_arm_stands_against_what_plan_predicted():
    predicted = {"allocated_bytes": 2_000_000_000, "total_bytes": 3_000_000_000, "train_seconds_p50": 9.04}
    predicted |= {"hours_p50": 0.02, "hours_p90": 0.2}
    measured = {"tokens_per_second": 12_345, "peak_device_bytes": 2_500_000_000, "train_seconds": 16.2}
    row = MEASURED | measured | {"predicted": predicted, "wall_seconds": 36.0, "valid_loss": 1.5}
    wanted = "12,345 | 2.50 GB | 2.00 GB | 3.00 GB | 16.2 | 9.0 | 0.0100 | 0.0200 to 0.2000 | 1.5000 |"
    assert any(line.startswith(f"| LoRA | ok | {wanted}") for line in lines([row]))


def test_a_path_that_was_not_taken_is_said_in_bold():
    row = {"part": "path", "name": "FSDP", "ended": "ok", "seconds": 1.0, "message": "", "path_taken": False}
    row["facts"] = {"strategy": "single"}
    assert "| FSDP | ok | **no** | 1.0 | – | – | strategy: single |" in lines([row])


def test_the_page_of_a_dry_run_says_first_that_its_figures_mean_nothing():
    assert "its figures mean nothing" in lines([], dry=True)[2]
    assert not any("mean nothing" in line for line in lines([]))


def test_what_was_left_out_is_listed_with_its_reason():
    row = {"part": "arm", "name": "LoRA, compile", "ended": "left out", "message": "3 s were left"}
    text = lines([row])
    assert "| arm | LoRA, compile | 3 s were left |" in text[text.index("## Left out") :]
    assert "Nothing." in lines([])


def receipt(**changed: Any) -> receipts.Receipt:
    fields = {"step": "finetune", "pool": "unknown", "attempt": 1, "started_at": "", "wall_seconds": 9.0}
    fields |= {"cpu_seconds": 1.0, "device_seconds": 0.0, "peak_resident_bytes": 1, "peak_device_bytes": 0}
    return receipts.Receipt(**fields | {"tokens": 0, "end_reason": "ok", "facts": {}} | changed)


def test_a_row_has_what_the_receipt_measured_and_no_zeros_for_the_rest():
    case = Case("path", "Liger", {}, proof=("liger_kernels", "on"))
    facts: receipts.Facts = {"liger_kernels": "off: no CUDA device", "train_seconds": 2.0}
    ended = processes.Ended(0, 9.0, "", "")
    row = processes.from_receipt(case, ended, receipt(tokens=3000, facts=facts))
    assert (row["path_taken"], row["tokens_per_second"], row["peak_device_bytes"]) == (False, 1500, None)
    failed = receipt(end_reason="config", message="recipe.x: fix it")
    row = processes.from_receipt(case, ended._replace(code=2, last_line="other"), failed)
    assert (row["ended"], row["message"]) == ("failed", "recipe.x: fix it")
    assert "tokens_per_second" not in row and "path_taken" not in row


def test_a_process_is_ended_with_the_time_and_its_children_too(tmp_path):
    began = time.monotonic()
    argv = ["sh", "-c", f"echo here >&2; (sleep 5; touch {tmp_path}/late) & sleep 60"]
    ended = processes.run(argv, tmp_path / "log", 1.0, dry=True)
    assert (ended.code, ended.last_line) == (None, "here")
    time.sleep(max(0.0, began + 6 - time.monotonic()))
    assert not (tmp_path / "late").exists()


def test_plan_predicts_with_the_card_of_this_machine_and_no_hours_for_one_it_does_not_know(tmp_path):
    wanted = recipe.parse({"budget_tokens": 200_000, "tokens_per_step": 8192, "micro_batch_size": 1})
    known = prepare.pool(H200, tmp_path)
    handed_on, found = prepare.predict(prepare.TINY, wanted, known, 0.5)
    assert found and handed_on.micro_batch_size == found["micro_batch_size"] == 16
    assert prepare.compared(found, 25)["train_seconds_p50"] > 0
    strange = prepare.pool({"name": "Odd 9000", "memory_bytes": 8_000_000_000}, tmp_path)
    assert strange.accelerator_memory_bytes == 8_000_000_000
    _, found = prepare.predict(prepare.TINY, wanted, strange, 0.5)
    assert found and "hours_p50" not in prepare.compared(found, 25)


def test_without_a_device_the_command_ends_with_3_and_the_fix(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.main(["--folder", str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--dry" in said and not (tmp_path / "gpu.json").exists()


@pytest.mark.slow
def test_a_dry_run_trains_on_a_cpu_and_leaves_both_files(tmp_path: Path):
    argv = ["--dry", "--minutes", "8", "--folder", str(tmp_path), "--only", "all weights"]
    assert gpu.main(argv) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    path, arm, upper = found["rows"]
    assert found["dry"] and found["device"] == {"name": "a CPU"}
    assert path["ended"] == arm["ended"] == upper["ended"] == "ok"
    assert arm["tokens_per_second"] > 0 and arm["peak_device_bytes"] is None
    assert arm["predicted"]["total_bytes"] > 0 and arm["valid_examples"] == prepare.VALID
    assert "its figures mean nothing" in (tmp_path / "gpu.md").read_text().splitlines()[2]


def test_a_dry_run_without_time_runs_nothing_and_says_so_of_each_case(tmp_path: Path):
    assert gpu.main(["--dry", "--minutes", "0", "--folder", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["name"] for row in found["rows"]] == [case.name for case in cases(2_000, True)]
    assert {row["ended"] for row in found["rows"]} == {"left out"}
    assert page.markdown(found) == (tmp_path / "gpu.md").read_text()
