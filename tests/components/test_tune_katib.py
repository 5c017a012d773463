"""tune_katib: the Experiment it builds, and searches on a Katib that keeps the real controller's rules."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from kubeflow_katib_api.models import V1beta1Experiment

from deepcuts.components.core import cli, nodepools, receipts
from deepcuts.components.core.recipe import parse
from deepcuts.components.core.store import open_store
from deepcuts.components.ledger.charges import charges, total
from deepcuts.components.ledger.step import read_receipts
from deepcuts.components.tune.asha import Search
from deepcuts.components.tune.suggestion import validate
from deepcuts.components.tune.task import Attempt, TrialTask, attempts_prefix
from deepcuts.components.tune.trial import now
from deepcuts.components.tune_katib import algorithms, experiment, follow
from deepcuts.components.tune_katib.job import job
from deepcuts.components.tune_katib.register import registered
from deepcuts.components.tune_katib.step import TRIAL, tune_katib
from deepcuts.pipelines import pools
from deepcuts.pipelines.kubeflow import jobs
from deepcuts.pipelines.placement import Size
from tests.components.api_server import serving
from tests.components.katib import Json, KatibServer, recording
from tests.conftest import ROOT
from tests.training import tiny

SPACE = {
    "learning_rate": {"kind": "float", "min": 1e-4, "max": 1e-1, "log": True},
    "method": {"kind": "choice", "values": ["full", "lora"]},
    "lora_rank": {"kind": "choice", "values": [4, 16], "when": {"method": ["lora"]}},
}
RECIPE = tiny.RECIPE | {"precision": "fp32"}
POOLS = {
    "pools": [
        {
            "name": "gpu",
            "selector": {"node-pool": "gpu"},
            "cpu_cores": 8,
            "memory_bytes": 2**30,
            "usd_per_hour": 36.0,
            "price_source": "test",
            "price_date": "2026-11-24",
        }
    ]
}
SECONDS = 10.0
"""Of every pod that a test plays: $0.10 at these prices."""


class TrialPods:
    """Plays the pods of trials: a loss that falls with tokens and with the distance of the rate from 0.01."""

    def __init__(self) -> None:
        self.troubles: list[str] = []
        """Of the pods to come: ``lost``, ``FAILED``, ``never`` (not even begun), or empty for a good end."""
        self.tasks: list[TrialTask] = []

    def play(self, name: str, manifest: Json) -> str:
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        assert container["command"] + container["args"][:-1] == TRIAL
        task = msgspec.json.decode(container["args"][-1], type=TrialTask)
        self.tasks.append(task)
        trouble = self.troubles.pop(0) if self.troubles else ""
        if trouble == "never":
            return "FAILED"
        if trouble == "lost":  # the Job replaces it
            self.leave(task, name, 0, Attempt("gpu", now()))
        budget_tokens = int(task.values.get("budget_tokens", task.max_tokens))
        loss = abs(math.log10(float(task.values["learning_rate"])) + 2) + 100 / budget_tokens
        code = 3 if trouble == "FAILED" else 0
        facts: receipts.Facts = {"valid_loss": loss, "total_tokens": budget_tokens} if code == 0 else {}
        receipt = msgspec.structs.replace(
            receipts.Meter().receipt("tune", code, facts), pool="gpu", wall_seconds=SECONDS
        )
        self.leave(task, name, 1, Attempt("gpu", now(), receipt, "the loss is nan at step 3" if code else ""))
        return "FAILED" if code else repr(loss)

    def leave(self, task: TrialTask, name: str, number: int, attempt: Attempt) -> None:
        key = f"{attempts_prefix(task.search)}{name}/{number}.json"
        open_store(task.store).put_bytes(key, msgspec.json.encode(attempt))


@pytest.fixture
def pods() -> TrialPods:
    return TrialPods()


@pytest.fixture
def katib(pods, tmp_path, monkeypatch):
    """A Katib in the namespace ``team``, to which KUBECONFIG leads; nothing waits."""
    made = KatibServer(pods.play)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    with serving(made, tmp_path, "team") as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield made


@pytest.fixture
def flags(tmp_path, s3_url):
    """The flags of a search of four configurations with two rungs; ``changed`` goes over them."""
    tiny.base(tmp_path / "base")
    tiny.write_sums(tmp_path / "train.jsonl", 20)
    tiny.write_sums(tmp_path / "valid.jsonl", 5, seed=1)

    def made(**changed: object) -> list[str]:
        values = {
            "base": tmp_path / "base",
            "train": tmp_path / "train.jsonl",
            "valid": tmp_path / "valid.jsonl",
            "best_recipe": tmp_path / "out/best.json",
            "trials": tmp_path / "out/trials.jsonl",
            "trial_receipts": tmp_path / "out/receipts",
            "summary": tmp_path / "out/summary.md",
            "store": s3_url,
            "recipe": json.dumps(RECIPE),
            "space": json.dumps(SPACE),
            "algorithm": "asha",
            "min_tokens": 512,
            "max_tokens": 1536,
            "eta": 3,
            "brackets": 1,
            "configurations": 6,
            "parallel": 2,
            "seed": 0,
            "nodepools": json.dumps(POOLS),
            "pool": "gpu",
            "trial_image": "localhost/deepcuts/train:dev",
            "cpu": 2,
            "memory": "4Gi",
            "max_hours": 1,
            "namespace": "",
            "db_manager": "katib-db-manager.kubeflow:6789",
            "keep": "false",
            "receipt": tmp_path / "out/receipt.json",
        }
        return tiny.argv(values | changed)

    return made


def facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out/receipt.json").read_text())["facts"]
    return found


def test_a_search_returns_the_best_recipe_and_charges_every_pod(flags, katib, pods, tmp_path, capsys):
    pods.troubles = ["", "lost", "FAILED"]
    assert cli.run(tune_katib, flags()) == 0
    records = [json.loads(line) for line in (tmp_path / "out/trials.jsonl").read_text().splitlines()]
    top = [r for r in records if r["budget_tokens"] == 1536 and r["state"] == "ok"]
    best = min(top, key=lambda r: r["valid_loss"])
    recipe = json.loads((tmp_path / "out/best.json").read_text())
    assert recipe["learning_rate"] == best["values"]["learning_rate"]
    assert recipe["budget_tokens"] == RECIPE["budget_tokens"]

    (failed,) = [record for record in records if record["state"] == "failed"]
    assert failed["problem"] == "the loss is nan at step 3" and failed["receipts"]
    rows = charges({"trials": read_receipts(tmp_path / "out/receipts")}, nodepools.parse(POOLS))
    assert total(rows).usd == pytest.approx(0.1 * len(records)) and total(rows).unknown == 1
    assert {row.cut for row in rows if row.quantity} == {"search, retraining"}
    told = facts(tmp_path)
    assert told["trial_usd"] == pytest.approx(0.1 * len(records))
    assert told["trials"] == len(records) and told["lost_attempts"] == 1 and told["failed"] == 1
    lines = capsys.readouterr().err.splitlines()
    assert any("best" in line and "$0." in line and "so far" in line for line in lines), lines
    assert katib.experiments == {}  # not kept

    again = (tmp_path / "out/trials.jsonl").read_bytes()
    assert cli.run(tune_katib, flags()) == 0
    assert len(katib.made) == 1 and (tmp_path / "out/trials.jsonl").read_bytes() == again


@pytest.mark.slow
def test_a_search_whose_trials_are_processes_ends_with_a_recipe_and_promotions_go_on(
    flags, katib, tmp_path, monkeypatch
):
    with recording() as database:
        running: dict[str, subprocess.Popen[bytes]] = {}

        def play(name: str, manifest: Json) -> str:
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            if name not in running:
                words = [sys.executable, *container["command"][1:], *container["args"]]
                environment = os.environ | {"KATIB_TRIAL_NAME": name, "OMP_NUM_THREADS": "1"}
                running[name] = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
            if (code := running[name].poll()) is None:
                return ""
            told = [t.observation_log.metric_logs[0] for t in database.told if t.trial_name == name]
            return "FAILED" if code else str(told[-1].metric.value)

        katib.play = play
        monkeypatch.setattr(follow, "POLL_SECONDS", 0.5)
        space = {"learning_rate": {"kind": "choice", "values": [1e-2, 3e-3, 1e-5]}}
        wanted = flags(space=json.dumps(space), configurations=3, parallel=1, db_manager=database.address)
        assert cli.run(tune_katib, wanted) == 0
    records = [json.loads(line) for line in (tmp_path / "out/trials.jsonl").read_text().splitlines()]
    assert [record["rung"] for record in records] == [0, 0, 0, 1]
    (promoted,) = (record["receipts"][0]["facts"] for record in records if record["rung"])
    first = min(records[:3], key=lambda record: record["valid_loss"])
    assert promoted["training_id"] == first["receipts"][0]["facts"]["training_id"]
    assert promoted["resumed_at_step"] == first["receipts"][0]["facts"]["steps"]
    assert facts(tmp_path)["unit_epochs"] == pytest.approx(5, rel=0.1)


def test_a_kept_experiment_that_runs_is_gone_on_with(flags, katib, pods, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(follow.time, "sleep", _crash)
        cli.run(tune_katib, flags(keep="true"))
    assert len(katib.experiments) == 1
    assert cli.run(tune_katib, flags(keep="true")) == 0
    assert len(katib.made) == len(katib.experiments) == 1


def until(holds: Callable[[], object], seconds: float = 60.0) -> float:
    """Seconds until ``holds``; it has to."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)
    return time.monotonic() - began


