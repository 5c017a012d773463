"""Submit, runs, schedule against a server that answers as Kubeflow Pipelines 2.17 does."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp import compiler, dsl

from deepcuts.components.core.attempts import Begun, Terminal
from deepcuts.components.core.receipts import Meter, Receipt
from deepcuts.components.core.store import Store, open_store
from deepcuts.pipelines import pools
from deepcuts.pipelines.command import cli, options, packages
from deepcuts.pipelines.kubeflow import client, follow, inputs, pods, run_outputs
from deepcuts.pipelines.placement import on
from deepcuts.pipelines.runner import ledger_here, pipeline_spec, run_record
from tests.pipelines import kubeflow
from tests.pipelines.kubeflow import Kubeflow, node
from tests.pipelines.toys.faces import join, make, wait

CPU = pools.named("cpu")


@dsl.pipeline(name="toy", description="A toy pipeline.")
def toy(text: str, data_uri: str, number: int = 1):
    first = make(text=f"{text} {data_uri}", number=number, rate=0.5, flag=True, words=[], config={})
    on(CPU, first, cpu=1, memory="1Gi", max_hours=1).set_display_name("Make it")
    second = wait(source=first.outputs["out"], seconds=0.1, checkpoint="")
    on(CPU, second, cpu=1, memory="1Gi", max_hours=1)
    on(CPU, join(left=first.outputs["out"], right=second.outputs["out"]), cpu=1, memory="1Gi", max_hours=1)


@pytest.fixture
def server() -> Iterator[Kubeflow]:
    with kubeflow.serving() as found:
        yield found


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the compiled toy, and neither store nor Kubernetes in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("S3_ENDPOINT", raising=False)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(follow, "SETTLE_SECONDS", 0.05)
    compiler.Compiler().compile(toy, "toy.yaml")
    return tmp_path


def deepcuts(*words: object) -> int:
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["deepcuts", *map(str, words)])
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def submit(server: Kubeflow, *more: object) -> int:
    given = ("--set", "text=hello", "--set", "data_uri=s3://there/data", "--name", "mine")
    return deepcuts("submit", "toy.yaml", "--host", server.url, *given, *more)


def login(server: Kubeflow, token: str = "") -> client.Login:
    return client.Login(server.url, "kubeflow", token, "", "")


DONE = [
    node("root", "SUCCEEDED"),
    node("make-driver#1", "SUCCEEDED"),
    node("make#2", "SUCCEEDED", "3", end="2026-11-24T10:00:20Z"),
    node("executor#3", "SUCCEEDED", "4", end="2026-11-24T10:00:20Z"),
    node("wait-driver#4", "SUCCEEDED"),
    node("wait#5", "SUCCEEDED", "6", end="2026-11-24T10:01:00Z"),
    node("executor#6", "SUCCEEDED"),
    node("join#7", "SUCCEEDED", "8", end="2026-11-24T10:00:05Z"),
    node("executor#8", "SUCCEEDED"),
]


def test_submit_uploads_the_package_under_its_digest_and_passes_the_arguments(server, here):
    assert submit(server) == 0
    (version,), (run,) = server.versions.values(), server.runs.values()
    assert version["display_name"] == f"toy-{pipeline_spec.read(here / 'toy.yaml').digest[:12]}"
    assert (here / "toy.yaml").read_bytes() in server.packages[version["display_name"]]
    assert run["display_name"] == "mine"
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert run["runtime_config"]["parameters"] == {
        "text": "hello",
        "data_uri": "s3://there/data",
        "number": 1,
    }
    assert run["runtime_config"]["pipeline_root"] == options.ROOT


def test_submit_of_the_same_package_uploads_nothing_and_of_another_one_a_version(server, here):
    submit(server)
    submit(server, "--name", "again")
    assert len(server.versions) == len(server.pipelines) == 1
    (here / "toy.yaml").write_text((here / "toy.yaml").read_text().replace("A toy pipeline", "A new toy"))
    submit(server, "--name", "changed")
    assert (len(server.pipelines), len(server.versions)) == (1, 2)


def test_submit_follows_until_the_end_and_leaves_a_record_that_report_reads(server, here, capsys):
    running = [node("make#2", "RUNNING"), node("wait#5", "PENDING")]
    server.script = [("PENDING", []), ("RUNNING", running), ("SUCCEEDED", DONE)]
    assert submit(server) == 0
    record = run_record.read(here / "runs" / "mine")
    assert record.status == "done" and record.exit_code == 0
    assert {t.name: (t.status, t.seconds, t.pool) for t in record.tasks.values()} == {
        "Make it": ("done", 20.0, "cpu"),
        "wait": ("done", 60.0, "cpu"),
        "join": ("done", 5.0, "cpu"),
    }
    told = capsys.readouterr().out
    assert "Make it [cpu] running" in told and f"{server.url}/#/runs/details/" in told
    assert deepcuts("report", "runs/mine") == 0


def test_tasks_that_began_no_attempt_in_this_run_came_from_the_cache(server, here, s3_url, monkeypatch):
    """KFP 2.17 ties no executor to its task: what tells is that nothing of the task is under this run."""
    server.script = [("SUCCEEDED", DONE)]
    left = {f"{name}/{key}": data for name in ("wait", "join") for key, data in attempt(name).items()}
    assert server_side(server, s3_url, monkeypatch, left, root=f"{s3_url}/v2/x") == 0
    tasks = run_record.read(here / "runs" / "mine").tasks
    assert {name: task.cached for name, task in tasks.items()} == {"make": True, "wait": False, "join": False}
    assert (tasks["make"].status, tasks["make"].seconds) == ("done", 0.0)


def test_tasks_are_shown_by_what_they_left_where_the_servers_details_freeze(
    server, here, s3_url, monkeypatch
):
    server.script = [("RUNNING", []), ("SUCCEEDED", [node("make#2", "RUNNING")])]
    left = {f"{name}/{key}": data for name in ("make", "wait", "join") for key, data in attempt(name).items()}
    assert server_side(server, s3_url, monkeypatch, left, root=f"{s3_url}/v2/x") == 0
    tasks = run_record.read(here / "runs" / "mine").tasks
    assert {task.status for task in tasks.values()} == {"done"} and not any(t.cached for t in tasks.values())


def test_driver_that_failed_fails_its_task_and_what_comes_after_is_skipped(server, here):
    failed = [node("make-driver#1", "FAILED"), node("make", "SKIPPED"), node("wait", "SKIPPED")]
    server.script = [("FAILED", failed)]
    assert submit(server) == 4
    tasks = run_record.read(here / "runs" / "mine").tasks
    assert {name: task.status for name, task in tasks.items()} == {
        "make": "failed",
        "wait": "skipped",
        "join": "skipped",
    }


def test_run_whose_own_driver_failed_says_so_of_its_first_task(server, here, capsys):
    """No task has failed then: the metadata store was away when the run began."""
    server.script = [("FAILED", [node("root-driver#1", "FAILED")])]
    assert submit(server) == 4
    tasks = run_record.read(here / "runs" / "mine").tasks
    assert [task.status for task in tasks.values()] == ["failed", "skipped", "skipped"]
    assert tasks["make"].message.startswith("Kubeflow could not start it: ")
    assert "Make it failed (exit 4): Kubeflow could not start it" in capsys.readouterr().out


def test_reason_of_a_driver_is_its_last_fatal_line():
    line = "F1130 18:54:45.5 17 main.go:127] KFP driver: driver.RootDAG(x) failed: no such context: refused"
    assert pods.last_fatal(f"I1130 begun\n{line}\ntime=2026 level=INFO\n") == "no such context: refused"
    assert pods.last_fatal("I1130 begun\n") == ""


def test_failed_task_shows_its_own_message_and_exit_code(server, here, s3_url, monkeypatch, capsys):
    """KFP 2.17 itself says nothing: the step has left terminal.json in the store."""
    server.script = [("RUNNING", [node("make#2", "FAILED")]), ("FAILED", [node("make#2", "FAILED")])]
    leave = "attempts-ab12/terminal.json"
    end = Terminal("make", 3, "data", "row 7 has no answer: mend it")
    assert (
        server_side(server, s3_url, monkeypatch, {f"make/{leave}": json_of(end)}, root=f"{s3_url}/v2/x") == 3
    )
    record = run_record.read(here / "runs" / "mine")
    assert record.tasks["make"].message == "row 7 has no answer: mend it"
    assert record.tasks["wait"].status == "skipped"
    assert "Make it failed (exit 3): row 7 has no answer" in capsys.readouterr().out


def test_resubmitted_run_is_stopped_once_its_pod_is_lost_and_the_next_has_its_own_folder(
    server, here, s3_url, monkeypatch
):
    """The watcher of a trainer that does not come back would wait for it, 15 min."""
    lost, root = [node("make#2", "FAILED")], f"{s3_url}/v2/x"
    states = ("RUNNING", "CANCELING", "FAILED")
    server.script = [*((state, lost) for state in states), ("SUCCEEDED", DONE)]
    left = {f"make/{key}": data for key, data in attempt("make", end_reason="preempted").items()}
    assert server_side(server, s3_url, monkeypatch, left, root, "--resubmit", 1) == 0
    assert server.stopped == [next(iter(server.runs))] and len(server.runs) == 2
    folders = [here / "runs" / name for name in ("mine", "mine-2")]
    assert [run_record.read(folder).status for folder in folders] == ["interrupted", "done"]


def test_failure_without_a_final_end_shows_the_end_of_the_uploaded_log(server, here, s3_url, monkeypatch):
    server.script = [("FAILED", [node("make#2", "FAILED")])]
    log = "".join(f"line {i}\n" for i in range(100))
    code = server_side(
        server, s3_url, monkeypatch, {"make/salt/executor-logs-0": log.encode()}, f"{s3_url}/v2/x"
    )
    message = run_record.read(here / "runs" / "mine").tasks["make"].message
    assert code == 1 and message.endswith("line 99") and "line 79" not in message


def test_failure_that_left_nothing_names_where_to_look(server, here):
    server.script = [("FAILED", [node("make#2", "FAILED")])]
    assert submit(server) == 1
    assert "Kubeflow UI" in run_record.read(here / "runs" / "mine").tasks["make"].message


def test_run_that_failed_before_any_task_is_an_infrastructure_failure(server):
    server.script = [("FAILED", [])]
    assert submit(server) == 4


@pytest.mark.parametrize("states", [["CANCELED"], ["CANCELING", "FAILED"]])
def test_cancelled_run_is_interrupted_and_no_bug(server, here, states):
    server.script = [(state, [node("make#2", "FAILED")]) for state in states]
    assert submit(server) == 143
    record = run_record.read(here / "runs" / "mine")
    assert record.status == "interrupted" and record.tasks["make"].message == "the run was cancelled"


def test_cancel_stops_a_run_by_the_beginning_of_its_id(server, capsys):
    submit(server)
    (run_id,) = server.runs
    assert deepcuts("cancel", run_id[:8], "--host", server.url) == 0
    assert server.runs[run_id]["state"] == "CANCELING"
    assert deepcuts("cancel", "nosuch", "--host", server.url) == 3
    assert "deepcuts runs lists" in capsys.readouterr().err


def test_schedules_are_listed_whole_and_deleted_by_name(server, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = ("--set", "text=hello", "--set", "data_uri=s3://there/data", "--cron", "30 4 * * 1")
    assert deepcuts("schedule", "toy.yaml", "--host", server.url, *words) == 0
    (schedule_id,) = server.jobs
    capsys.readouterr()
    assert deepcuts("schedules", "--host", server.url) == 0
    assert schedule_id in capsys.readouterr().out
    assert deepcuts("schedules", "--host", server.url, "--delete", "other") == 3
    assert deepcuts("schedules", "--host", server.url, "--delete", "toy") == 0 and not server.jobs


def test_ids_of_runs_are_whole_on_a_narrow_terminal(server, capsys, monkeypatch):
    submit(server)
    capsys.readouterr()
    monkeypatch.setattr(options.out, "_width", 80)
    assert deepcuts("runs", "--host", server.url) == 0
    (run_id,) = server.runs
    assert run_id in capsys.readouterr().out


def test_pipeline_that_the_server_cannot_run_is_not_scheduled(server, here, capsys):
    @dsl.pipeline(name="twice")
    def twice():
        first = make(text="x", number=1, rate=0.5, flag=True, words=[], config={})
        join(left=first.outputs["out"], right=first.outputs["out"])

    compiler.Compiler().compile(twice, "twice.yaml")
    assert deepcuts("schedule", "twice.yaml", "--host", server.url, "--cron", "30 4 * * 1") == 2
    assert "takes one artifact by two inputs" in capsys.readouterr().err and not server.pipelines


def test_server_away_while_a_run_is_followed_is_waited_out(server, here):
    server.script = [("RUNNING", []), ("SUCCEEDED", DONE)]
    answer = server.answer
    looks = []

    def stumbling(method: str, path: list[str], query: dict[str, str], body: bytes) -> Any:
        if path[0] == "runs" and len(path) == 2:
            looks.append(path)
            if len(looks) == 2:
                return 503, {"error_description": "restarting"}
        return answer(method, path, query, body)

    server.answer = stumbling
    assert submit(server) == 0
    assert len(looks) == 3


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [(401, 2, "--token"), (403, 2, "--namespace"), (400, 2, "not accept"), (500, 4, "try")],
)
def test_refusal_ends_at_once_with_its_fix(server, capsys, status, code, word):
    server.refuse = [status]
    assert submit(server) == code
    assert word in capsys.readouterr().err


def test_no_server_is_told_within_seconds(capsys):
    with kubeflow.serving() as gone:
        pass
    assert submit(gone) == 4
    assert f"no Kubeflow Pipelines at {gone.url}: check --host" in capsys.readouterr().err


def test_token_is_sent_and_its_lack_named(server, capsys):
    server.token = "secret"
    assert submit(server, "--token", "secret") == 0
    assert submit(server, "--name", "second") == 2
    assert "who are you" in capsys.readouterr().err


def test_wrong_arguments_are_told_before_anything_is_uploaded(server, capsys):
    assert submit(server, "--set", "numbre=3") == 2
    assert "number" in capsys.readouterr().err and not server.pipelines


def test_runs_lists_the_newest_first(server, capsys):
    submit(server, "--name", "old")
    submit(server, "--name", "new")
    capsys.readouterr()
    assert deepcuts("runs", "--host", server.url) == 0
    told = capsys.readouterr().out
    assert told.index("new") < told.index("old") and "SUCCEEDED" in told


def test_schedule_is_utc_alone_and_never_makes_up(server):
    words = ("--set", "text=hello", "--set", "data_uri=s3://there/data", "--cron", "30 4 * * 1")
    assert deepcuts("schedule", "toy.yaml", "--host", server.url, *words) == 0
    (job,) = server.jobs.values()
    assert job["trigger"]["cron_schedule"]["cron"] == "0 30 4 * * 1"
    assert (job["max_concurrency"], job["no_catchup"], job["mode"]) == (1, True, "ENABLE")


def test_schedule_of_the_same_name_replaces_the_old_one(server, capsys):
    words = ("--set", "text=hello", "--set", "data_uri=s3://there/data", "--host", server.url)
    deepcuts("schedule", "toy.yaml", *words, "--cron", "30 4 * * 1")
    assert deepcuts("schedule", "toy.yaml", *words, "--cron", "0 5 * * *") == 0
    assert [job["trigger"]["cron_schedule"]["cron"] for job in server.jobs.values()] == ["0 0 5 * * *"]
    assert "replacing 1 of that name" in capsys.readouterr().out


def test_cron_with_too_few_fields_is_refused(server, capsys):
    assert deepcuts("schedule", "toy.yaml", "--host", server.url, "--cron", "daily") == 2
    assert "give 5" in capsys.readouterr().err and not server.jobs


def test_local_data_goes_to_the_store_once_named_by_content(s3_url, tmp_path):
    (tmp_path / "data" / "part").mkdir(parents=True)
    (tmp_path / "data" / "part" / "a.jsonl").write_text("{}\n")
    given = {"data_uri": (tmp_path / "data").as_uri(), "base_uri": "s3://there/base", "text": "file:///x"}
    first = inputs.lifted(given, s3_url)
    assert first == inputs.lifted(given, s3_url)
    assert (first["base_uri"], first["text"]) == ("s3://there/base", "file:///x")
    store = open_store(first["data_uri"])
    assert store.get_bytes("part/a.jsonl") == b"{}\n"
    assert len(open_store(s3_url).list("")) == 1


def test_local_data_without_a_store_names_the_variable(server, here, capsys):
    (here / "data.jsonl").write_text("{}\n")
    assert submit(server, "--set", "data_uri=data.jsonl") == 2
    assert "S3_ENDPOINT" in capsys.readouterr().err


def test_receipts_ledger_and_report_come_home(tmp_path):
    store = laid(tmp_path, "run-1")
    run = run_record.RunRecord(
        pipeline="p", package_digest="", arguments={}, parallel=0, started_at="", tasks={}
    )
    run.tasks["ledger"] = run_record.TaskRecord(name="Ledger", step="ledger", pool="cpu", status="done")
    outputs = run_outputs.RunOutputs(store, "run-1", pods.RunPods("kubeflow", "run-1"))
    outputs.refresh()
    outputs.collect(run, tmp_path / "t")
    home = tmp_path / "t" / "tasks" / "ledger"
    brought = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert brought == {"receipt.json", "outputs/ledger/ledger.json", "outputs/summary", "outputs/report"}


def test_run_whose_ledger_task_was_ended_with_it_gets_its_ledger_here(tmp_path):
    """KFP 2.17 ends the exit task of a run that is cancelled."""
    packages.package("finetune", tmp_path / "pipeline.yaml")
    run = follow.record(tmp_path / "pipeline.yaml", {})
    run.run_id = "run-1"
    store = open_store((tmp_path / "store").as_uri())
    for key, data in attempt("prepare").items():
        store.put_bytes(f"run-1/prepare/{key}", data)
    run.status = "interrupted"
    assert not ledger_here.has_ledger(run, tmp_path)
    ledger_here.write(tmp_path / "pipeline.yaml", run, tmp_path, store.uri("run-1"))
    assert ledger_here.has_ledger(run, tmp_path)
    outputs = tmp_path / "tasks" / "ledger" / "outputs"
    total = json.loads((outputs / "ledger" / "ledger.json").read_text())["total"]
    assert total["node_seconds"] == 2.0 and run.tasks["ledger"].status == "done"
    assert {"summary", "report"} <= {path.name for path in outputs.iterdir()}


def test_branch_not_taken_is_skipped_with_all_in_it():
    record = run_record.RunRecord(
        pipeline="p", package_digest="", arguments={}, parallel=0, started_at="", tasks={
            f"condition-{i}.train": run_record.TaskRecord(name="t", step="t", pool="cpu") for i in (2, 3)
        },
    )  # fmt: skip
    details = [node("condition-2", "SKIPPED"), node("condition-3", "SUCCEEDED"), node("train#1", "SUCCEEDED")]
    follow.update(record, cluster_details(details), "SUCCEEDED")
    assert [task.status for task in record.tasks.values()] == ["skipped", "done"]


@given(
    st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True), min_size=1, max_size=4), st.integers(0, 9)
)
def test_task_is_read_from_the_node_name_of_its_pod(path, tries):
    node_name = ".".join(
        f"{word}({tries})" if tries else word for word in ["toy-x7k2p", "root", *path, "executor"]
    )
    assert pods.path_of(node_name) == ".".join(path)
    assert pods.path_of(node_name.removesuffix(")").rpartition(".")[0] + ".driver") == ""


def laid(folder: Path, run: str) -> Store:
    """A store with the outputs of a ledger task of ``run``, and a lost attempt."""
    store = open_store((folder / "store").as_uri())
    for name in ("ledger/ledger.json", "summary", "report", "receipt", "executor-logs"):
        store.put_bytes(f"{run}/ledger/salt/{name}", name.encode())
    store.put_bytes(f"{run}/ledger/lost/executor-logs", b"")
    for key, data in attempt("ledger").items():
        store.put_bytes(f"{run}/ledger/{key}", data)
    return store


def attempt(step: str, number: int = 1, end_reason: str = "ok") -> dict[str, bytes]:
    """What one attempt of a task leaves in its folder, as core/cli.py and core/attempts.py write it."""
    start = "2026-11-24T10:00:00.000+00:00"
    receipt = Receipt(step, "cpu", number, start, 2.0, 1.0, 0.0, 1, 0, 0, end_reason, {})
    place = "attempts-ab12"
    return {
        f"{place}/begun/{number}": json_of(Begun(step, "cpu", number, start)),
        f"{place}/receipts/{number}/receipt": json_of(receipt),
    }


def json_of(end: Terminal | Receipt | Begun) -> bytes:
    return json.dumps({name: getattr(end, name) for name in end.__struct_fields__}).encode()


def cluster_details(details: list[dict[str, Any]]) -> list[Any]:
    """As the client's own models."""
    import kfp_server_api

    class Answer:
        data = json.dumps({"task_details": details})

    return kfp_server_api.ApiClient().deserialize(Answer, "V2beta1RunDetails").task_details


