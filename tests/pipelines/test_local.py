"""The local runner on toy steps: real processes, real files."""

import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp import compiler, dsl

from deepcuts.components.core import run_records
from deepcuts.pipelines.runner import cache, local, pipeline_spec, placeholders, run_record
from deepcuts.pipelines.runner.run_record import RunRecord, TaskRecord
from tests.pipelines.toys.faces import fail, join, make, wait

ROOT = Path(__file__).parents[2]
TEXT = "quote \" and ' and {{$}} and ü\nline"


class Bench:
    """A folder in which pipelines run, one cache for all of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = local.ROOT
        self.fresh = False

    def package(self, pipeline: Callable[..., Any]) -> Path:
        path = self.folder / f"{pipeline.name}.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return path

    def run(
        self,
        pipeline: Callable[..., Any],
        name: str = "run",
        parallel: int = 2,
        until: Sequence[str] = (),
        **arguments: Any,
    ) -> RunRecord:
        return local.run(
            self.package(pipeline),
            arguments,
            self.folder / name,
            parallel=parallel,
            fresh=self.fresh,
            cached=self.folder / "cache",
            show=lambda run: None,
            until=until,
            root=self.root,
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def made(run: RunRecord, task: str, output: str = "out") -> str:
    return Path(run.tasks[task].artifacts[output]).read_text()


def span(record: TaskRecord) -> tuple[datetime.datetime, datetime.datetime]:
    return datetime.datetime.fromisoformat(record.started_at), datetime.datetime.fromisoformat(
        record.ended_at
    )


def toy(text: str = "x", number: int = 1, words: list[str] | None = None) -> dsl.PipelineTask:
    return make(text=text, number=number, rate=0.5, flag=True, words=words or ["a"], config={})


@dsl.pipeline(name="chain")
def chain(text: str = "x", source: str = ""):
    first = make(text=text, number=1, rate=0.5, flag=True, words=["a"], config={})
    second = wait(source=first.outputs["out"], seconds=0.0, checkpoint="")
    wait(source=second.outputs["out"], seconds=0.1, checkpoint="")


# what tasks run when


def test_independent_tasks_with_two_slots_overlap(bench):
    @dsl.pipeline(name="pair")
    def pair():
        first = toy()
        wait(source=first.outputs["out"], seconds=1.0, checkpoint="")
        wait(source=first.outputs["out"], seconds=1.1, checkpoint="")

    run = bench.run(pair)
    (start, end), (other_start, other_end) = span(run.tasks["wait"]), span(run.tasks["wait-2"])
    assert start < other_end and other_start < end
    assert span(run.tasks["make"])[1] <= min(start, other_start)
    assert run.status == "done" and run.exit_code == 0


def test_independent_tasks_with_one_slot_take_turns(bench):
    @dsl.pipeline(name="pair")
    def pair():
        first = toy()
        wait(source=first.outputs["out"], seconds=0.2, checkpoint="")
        wait(source=first.outputs["out"], seconds=0.3, checkpoint="")

    run = bench.run(pair, parallel=1)
    spans = sorted(span(run.tasks[name]) for name in ("wait", "wait-2"))
    assert spans[0][1] <= spans[1][0]


def test_failed_task_stops_its_own_branch_only(bench):
    @dsl.pipeline(name="branches")
    def branches():
        good = toy()
        bad = fail(way="data", until=99)
        wait(source=bad.outputs["out"], seconds=0.0, checkpoint="")
        wait(source=good.outputs["out"], seconds=0.0, checkpoint="")

    run = bench.run(branches)
    assert run.exit_code == 3 and run.status == "failed"
    assert run.tasks["fail"].status == "failed" and "row 3 is empty: remove it" in run.tasks["fail"].message
    assert run.tasks["wait"].status == "skipped"
    assert run.tasks["wait-2"].status == "done"
    receipt = json.loads((bench.folder / "run/tasks/fail/receipt.json").read_text())
    assert receipt["end_reason"] == "data"
    assert run_record.read(bench.folder / "run") == run


def test_run_with_several_failures_ends_with_the_worst(bench):
    @dsl.pipeline(name="failures")
    def failures():
        fail(way="gate", until=99)
        fail(way="config", until=99)
        fail(way="store", until=99)

    assert bench.run(failures).exit_code == 2


def test_task_that_ignores_failures_runs_after_them(bench):
    @dsl.pipeline(name="always")
    def always():
        bad = fail(way="gate", until=99)
        toy().after(bad).ignore_upstream_failure()

    run = bench.run(always)
    assert run.tasks["make"].status == "done" and run.exit_code == 5


@dsl.pipeline(name="billed")
def billed():
    first = toy()
    second = wait(source=first.outputs["out"], seconds=0.0, checkpoint="").set_display_name("Second")
    third = wait(source=second.outputs["out"], seconds=0.1, checkpoint="").set_display_name("Third")
    toy("bill").after(first, third).ignore_upstream_failure()


@dsl.pipeline(name="handled")
def handled():
    with dsl.ExitHandler(toy("bill"), name="run"):
        second = wait(source=toy().outputs["out"], seconds=0.0, checkpoint="")
        fail(way="data", until=9).after(second)


def test_exit_task_runs_whatever_failed_and_the_handlers_name_stands_in_no_path(bench):
    run = bench.run(handled)
    assert {name: task.status for name, task in run.tasks.items()} == {
        "make": "done",
        "make-2": "done",
        "wait": "done",
        "fail": "failed",
    }
    assert run.exit_code == 3


def test_run_until_a_step_of_an_exit_handler(bench):
    run = bench.run(handled, until=["Wait"])
    assert run.exit_code == 0 and run.tasks["fail"].status == "skipped"
    assert run.tasks["make"].status == run.tasks["make-2"].status == run.tasks["wait"].status == "done"


def test_run_until_a_task_runs_what_it_needs_and_the_bill(bench):
    run = bench.run(billed, until=["Second"])
    found = {name: task.status for name, task in run.tasks.items()}
    assert found == {"make": "done", "wait": "done", "wait-2": "skipped", "make-2": "done"}
    assert run.exit_code == 0
    assert run.tasks["wait-2"].message == "left out"


def test_run_until_an_unknown_task_is_refused_with_the_nearest(bench):
    with pytest.raises(ValueError, match="third"):
        bench.run(billed, until=["Thrid"])


def test_optional_artifact_of_a_failed_task_arrives_where_it_exists(bench):
    @dsl.container_component
    def gather(
        out: dsl.Output[dsl.Dataset],
        receipt: dsl.Input[dsl.Metrics] = None,  # type: ignore[assignment]
        data: dsl.Input[dsl.Dataset] = None,  # type: ignore[assignment]
    ):
        code = (
            "import sys; _, receipt, data, out = sys.argv; open(out, 'w').write(open(receipt).read() + data)"
        )
        return dsl.ContainerSpec("toys", ["python", "-c", code], [receipt.path, data.path, out.path])

    @dsl.pipeline(name="gathered")
    def gathered():
        bad = fail(way="data", until=9)
        gather(receipt=bad.outputs["receipt"], data=bad.outputs["out"]).ignore_upstream_failure()

    run = bench.run(gathered)
    assert run.tasks["gather"].status == "done" and run.exit_code == 3
    text = made(run, "gather")
    assert '"end_reason": "data"' in text, "the receipt that the failed task left"
    assert text.endswith("{{$.inputs.artifacts['data'].path}}"), "as KFP's launcher leaves it"


@dsl.pipeline(name="choice")
def choice(number: int, text: str, rate: float = 0.5):
    first = make(text=text, number=number, rate=rate, flag=True, words=["a", "b"], config={})
    with dsl.If(first.outputs["count"] > number, "more"):
        one = make(text="more", number=1, rate=rate, flag=True, words=["a"], config={})
        with dsl.If(rate > 0.7):
            make(text="deep", number=1, rate=rate, flag=True, words=["a"], config={})
    with dsl.Elif(text == 'so "so"'):
        two = make(text="text", number=2, rate=rate, flag=True, words=["a"], config={})
    with dsl.Else():
        three = make(text="less", number=3, rate=rate, flag=True, words=["a"], config={})
    chosen = dsl.OneOf(one.outputs["out"], two.outputs["out"], three.outputs["out"])
    wait(source=chosen, seconds=0.0, checkpoint="")


@pytest.mark.parametrize(
    ("arguments", "text", "ran"),
    [
        ({"number": 1, "text": "x"}, "more", 3),
        ({"number": 1, "text": "x", "rate": 0.8}, "more", 4),
        ({"number": 2, "text": 'so "so"'}, "text", 3),
        ({"number": 2, "text": "x"}, "less", 3),
    ],
)
def test_condition_runs_the_branch_that_holds(bench, arguments, text, ran):
    run = bench.run(choice, **arguments)
    assert json.loads(made(run, "wait"))["text"] == text
    assert [t.status for t in run.tasks.values()].count("done") == ran
    assert {t.status for t in run.tasks.values()} == {"done", "skipped"} and run.exit_code == 0


def test_condition_that_cannot_be_evaluated_fails_its_branch_and_says_why(bench):
    package = bench.package(choice)
    package.write_text(package.read_text().replace("double(0.7)", "0.7").replace("> 0.7", "> 'x'"))
    run = local.run(
        package,
        {"number": 1, "text": "x"},
        bench.folder / "run",
        parallel=2,
        fresh=False,
        cached=bench.folder / "cache",
        show=lambda run: None,
    )
    assert run.exit_code == 2
    assert any("cannot be evaluated" in task.message for task in run.tasks.values())


# what reaches a task


def test_values_arrive_as_kfp_encodes_them(bench):
    @dsl.pipeline(name="encoded")
    def encoded(text: str, number: int, rate: float, flag: bool, words: list, config: dict):
        make(text=text, number=number, rate=rate, flag=flag, words=words, config=config)

    config = {"deep": [1.0, 2.5]}
    given_values = {"text": TEXT, "number": 10**10, "rate": 1e-5, "flag": False, "words": ["a", 'b"', ""]}
    run = bench.run(encoded, config=config, **given_values)
    assert json.loads(made(run, "make")) == {**given_values, "config": config}
    argv = json.loads((bench.folder / "run/tasks/make/argv.json").read_text())
    assert argv[argv.index("--config") + 1] == "$."
    executor = json.loads(argv[argv.index("--executor-input") + 1])
    assert executor["inputs"]["parameterValues"]["config"] == config


def test_outputs_reach_the_next_task_also_inside_a_text(bench):
    @dsl.pipeline(name="inside")
    def inside(corpus: str):
        first = toy(words=["a", "b", "c"])
        second = make(
            text=f"{corpus} has {first.outputs['count']}",
            number=first.outputs["count"],
            rate=1.0,
            flag=True,
            words=[],
            config={},
        )
        join(left=first.outputs["out"], right=second.outputs["out"])

    run = bench.run(inside, corpus="corpus")
    second = json.loads(made(run, "make-2"))
    assert second["text"] == "corpus has 3" and second["number"] == 3
    assert made(run, "join").splitlines()[:2] == [f"left={made(run, 'make')}", f"right={made(run, 'make-2')}"]


def test_text_that_looks_like_a_placeholder_stays_as_it_is(bench):
    text = "{{$.inputs.parameters['number']}} {{$}}"
    assert json.loads(made(bench.run(chain, text=text), "make"))["text"] == text


def test_run_name_as_a_value_is_filled_in_and_never_cached(bench):
    @dsl.pipeline(name="named")
    def named():
        toy(text=dsl.PIPELINE_JOB_ID_PLACEHOLDER)

    assert json.loads(made(bench.run(named, "one"), "make"))["text"] == "one"
    second = bench.run(named, "two")
    assert json.loads(made(second, "make"))["text"] == "two" and not second.tasks["make"].cached


def test_pipeline_value_inside_a_list_is_refused(bench):
    @dsl.pipeline(name="inside")
    def inside(word: str):
        make(text="x", number=1, rate=0.5, flag=True, words=[word], config={})

    run = bench.run(inside, word="x")
    assert run.exit_code == 2 and "pass it as its own parameter" in run.tasks["make"].message


def test_executor_input_is_complete(bench):
    run = bench.run(chain)
    argv = json.loads((bench.folder / "run/tasks/wait/argv.json").read_text())
    executor = json.loads(argv[argv.index("--executor-input") + 1])
    source = executor["inputs"]["artifacts"]["source"]["artifacts"][0]
    assert source["uri"] == f"file://{run.tasks['make'].artifacts['out']}"
    assert source["type"]["schemaTitle"] == "system.Dataset"
    assert executor["inputs"]["parameterValues"] == {"seconds": 0, "checkpoint": ""}
    assert set(executor["outputs"]["artifacts"]) == {"out", "receipt"}


def test_concat_and_if_present_placeholders_are_opened():
    executor = {"inputs": {"parameterValues": {"seed": 3, "name": "a b"}, "artifacts": {}}, "outputs": {}}
    words = [
        '{"Concat": ["x=", "{{$.inputs.parameters[\'seed\']}}", ";"]}',
        '{"IfPresent": {"InputName": "name", "Then": ["--name", "{{$.inputs.parameters[\'name\']}}"]}}',
        '{"IfPresent": {"InputName": "data", "Then": ["--data"], "Else": ["--no-data"]}}',
        '{"IfPresent": {"InputName": "data", "Then": ["--data"]}}',
    ]
    assert placeholders.fill(words, executor, {}) == ["x=3;", "--name", "a b", "--no-data"]


def test_placeholder_that_nothing_fills_is_named():
    executor = {"inputs": {"parameterValues": {}, "artifacts": {}}, "outputs": {}}
    with pytest.raises(ValueError, match=r"inputs.parameters\['seed'\]"):
        placeholders.fill(["{{$.inputs.parameters['seed']}}"], executor, {})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(JSON)
def test_encoded_value_is_text_as_it_is_or_json_that_means_the_same(value):
    text = placeholders.encode(value)
    assert text == value if isinstance(value, str) else json.loads(text) == value


@given(st.text(), st.text())
def test_text_value_is_never_expanded(text, name):
    executor = {"inputs": {"parameterValues": {"text": text, "name": name}, "artifacts": {}}, "outputs": {}}
    word = "{{$.inputs.parameters['text']}}|{{$.inputs.parameters['name']}}"
    assert placeholders.fill([word], executor, {}) == [f"{text}|{name}"]


def test_pool_reaches_the_step_and_the_record(bench):
    from kfp import kubernetes

    @dsl.pipeline(name="placed")
    def placed():
        first = toy()
        kubernetes.add_pod_label(
            join(left=first.outputs["out"], right=first.outputs["out"]), "node-pool", "cpu"
        )

    run = bench.run(placed)
    assert made(run, "join").splitlines()[-1] == "pool=cpu"
    assert run.tasks["join"].pool == "cpu" and run.tasks["make"].pool == "unknown"


# the cache


def cached(run: RunRecord) -> dict[str, bool]:
    return {name: task.cached for name, task in run.tasks.items()}


def test_second_run_takes_everything_from_the_cache_and_spends_nothing(bench):
    first, second = bench.run(chain, "one"), bench.run(chain, "two")
    assert not any(cached(first).values()) and all(cached(second).values())
    assert made(first, "wait-2") == made(second, "wait-2")
    assert sum(task.seconds for task in second.tasks.values()) == 0
    assert (bench.folder / "two/tasks/wait/receipt.json").exists()
    assert second.tasks["make"].parameters == {"count": 1}


def test_equal_tasks_of_one_run_run_once_and_a_rerun_takes_all_from_the_cache(bench):
    @dsl.pipeline(name="equal")
    def equal():
        join(left=toy().outputs["out"], right=toy().outputs["out"])

    first = bench.run(equal)
    assert cached(first) == {"make": False, "make-2": True, "join": False}
    assert made(first, "make", "receipt") == made(first, "make-2", "receipt")
    assert all(cached(bench.run(equal, "again")).values())


def test_changed_argument_misses_where_it_changes_something(bench):
    bench.run(chain, "one")
    assert not any(cached(bench.run(chain, "two", text="y")).values())


def test_fresh_run_reads_no_cache_but_fills_it(bench):
    bench.run(chain, "one")
    bench.fresh = True
    assert not any(cached(bench.run(chain, "two")).values())


def test_task_with_caching_off_always_runs(bench):
    @dsl.pipeline(name="off")
    def off():
        toy().set_caching_options(False)

    bench.run(off, "one")
    assert cached(bench.run(off, "two")) == {"make": False}


def test_imported_file_counts_by_content_not_by_place(bench):
    @dsl.pipeline(name="imported")
    def imported(uri: str):
        source = dsl.importer(artifact_uri=uri, artifact_class=dsl.Dataset)
        wait(source=source.output, seconds=0.0, checkpoint="")

    here, there = bench.folder / "a.txt", bench.folder / "b.txt"
    here.write_text("one")
    there.write_text("one")
    assert made(bench.run(imported, "one", uri=str(here)), "wait") == "one"
    assert bench.run(imported, "two", uri=f"file://{there}").tasks["wait"].cached
    there.write_text("two")
    changed = bench.run(imported, "three", uri=f"file://{there}")
    assert not changed.tasks["wait"].cached and made(changed, "wait") == "two"


def test_file_given_by_address_counts_by_content(bench):
    @dsl.container_component
    def load(uri: str, out: dsl.Output[dsl.Dataset]):
        copy = "import shutil, sys; shutil.copy(sys.argv[1].removeprefix('file://'), sys.argv[2])"
        return dsl.ContainerSpec(image="toys", command=["python", "-c", copy], args=[uri, out.path])

    @dsl.pipeline(name="addressed")
    def addressed(uri: str):
        load(uri=uri)

    data = bench.folder / "data.txt"
    data.write_text("one")
    bench.run(addressed, "one", uri=f"file://{data}")
    assert bench.run(addressed, "two", uri=f"file://{data}").tasks["load"].cached
    data.write_text("two")
    assert made(bench.run(addressed, "three", uri=f"file://{data}"), "load") == "two"


def test_changed_code_misses_for_the_steps_that_use_it(bench):
    bench.root = bench.folder / "root"
    shutil.copytree(ROOT / "components/core", bench.root / "deepcuts/components/core")
    shutil.copytree(ROOT / "tests/pipelines/toys", bench.root / "tests/pipelines/toys")
    bench.run(chain, "one")
    toys = bench.root / "tests/pipelines/toys"
    with (toys / "wait/step.py").open("a") as step:
        step.write("# slower\n")
    assert cached(bench.run(chain, "two")) == {"make": True, "wait": False, "wait-2": False}
    with (bench.root / "deepcuts/components/core/files.py").open("a") as shared:
        shared.write("# all of them load it\n")
    assert not any(cached(bench.run(chain, "three")).values())
    with (toys / "join/step.py").open("a") as other:
        other.write("# nobody here uses it\n")
    with (bench.root / "deepcuts/components/core/markdown.py").open("a") as unused:
        unused.write("# no toy loads it\n")
    assert all(cached(bench.run(chain, "four")).values())


def test_code_digest_follows_imports(tmp_path):
    for name, text in {
        "steps/a/step.py": "import steps.a.helper\nfrom shared import deep",
        "steps/a/helper.py": "",
        "shared/deep.py": "from . import deeper",
        "shared/deeper.py": "x = 1",
        "shared/other.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def after(name: str) -> str:
        (tmp_path / name).write_text("x = 2")
        return cache.code_digest(["steps.a.step"], tmp_path)

    before = cache.code_digest(["steps.a.step"], tmp_path)
    assert after("shared/other.py") == before
    assert after("shared/deeper.py") != before


def test_code_that_does_not_parse_has_a_digest_all_the_same(tmp_path):
    (tmp_path / "step.py").write_text("def (")
    assert cache.code_digest(["step"], tmp_path) != cache.code_digest(["other"], tmp_path)


def test_damaged_cache_entry_is_made_again(bench):
    first = bench.run(chain, "one")
    entry = bench.folder / "cache" / first.tasks["make"].cache_key / "out"
    entry.unlink()
    entry.write_text("not what was made")
    again = bench.run(chain, "two")
    assert not again.tasks["make"].cached and made(again, "make") == made(first, "make")


# failures and interruptions


@pytest.mark.parametrize(
    ("way", "attempts", "code"),
    [("store", 3, 0), ("kill", 3, 0), ("config", 1, 2), ("data", 1, 3), ("gate", 1, 5), ("bug", 1, 1)],
)
def test_retry_only_where_trying_again_can_help(bench, way, attempts, code):
    @dsl.pipeline(name="retries")
    def retries(way: str):
        fail(way=way, until=3).set_retry(2, backoff_duration="0s", backoff_max_duration="60s")

    run = bench.run(retries, way=way)
    assert run.tasks["fail"].attempt == attempts and run.exit_code == code
    assert made(run, "fail") == "3" if code == 0 else run.tasks["fail"].status == "failed"
    left = run_records.read((bench.folder / "run/tasks/another/outputs/receipt").as_uri()).receipts["fail"]
    assert [receipt.attempt for receipt in left] == [*range(1, attempts + 1)]
    assert all(receipt.wall_seconds > 0 and receipt.step == "fail" for receipt in left)


def test_retries_end_with_their_number_and_with_their_window(bench):
    @dsl.pipeline(name="limits")
    def limits():
        fail(way="store", until=9).set_retry(1, backoff_duration="0s", backoff_max_duration="60s")
        fail(way="kill", until=9).set_retry(9, backoff_duration="30s", backoff_max_duration="20s")

    run = bench.run(limits)
    assert (run.tasks["fail"].attempt, run.tasks["fail"].exit_code) == (2, 4)
    assert (run.tasks["fail-2"].attempt, run.tasks["fail-2"].exit_code) == (1, 137)


RUNNER = """
import sys
from pathlib import Path
from deepcuts.pipelines.runner import local
package, folder = map(Path, sys.argv[1:])
cached = folder.parent / "cache"
run = local.run(package, {}, folder, parallel=2, fresh=False, cached=cached, show=lambda run: None)
sys.exit(run.exit_code)
"""


def start(bench: Bench, pipeline: Callable[..., Any], name: str) -> subprocess.Popen[bytes]:
    """A runner in a separate process."""
    words = [sys.executable, "-c", RUNNER, *map(str, (bench.package(pipeline), bench.folder / name))]
    return subprocess.Popen(words, cwd=ROOT)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def waiting(bench: Bench, name: str, task: str) -> bool:
    log = bench.folder / name / "tasks" / task / "stderr.log"
    return log.exists() and "waiting" in log.read_text()


def long_pipeline(checkpoint: Path, seconds: float) -> Callable[..., Any]:
    @dsl.pipeline(name="long")
    def long():
        first = toy()
        second = wait(source=first.outputs["out"], seconds=seconds, checkpoint=str(checkpoint))
        wait(source=second.outputs["out"], seconds=0.0, checkpoint="")

    return long


def test_killed_runner_takes_its_tasks_along_and_a_rerun_resumes(bench):
    saved = bench.folder / "saved"
    long = long_pipeline(saved, seconds=3.0)
    runner = start(bench, long, "run")
    until(lambda: waiting(bench, "run", "wait"))
    runner.kill()
    runner.wait()
    until(saved.exists)  # the step was told to stop although its runner could tell nobody
    assert run_record.read(bench.folder / "run").status == "running"
    run = bench.run(long_pipeline(saved, seconds=3.0), "run")
    assert run.exit_code == 0
    assert cached(run) == {"make": True, "wait": False, "wait-2": False}
    assert run.tasks["wait"].attempt == 2
    assert run.tasks["make"].seconds > 0, "what was spent before the kill is still on the bill"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_runner_lets_its_tasks_save_and_says_so(bench, number):
    saved = bench.folder / "saved"
    runner = start(bench, long_pipeline(saved, seconds=60.0), "run")
    until(lambda: waiting(bench, "run", "wait"))
    runner.send_signal(number)
    assert runner.wait(20) == 143
    run = run_record.read(bench.folder / "run")
    assert saved.read_text() == "saved"
    assert run.status == "interrupted" and run.exit_code == 143
    statuses = {name: task.status for name, task in run.tasks.items()}
    assert statuses == {"make": "done", "wait": "interrupted", "wait-2": "waiting"}
    assert run.tasks["wait"].exit_code == 143 and run.tasks["wait"].seconds > 0


def test_second_signal_kills_a_task_that_does_not_stop(bench):
    @dsl.container_component
    def deaf(out: dsl.Output[dsl.Dataset]):
        code = (
            "import signal, sys, time; signal.signal(15, signal.SIG_IGN); "
            "print('waiting', file=sys.stderr, flush=True); time.sleep(60)"
        )
        return dsl.ContainerSpec(image="toys", command=["python", "-c", code], args=[out.path])

    @dsl.pipeline(name="stubborn")
    def stubborn():
        deaf()

    runner = start(bench, stubborn, "run")
    until(lambda: waiting(bench, "run", "deaf"))
    runner.terminate()
    time.sleep(0.5)
    assert runner.poll() is None
    runner.terminate()
    assert runner.wait(20) == 143
    assert run_record.read(bench.folder / "run").tasks["deaf"].exit_code == 137


def test_folder_in_use_is_refused(bench):
    runner = start(bench, long_pipeline(bench.folder / "saved", seconds=60.0), "run")
    until(lambda: waiting(bench, "run", "wait"))
    with pytest.raises(ValueError, match="another process runs here"):
        bench.run(chain, "run")
    runner.kill()
    runner.wait()


# what cannot run


def test_loop_is_refused_before_anything_runs(bench):
    @dsl.pipeline(name="loop")
    def loop():
        with dsl.ParallelFor(["a", "b"]) as word:
            make(text=word, number=1, rate=0.5, flag=True, words=["a"], config={})

    with pytest.raises(ValueError, match="ParallelFor needs a cluster"):
        bench.run(loop)
    assert not (bench.folder / "run").exists()


def test_arguments_are_all_checked_at_once(bench):
    with pytest.raises(ValueError) as caught:
        bench.run(choice, number="many", txt="x")
    number, text, unknown = sorted(str(caught.value).splitlines())
    assert number.startswith("number: expected a whole number") and "'many'" in number
    assert text == "text: missing: give it a value (str)"
    assert unknown == "txt: unknown key: did you mean 'text'?"


def test_missing_import_fails_as_data(bench):
    @dsl.pipeline(name="nothing")
    def nothing():
        dsl.importer(artifact_uri="/no/such/file", artifact_class=dsl.Dataset)
        dsl.importer(artifact_uri="s3://bucket/key", artifact_class=dsl.Dataset)

    run = bench.run(nothing)
    assert run.tasks["importer"].exit_code == 3 and "/no/such/file" in run.tasks["importer"].message
    assert run.tasks["importer-2"].exit_code == 2 and "use fetch" in run.tasks["importer-2"].message


def test_file_that_is_no_pipeline_is_refused(tmp_path):
    (tmp_path / "p.yaml").write_text("a: 1")
    with pytest.raises(ValueError, match="not a compiled pipeline"):
        pipeline_spec.read(tmp_path / "p.yaml")


def test_environment_of_a_task_shares_the_cores(bench, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    @dsl.container_component
    def threads(out: dsl.Output[dsl.Dataset]):
        code = "import os, sys; open(sys.argv[1], 'w').write(os.environ['OMP_NUM_THREADS'])"
        return dsl.ContainerSpec(image="toys", command=["python", "-c", code], args=[out.path])

    @dsl.pipeline(name="share")
    def share():
        threads()

    assert int(made(bench.run(share), "threads")) == max(1, (os.cpu_count() or 1) // 2)