def started(words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "deepcuts.components.tune_katib.step", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_cancelled_search_stops_spending_at_once_and_the_next_attempt_charges_its_pods_too(
    flags, katib, pods, tmp_path
):
    running = threading.Event()

    def play(name: str, manifest: Json) -> str:
        if len(pods.tasks) < 3:
            return pods.play(name, manifest)
        running.set()
        return ""

    katib.play = play
    process = started(flags(keep="true", configurations=4))
    assert running.wait(60)
    time.sleep(0.5)  # it sleeps now, for 5 s, and KFP grants about one
    process.send_signal(signal.SIGTERM)
    assert until(lambda: not katib.experiments) < 2
    told, said = process.communicate()
    assert process.returncode == 143 and json.loads(told)["end_reason"] == "preempted"
    (name,) = {made["metadata"]["name"] for made in katib.made}
    assert f"Experiment {name} is deleted" in said

    katib.play = pods.play
    assert cli.run(tune_katib, flags(keep="true", configurations=4)) == 0
    assert [made["metadata"]["name"] for made in katib.made] == [name, name]
    assert len(list((tmp_path / "out/receipts").iterdir())) == len(pods.tasks)


def test_sigterm_while_the_experiment_is_made_leaves_none_behind(flags, katib, monkeypatch):
    asked, answer = threading.Event(), katib.answer

    def slow(method: str, path: list[str], body: Json) -> tuple[int, Json]:
        if method == "POST":
            asked.set()
            time.sleep(1)  # Katib's webhooks think
        return answer(method, path, body)

    monkeypatch.setattr(katib, "answer", slow)
    process = started(flags())
    assert asked.wait(60)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143 and len(katib.made) == 1 and katib.experiments == {}


def test_an_experiment_that_cannot_be_deleted_is_named_with_the_command(flags, katib, pods, monkeypatch):
    running, answer = threading.Event(), katib.answer
    katib.play = lambda name, manifest: running.set() or ""

    def deaf(method: str, path: list[str], body: Json) -> tuple[int, Json]:
        return (403, {"message": "no"}) if method == "DELETE" else answer(method, path, body)

    monkeypatch.setattr(katib, "answer", deaf)
    process = started(flags())
    assert running.wait(60)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    (name,) = katib.experiments
    assert process.returncode == 143 and f"kubectl -n team delete experiment {name}" in said


def test_what_is_left_of_a_deleted_experiment_is_waited_for_and_not_taken_up(flags, katib, monkeypatch):
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(follow.time, "sleep", _crash)
        cli.run(tune_katib, flags())
    (old,) = katib.experiments.values()
    old["metadata"]["deletionTimestamp"] = "2026-11-24T10:00:00Z"
    left, answer = [katib.experiments.clear, katib.trials.clear], katib.answer

    def leaving(method: str, path: list[str], body: Json) -> tuple[int, Json]:
        before = answer(method, path, body)
        if left:
            left.pop(0)()
        return before

    monkeypatch.setattr(katib, "answer", leaving)
    assert cli.run(tune_katib, flags()) == 0
    assert len(katib.made) == 2 and not left


def _crash(seconds: float) -> None:
    raise KeyboardInterrupt


def test_katibs_own_algorithms_train_every_configuration_to_the_end(flags, katib, pods, tmp_path):
    made = built(algorithm="tpe", search=Search((1536,), 3, 1, 6))
    assert [p.name for p in made.spec.parameters] == sorted(SPACE)
    assert made.spec.max_trial_count == 6
    assert {s.name: s.value for s in made.spec.algorithm.algorithm_settings} == {"random_state": "0"}
    assert "budget_tokens" not in task_of(made)["values"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"algorithm": "hyperband"}, "first rung"),
        ({"algorithm": "hyperband"}, "give asha"),
        ({"algorithm": "bayesian"}, "did you mean 'bayesianoptimization'"),
        (
            {
                "algorithm": "bayesianoptimization",
                "space": '{"weight_decay": {"kind": "float", "min": 0, "max": 1}}',
            },
            "on a log scale",
        ),
        ({"pool": "tpu"}, "'tpu' is not among"),
        ({"store": "file:///tmp/x"}, "s3://"),
        ({"cpu": 99}, "cpu 99"),
        ({"brackets": 9}, "brackets 9"),
    ],
)
def test_a_search_that_cannot_work_is_refused_before_anything_is_made(flags, katib, capsys, changed, message):
    assert cli.run(tune_katib, flags(**changed)) == 2
    assert message in capsys.readouterr().err and katib.made == []