def server_side(
    server: Kubeflow,
    s3_url: str,
    monkeypatch: pytest.MonkeyPatch,
    objects: dict[str, bytes],
    root: str,
    *more: object,
) -> int:
    """Submit to a server; the tasks of its first run leave ``objects`` in the store, below its folder."""
    answer = server.answer

    def leaving(method: str, path: list[str], query: dict[str, str], body: bytes) -> Any:
        status, value = answer(method, path, query, body)
        if (method, path) == ("POST", ["runs"]) and len(server.runs) == 1:
            for key, data in objects.items():
                open_store(root).put_bytes(f"toy/{value['run_id']}/{key}", data)
        return status, value

    monkeypatch.setattr(server, "answer", leaving)
    return submit(server, "--root", root, *more)


def test_every_pipeline_can_be_recorded_for_a_cluster(here):
    record = follow.record(here / "toy.yaml", {})
    assert [task.step for task in record.tasks.values()] == ["make", "wait", "join"]
    assert {
        pipeline_spec.pool(leaf.placement)
        for _, leaf in pipeline_spec.leaves(pipeline_spec.read(here / "toy.yaml"))
    } == {"cpu"}


def test_the_receipt_in_a_log_says_why_a_step_failed_where_the_store_was_away():
    done = Meter().receipt("fetch", 0, {})
    lost = Meter().receipt("ingest", 4, {}, "s3://bucket failed: check S3_ENDPOINT")
    lines = [
        "time=1 level=info",
        *(msgspec.json.encode(receipt).decode() for receipt in (done, lost)),
        "F1130 x",
    ]
    found = pods.failure("\n".join(lines))
    assert found and (found.end_reason, found.message) == ("infrastructure", lost.message)
    assert pods.failure("\n".join(lines[:2])) is None and pods.failure('{"step": 1') is None


