"""One Job starts the next, once, as ``kubectl create job --from`` would."""

import pytest

from deepcuts.components.core import cli
from deepcuts.components.core.errors import StoreError
from deepcuts.components.core.receipts import Meter
from deepcuts.components.retrain import start
from tests.components.api_server import CronJobs, serving

LABELS = {"app.kubernetes.io/part-of": "deepcuts"}
POD = {"containers": [{"name": "step", "image": "train:1", "args": ["$(WINDOW)"]}], "restartPolicy": "Never"}
RULES = [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 3]}}]
TEMPLATE = {
    "metadata": {"labels": LABELS},
    "spec": {
        "backoffLimit": 5,
        "podFailurePolicy": {"rules": RULES},
        "template": {"metadata": {"labels": LABELS}, "spec": POD},
    },
}
CRON = {"metadata": {"name": "train"}, "spec": {"schedule": "0 0 31 2 *", "jobTemplate": TEMPLATE}}
FORBIDDEN = (403, {"reason": "Forbidden", "message": "jobs.batch is forbidden"})
QUOTA = (403, {"reason": "Forbidden", "message": "jobs.batch is forbidden: exceeded quota: deepcuts"})
RACE = (409, {"reason": "Conflict", "message": "the quota has been modified"})
INVALID = (422, {"reason": "Invalid", "message": "metadata.name: must be no more than 63 characters"})
AWAY = (503, {"message": "not today"})


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    found = CronJobs({"train": CRON})
    with serving(found, tmp_path, "team") as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield found


@pytest.fixture
def words(tmp_path):
    receipt = Meter().receipt("pull", 0, {"version": "4f2a"})
    cli.write_json(tmp_path / "pull.json", receipt)
    return ["train", "w7-train", "w7", str(tmp_path / "pull.json")]


def test_job_is_the_template_and_its_pods_know_window_and_release(cluster, words):
    assert start.main(words) == 0
    (job,) = cluster.jobs.values()
    labels = LABELS | {"deepcuts-window": "w7", "deepcuts-release": "4f2a"}
    assert job["metadata"] == {"name": "w7-train", "labels": labels}
    assert job["spec"]["template"] == {"metadata": {"labels": labels}, "spec": POD}
    assert job["spec"]["podFailurePolicy"]["rules"] == RULES and job["spec"]["backoffLimit"] == 5


def test_started_again_it_leaves_the_job_that_is_there(cluster, words, capsys):
    assert start.main(words) == 0
    cluster.jobs["w7-train"]["mark"] = "first"
    assert start.main(words) == 0
    assert cluster.jobs["w7-train"]["mark"] == "first" and "before" in capsys.readouterr().out


def test_without_the_receipt_of_the_release_nothing_is_started(cluster, words, capsys):
    assert start.main([*words[:3], "/none"]) == 3
    assert cluster.jobs == {} and "/none" in capsys.readouterr().err


@pytest.mark.parametrize(("cronjob", "refuse"), [("trian", []), ("train", [FORBIDDEN]), ("train", [INVALID])])
def test_what_will_not_pass_is_said_at_once_with_the_fix(cluster, words, capsys, cronjob, refuse):
    cluster.refuse = refuse
    assert start.main([cronjob, *words[1:]]) == 2
    told = capsys.readouterr().err
    assert f"CronJob {cronjob} in team" in told and "overlay" in told
    assert not refuse and cluster.jobs == {}


@pytest.mark.parametrize("answer", [AWAY, QUOTA, RACE])
def test_what_passes_is_waited_out_and_in_the_end_is_retryable(cluster, words, answer):
    cluster.refuse = [answer, answer]
    assert start.main(words) == 0 and "w7-train" in cluster.jobs
    cluster.refuse = [answer] * 9
    with pytest.raises(StoreError, match=answer[1]["message"]):
        start.start("train", "w8-train", {}, outage_seconds=0.1)
