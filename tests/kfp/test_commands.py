"""The commands that look after runs, on a real server."""

import json
import time
from collections.abc import Callable

import kfp
import pytest

from tests.kfp.conftest import EXAMPLES, SMALL, Client

pytestmark = pytest.mark.kfp
GIVEN = SMALL | {"base_uri": str(EXAMPLES / "base"), "data_uri": str(EXAMPLES / "support.jsonl")}


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, what
        time.sleep(2)


def test_runs_lists_a_run_and_logs_shows_what_a_step_said(deepcuts: Client, fresh: str):
    (deepcuts.folder / "rows.csv").write_text("text,label\n" + f"{fresh},\n" * 20)
    done = deepcuts.submit("finetune", GIVEN | {"data_uri": "rows.csv"})
    assert done.code == 3, done.told
    listed = deepcuts("runs").stdout
    assert done.record.run_id in listed and "FAILED" in listed
    said = deepcuts("logs", done.record.run_id[:8], "prepare")
    assert said.returncode == 0 and '"step":"ingest"' in said.stdout, said
    wrong = deepcuts("logs", done.record.run_id[:8], "prepares")
    assert wrong.returncode == 3 and "prepare" in wrong.stderr, wrong


def test_schedule_fires_waits_for_the_run_before_and_is_deleted(deepcuts: Client, endpoint: str, fresh: str):
    title = f"every-minute-{fresh}"
    (deepcuts.folder / "scheduled.yaml").write_text(json.dumps(GIVEN | {"release_name": title}))
    words = ("-f", "scheduled.yaml", "--cron", "* * * * *", "--name", title, "--experiment", title)
    assert deepcuts("schedule", "finetune", *words).returncode == 0
    client = kfp.Client(host=endpoint)
    experiment = client.get_experiment(experiment_name=title).experiment_id

    def fired() -> list[str]:
        return [run.state for run in client.list_runs(experiment_id=experiment).runs or []]

    assert title in deepcuts("schedules").stdout
    wait_for(lambda: bool(fired()), 150)
    time.sleep(130)  # two more times have come
    states = fired()
    assert len([state for state in states if state not in ("SUCCEEDED", "FAILED")]) <= 1, states
    refused = deepcuts("schedules", "--delete", title)  # its run would be lost with it
    for run in client.list_runs(experiment_id=experiment).runs or []:
        if run.state not in ("SUCCEEDED", "FAILED"):
            assert refused.returncode == 2 and run.run_id in refused.stderr, refused
            assert deepcuts("cancel", run.run_id).returncode == 0
    wait_for(lambda: all(state in ("SUCCEEDED", "FAILED", "CANCELED") for state in fired()), 120)
    assert deepcuts("schedules", "--delete", title).returncode == 0
    assert title not in deepcuts("schedules").stdout
    count = len(fired())
    time.sleep(75)
    assert len(fired()) == count