@pytest.mark.parametrize("turned", [False, True])
def test_of_several_attempts_the_last_one_says_why_a_task_failed(turned):
    """A pod was deleted, and Argo saw its successor end with 143: the run is submitted again."""
    last, flow = "main: Error (exit code 143)", "flow(0).root(0).exit-handler-1(0).finetune(0).executor"
    nodes = [
        {
            "name": f"{flow}(0)",
            "phase": "Error",
            "message": "pod deleted",
            "finishedAt": "2026-11-30T14:57:51Z",
        },
        {"name": f"{flow}(1)", "phase": "Failed", "message": last, "finishedAt": "2026-11-30T14:59:29Z"},
        {"name": flow, "phase": "Failed", "message": last, "finishedAt": "2026-11-30T15:01:42Z"},
    ]
    known = pods.RunPods("kubeflow", "run-1")
    known._nodes = nodes[::-1] if turned else nodes
    assert known.reason("finetune") == last


def test_a_pod_that_was_deleted_once_too_often_is_taken_away_and_no_bug(tmp_path):
    packages.package("finetune", tmp_path / "pipeline.yaml")
    run = follow.record(tmp_path / "pipeline.yaml", {})
    run.tasks["finetune"].status = "failed"
    store, known = open_store((tmp_path / "store").as_uri()), pods.RunPods("kubeflow", "run-1")
    for key, data in attempt("finetune").items():
        store.put_bytes(f"run-1/finetune/{key}", data)
    outputs = run_outputs.RunOutputs(store, "run-1", known)
    outputs.refresh()
    known._nodes = [
        {
            "name": "f(0).root(0).exit-handler-1(0).finetune(0).executor",
            "phase": "Error",
            "message": "pod deleted",
        }
    ]
    outputs._explain("finetune", run.tasks["finetune"], outputs._of("finetune"))
    assert run.tasks["finetune"].exit_code == 143