def test_values_that_katib_would_put_into_the_json_of_the_job_are_refused():
    space = msgspec.convert({"x": {"kind": "choice", "values": ['a"b']}}, dict[str, experiment.Dimension])
    with pytest.raises(ValueError, match="cannot carry"):
        algorithms.check("asha", space)


@pytest.mark.parametrize(
    ("status", "said", "code", "message"),
    [
        (403, "experiments is forbidden", 2, "kubectl apply -k manifests/katib"),
        (404, "not found", 2, "install Katib 0.19"),
        (400, "namespaceLabel katib.kubeflow.org/… is required", 2, "namespaceLabel"),
    ],
)
def test_what_the_cluster_refuses_is_said_with_the_remedy(flags, katib, capsys, status, said, code, message):
    katib.refuse = [(status, said)] * 2
    assert cli.run(tune_katib, flags()) == code
    assert message in capsys.readouterr().err


def test_an_api_server_that_is_away_for_a_while_is_waited_for(flags, katib, tmp_path):
    katib.refuse = [(503, "not now"), (500, "not now")]
    assert cli.run(tune_katib, flags(configurations=3)) == 0


def test_what_the_suggestion_service_refuses_is_said(flags, katib, capsys):
    katib.check = _refuse
    assert cli.run(tune_katib, flags()) == 3
    assert "eta is odd" in capsys.readouterr().err


