"""One Job starts the next: as ``kubectl create job --from`` would, once, and only where it is worth it."""

import pytest

from components.core.errors import StoreError
from components.retrain import start
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


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    found = CronJobs({"train": CRON})
    with serving(found, tmp_path, "team") as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield found


def test_job_is_the_template_and_its_pods_know_the_window(cluster):
    assert start.main(["train", "w7-train", "w7"]) == 0
    (job,) = cluster.jobs.values()
    labels = LABELS | {"deepcuts-window": "w7"}
    assert job["metadata"] == {"name": "w7-train", "labels": labels}
    assert job["spec"]["template"] == {"metadata": {"labels": labels}, "spec": POD}
    assert job["spec"]["podFailurePolicy"]["rules"] == RULES and job["spec"]["backoffLimit"] == 5


def test_started_again_it_leaves_the_job_that_is_there(cluster, capsys):
    assert start.main(["train", "w7-train", "w7"]) == 0
    cluster.jobs["w7-train"]["mark"] = "first"
    assert start.main(["train", "w7-train", "w7"]) == 0
    assert cluster.jobs["w7-train"]["mark"] == "first" and "before" in capsys.readouterr().out


@pytest.mark.parametrize(("said", "made"), [("true", 1), ("false", 0)])
def test_started_only_where_it_is_worth_it(cluster, tmp_path, said, made):
    (tmp_path / "retrain").write_text(said)
    assert start.main(["train", "w7-train", "w7", str(tmp_path / "retrain")]) == 0
    assert len(cluster.jobs) == made


def test_without_a_decision_nothing_is_started(cluster, tmp_path, capsys):
    assert start.main(["train", "w7-train", "w7", str(tmp_path / "none")]) == 3
    assert cluster.jobs == {} and str(tmp_path / "none") in capsys.readouterr().err


@pytest.mark.parametrize(("cronjob", "refuse"), [("trian", []), ("train", [403])])
def test_what_is_missing_is_named_with_the_fix(cluster, capsys, cronjob, refuse):
    cluster.refuse = refuse
    assert start.main([cronjob, "w7-train", "w7"]) == 2
    told = capsys.readouterr().err
    assert f"CronJob {cronjob} in team" in told and "kubectl apply -k" in told


def test_an_outage_is_waited_out_and_in_the_end_is_retryable(cluster):
    cluster.refuse = [503]
    assert start.main(["train", "w7-train", "w7"]) == 0 and "w7-train" in cluster.jobs
    cluster.refuse = [503] * 9
    with pytest.raises(StoreError, match="not today"):
        start.start("train", "w8-train", "w8", outage_seconds=0.1)
