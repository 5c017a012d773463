"""A run that is stopped: what it says, what its page says, and what the page of the resumed run says."""

import html
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from kfp import compiler, dsl

from deepcuts.components.ledger.component import ledger
from deepcuts.pipelines import pools, stages
from deepcuts.pipelines.placement import on
from tests.pipelines.test_cli import ROOT, deepcuts
from tests.pipelines.toys.faces import make, wait


@dsl.pipeline(name="long")
def long(checkpoint: str, nodepools: dict = {}):  # noqa: B006
    """Take a while, and be billed.

    Args:
        checkpoint: Where it saves.
    """
    bill = stages.task("ledger", ledger, stages.CPU, stages.BOOKKEEPING)(
        scorecards={}, curves={}, plans={}, studies="", nodepools=nodepools, margin_nats=0.05
    ).set_caching_options(False)
    with dsl.ExitHandler(bill, name="run"):
        first = make(text="x", number=1, rate=0.5, flag=True, words=["a"], config={})
        second = wait(source=first.outputs["out"], seconds=1.5, checkpoint=checkpoint)
        for task in (first, second):
            on(pools.named(stages.CPU), task, cpu=1, memory="1Gi", max_hours=1)


def text_of(page: Path) -> str:
    shown = re.sub(r"<style>.*?</style>|<svg.*?</svg>|<[^>]+>", " ", page.read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(shown).split())


def test_interrupted_run_leaves_a_page_and_the_resumed_one_shows_its_attempts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compiler.Compiler().compile(long, "long.yaml")
    words = ["run", "long.yaml", "--set", f"checkpoint={tmp_path / 'saved'}", "--name", "mine"]
    with Path("out").open("w") as out:
        runner = subprocess.Popen(
            [sys.executable, "-m", "deepcuts.pipelines.command.cli", *words],
            stdout=out,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        log, end = Path("runs/mine/tasks/wait/stderr.log"), time.monotonic() + 30
        while not (log.exists() and "waiting" in log.read_text()):
            assert time.monotonic() < end
            time.sleep(0.05)
        runner.send_signal(signal.SIGINT)
        assert runner.wait(30) == 143
    said = Path("out").read_text()
    assert "interrupted in wait: run the same command to resume" in said
    assert "cost so far: " in said and "report: runs/mine/report.html" in said
    page = text_of(Path("runs/mine/report.html"))
    assert "Interrupted in wait: run the same command to resume" in page
    assert page.count("run the same command to resume") == 3, "title, headline, and what is next"
    assert "done make" in page and "stopped after a checkpoint" in page

    assert deepcuts(*words) == 0
    page = text_of(Path("runs/mine/report.html"))
    assert "attempts wait: preempted, ok" in page and "nterrupted" not in page