def _refuse(experiment: Any) -> None:
    raise ValueError("eta is odd")


def test_a_search_of_too_many_failures_says_what_they_failed_of_and_leaves_their_receipts(
    flags, katib, pods, tmp_path, capsys
):
    pods.troubles = ["FAILED"] * 99
    assert cli.run(tune_katib, flags()) == 3
    assert "the loss is nan at step 3" in capsys.readouterr().err
    assert list((tmp_path / "out/receipts").iterdir()) and not (tmp_path / "out/best.json").exists()


def test_a_pod_that_never_ran_has_katibs_reason(flags, katib, pods, tmp_path):
    pods.troubles = ["never"]
    assert cli.run(tune_katib, flags()) == 0
    records = [json.loads(line) for line in (tmp_path / "out/trials.jsonl").read_text().splitlines()]
    assert [r["problem"] for r in records if r["state"] == "failed"] == ["Trial has failed"]
    assert [r["attempts"] for r in records if r["state"] == "failed"] == [0]


def test_no_cluster_is_said(flags, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    assert cli.run(tune_katib, flags()) == 2
    assert "KUBECONFIG" in capsys.readouterr().err


RUNGS = Search((512, 1536), 3, 1, 6)


def built(algorithm: str = "asha", search: Search = RUNGS) -> V1beta1Experiment:
    space = msgspec.convert(SPACE, dict[str, experiment.Dimension])
    task = TrialTask(
        store="s3://b/p",
        search="s" * 64,
        base="b",
        train="t",
        valid="v",
        recipe=parse(RECIPE),
        space=space,
        values={},
        max_tokens=1536,
        db_manager="d:1",
    )
    pool = nodepools.parse(POOLS)["gpu"]
    return experiment.experiment(
        "deepcuts-0", algorithm, search, task, job(pool, "i", TRIAL, 2, "4Gi", 1), 2, 0
    )


def task_of(made: V1beta1Experiment) -> dict[str, Any]:
    (container,) = made.spec.trial_template.trial_spec["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = json.loads(container["args"][-1])
    return found


def test_the_experiment_keeps_what_katib_would_refuse_or_misread():
    made = built().to_dict()
    spec, template = made["spec"], made["spec"]["trialTemplate"]
    assert spec["objective"]["metricStrategies"] == [{"name": "valid_loss", "value": "latest"}]
    assert spec["metricsCollectorSpec"] == {"collector": {"kind": "Push"}}
    assert spec["maxFailedTrialCount"] <= spec["maxTrialCount"] >= spec["parallelTrialCount"]
    named = {parameter["name"] for parameter in spec["parameters"]}
    assert {p["reference"] for p in template["trialParameters"]} == named == {*SPACE, "budget_tokens"}
    assert all(f"${{trialParameters.{name}}}" in json.dumps(template["trialSpec"]) for name in named)
    assert "name" not in template["trialSpec"]["metadata"] and len(made["metadata"]["name"]) <= 40
    assert empties(template["trialSpec"]) == []
    validate(KatibServer(lambda name, manifest: "").words(made))


def empties(value: Any, path: str = "") -> list[str]:
    """Places without a value, which Katib's reading of a Job leaves out, and which it then refuses."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        inside = [found for key, item in items for found in empties(item, f"{path}/{key}")]
        return inside or ([] if value else [path])
    return [path] if value in ("", None) else []


@pytest.mark.parametrize("pool", ["cpu", "gpu", "gpu-spot"])
def test_a_trials_job_is_placed_and_locked_down_as_every_other_job(pool):
    given = {
        "base": "s3://b/x",
        "train": "s3://b/x",
        "valid": "s3://b/x",
        "model": "s3://b/x",
        "curve": "s3://b/x",
    }
    given |= {"store": "s3://b/p", "recipe": {}, "receipt": "s3://b/r"}
    node = pools.named(pool)
    other = jobs.manifest("finetune", "x", given, node, Size(2, "4Gi", 1))
    image = other["spec"]["template"]["spec"]["containers"][0]["image"]
    ours = job(node, image, ["python", "-m", "m", "a"], 2, "4Gi", 1)
    pod, theirs = ours["spec"]["template"]["spec"], other["spec"]["template"]["spec"]
    assert ours["metadata"]["labels"] == other["metadata"]["labels"]
    assert ours["spec"]["template"]["metadata"] == other["spec"]["template"]["metadata"]
    theirs["volumes"] = [volume for volume in theirs["volumes"] if volume["name"] != "carry"]
    alike = {"tolerations": []} | pod
    assert {k: v for k, v in alike.items() if k != "containers"} == {
        k: v for k, v in theirs.items() if k not in ("containers", "initContainers")
    }
    (container,), (step,) = pod["containers"], [c for c in theirs["initContainers"] if c["name"] == "step"]
    step["volumeMounts"] = [mount for mount in step["volumeMounts"] if mount["name"] != "carry"]
    assert container["command"] == ["python", "-m", "m"] and container["args"] == ["a"]
    for key in ("image", "securityContext", "resources", "volumeMounts"):
        assert container[key] == step[key], key
    theirs_alone = [variable for variable in step["env"] if variable not in container["env"]]
    assert [variable["name"] for variable in theirs_alone] == ["JOB_NAME", "JOB_UID", "DEEPCUTS_ATTEMPTS"]
    assert len(container["env"]) == len(step["env"]) - len(theirs_alone)
    rules = other["spec"]["podFailurePolicy"]["rules"]
    codes = {str(rule.get("onExitCodes", {}).get("values")) for rule in rules}
    assert {
        str(r.get("onExitCodes", {}).get("values")) for r in ours["spec"]["podFailurePolicy"]["rules"]
    } == codes


def test_registration_adds_or_replaces_our_entry_and_leaves_the_rest():
    config = yaml.safe_dump(
        {"init": {"x": 1}, "runtime": {"suggestions": [{"algorithmName": "tpe", "image": "t"}]}}
    )
    once = registered(config, {"algorithmName": "asha", "image": "1"})
    value = yaml.safe_load(once)
    assert value["init"] == {"x": 1}
    assert [s["algorithmName"] for s in value["runtime"]["suggestions"]] == ["tpe", "asha"]
    assert registered(once, {"algorithmName": "asha", "image": "1"}) == once
    newer = yaml.safe_load(registered(once, {"algorithmName": "asha", "image": "2"}))
    assert [s["image"] for s in newer["runtime"]["suggestions"]] == ["t", "2"]
    with pytest.raises(ValueError, match="not Katib 0.19"):
        registered("{}", {"algorithmName": "asha"})
