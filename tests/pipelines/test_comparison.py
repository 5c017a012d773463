"""Runs side by side: from what runs left on disk to a table and a page."""

import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deepcuts.components.core.cli import write_json
from deepcuts.pipelines.command import cli, conclusion
from deepcuts.pipelines.runner import run_record
from deepcuts.pipelines.runner.run_record import TaskRecord
from deepcuts.pipelines.studies import comparison
from tests.components import test_ledger
from tests.components.test_ledger import CPU, receipt

HEAD = comparison.HEAD


def record(**arguments: Any) -> run_record.RunRecord:
    return run_record.RunRecord(
        pipeline="finetune", package_digest="d", arguments=arguments, parallel=1, started_at="", tasks={}
    )


def made(folder: Path, after: float, ids: range = range(40), **arguments: Any) -> Path:
    """A run that has ended, with the ledger of its two tasks."""
    outputs = folder / "tasks" / "ledger" / "outputs"
    outputs.mkdir(parents=True)
    run = test_ledger.LedgerRun(outputs)
    facts = {"train_seconds": 50.0, "model_bytes": 2**20, "cut_prune": "refused: worse by 0.2 nats"}
    run.task("finetune", receipt("finetune", "cpu", 3600.0, tokens=1234, facts=facts))
    run.task("fetch", receipt("fetch", "cpu", 10.0, tokens=99, end_reason="data"))
    run.scorecard("before", 2.0, ids)
    run.scorecard("after", after, ids)
    assert run.close(CPU) == 0
    told = record(**arguments)
    told.status = "done"
    told.tasks["ledger"] = TaskRecord(name="Ledger", step="ledger", pool="cpu", status="done")
    score = TaskRecord(name="Evaluate", step="evaluate", pool="cpu", status="done")
    score.artifacts["scorecard"] = run.scorecards["after"]
    told.tasks["evaluate"] = score
    write_json(folder / "run.json", told)
    return folder


def told(*folders: Path) -> list[comparison.Summary]:
    return [
        comparison.read(f, run_record.read(f), conclusion.ledger_folder(run_record.read(f), f))
        for f in folders
    ]


def lines(*folders: Path) -> list[dict[str, str]]:
    return [dict(zip(HEAD, line, strict=True)) for line in comparison.table(told(*folders))]


def test_runs_side_by_side_show_quality_cost_and_what_differs(tmp_path):
    one = made(tmp_path / "one", 1.5, seed=0, recipe={"learning_rate": 1e-3, "method": "lora"})
    two = made(tmp_path / "two", 1.6, seed=0, recipe={"learning_rate": 3e-3, "method": "lora"})
    first, second = lines(one, two)
    assert first == {
        "run": "one",
        "differs in": "recipe.learning_rate=0.001",
        "completion loss": "2.200 → 1.700",
        "against before": "−0.500 [−0.500, −0.500]",
        "verdict": "failed, better",
        "against the first run": "–",
        "cost": "$0.3610",
        "wasted": "$0.0010",
        "node time": "1\u00a0h\u00a00\u00a0min",
        "CPU time": "30\u00a0min\u00a05\u00a0s",
        "trained tokens": "1,234",
        "model": "1 MiB",
        "peak memory": "512 MiB",
        "cuts refused": "prune",
    }
    assert second["differs in"] == "recipe.learning_rate=0.003"
    assert second["against the first run"] == "+0.100 [+0.100, +0.100]"


def test_runs_scored_on_other_examples_are_not_compared(tmp_path):
    _, second = lines(made(tmp_path / "one", 1.5), made(tmp_path / "two", 1.5, ids=range(40, 80)))
    assert second["against the first run"] == "other examples"


def test_a_run_without_a_ledger_stands_in_the_table_all_the_same(tmp_path):
    (tmp_path / "early").mkdir()
    write_json(tmp_path / "early" / "run.json", record(seed=1))
    _, early = lines(made(tmp_path / "one", 1.5, seed=0), tmp_path / "early")
    assert early["verdict"] == "running, no ledger" and early["differs in"] == "seed=1"
    assert early["cost"] == "–" and early["against the first run"] == "not measured"


def test_page_of_several_runs_escapes_what_runs_are_called_and_were_told(tmp_path):
    hostile = made(tmp_path / "<script>alert(1)<", 1.5, seed="<img src=x onerror=alert(1)>")
    page = comparison.page(told(made(tmp_path / "one", 1.5, seed=0), hostile), tmp_path / "page.html")
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    assert "http" not in page and len(page) < 300_000


def test_report_of_several_runs_prints_a_table_and_writes_a_page(tmp_path, capsys, monkeypatch):
    folders = [str(made(tmp_path / name, loss)) for name, loss in (("one", 1.5), ("two", 1.6))]
    monkeypatch.setattr(sys, "argv", ["deepcuts", "report", *folders, "--html", str(tmp_path / "both.html")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "2.200 → 1.800" in printed and "+0.100 [+0.100, +0.100]" in printed
    page = (tmp_path / "both.html").read_text()
    assert "+0.100 [+0.100, +0.100]" in page and '<a href="two/report.html">' in page
    assert (tmp_path / "two" / "report.html").is_file() and "<svg " in page
    (best,) = re.findall(r'<tr class="best">(.*?)</tr>', page, re.DOTALL)[:1]
    assert "one" in best and "two" not in best and "different examples" not in page


def test_page_marks_no_best_and_warns_where_the_data_differ(tmp_path):
    runs = told(made(tmp_path / "one", 1.5), made(tmp_path / "two", 1.6))
    assert runs[1].book
    other = msgspec.structs.replace(runs[1].book.scorecards["after"], split_digest="other")
    book = msgspec.structs.replace(runs[1].book, scorecards=runs[1].book.scorecards | {"after": other})
    differing = [runs[0], msgspec.structs.replace(runs[1], book=book)]
    assert comparison.best(differing) is None and comparison.best(runs) is runs[0]
    assert "different examples" in comparison.page(differing, tmp_path / "page.html")
