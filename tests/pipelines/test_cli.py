"""The ``deepcuts`` command, on toy pipelines."""

import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp import compiler, dsl
from rich.console import Console

from deepcuts.components.core import run_records
from deepcuts.components.core.nodepools import NodePools
from deepcuts.components.core.s3 import S3Store
from deepcuts.components.ledger import charges
from deepcuts.pipelines import pools
from deepcuts.pipelines.command import cli, conclusion, doctor, progress_table
from deepcuts.pipelines.placement import on
from deepcuts.pipelines.run_file import settings
from deepcuts.pipelines.runner import pipeline_spec, run_record
from deepcuts.pipelines.runner.run_record import RunRecord, TaskRecord
from tests.pipelines.toys.faces import fail, join, make, wait

ROOT = Path(__file__).parents[2]
LOG = "runs/toy-*/tasks/wait/stderr.log"
CPU, GPU = pools.named("cpu"), pools.named("gpu")


@dsl.pipeline(name="toy", description="A toy pipeline.")
def toy(
    text: str,
    data_uri: str = "",
    store_uri: str = "",
    number: int = 1,
    rate: float = 0.5,
    recipe: dict = {},  # noqa: B006
    nodepools: dict = {},  # noqa: B006
    max_tokens: int = 512,
):
    """A toy pipeline.

    Args:
        text: What to write down,
            word by word.
        recipe: Hyperparameters.
    """
    first = on(
        CPU,
        make(
            text=f"{text} {data_uri} {store_uri}",
            number=number,
            rate=rate,
            flag=True,
            words=[],
            config=recipe,
        ),
        cpu=1,
        memory="1Gi",
        max_hours=1,
    ).set_display_name("Make it")
    second = on(
        GPU, wait(source=first.outputs["out"], seconds=0.1, checkpoint=""), cpu=1, memory="1Gi", max_hours=1
    )
    on(CPU, join(left=first.outputs["out"], right=second.outputs["out"]), cpu=1, memory="1Gi", max_hours=1)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The compiled toy, in the working directory, where nothing else is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    compiler.Compiler().compile(toy, "toy.yaml")
    return tmp_path / "toy.yaml"


def deepcuts(*words: object) -> int:
    """Exit code of the command; what it prints goes where pytest captures it."""
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["deepcuts", *map(str, words)])
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def only_run(folder: Path = Path("runs")) -> Path:
    (path,) = folder.glob("toy-*")
    return path


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tasks/make/outputs/out").read_text())


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return sorted(line.removeprefix("deepcuts: ") for line in capsys.readouterr().err.splitlines())


# run


def test_run_reads_file_then_set_and_fills_in_store_and_pools(package, tmp_path, capsys):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/data.csv").write_text("a,b")
    (tmp_path / "conf/run.yaml").write_text(
        "text: from file\nrate: 1e-3\ndata_uri: data.csv\n"
        "recipe: {learning_rate: 1e-3, trainable_embeddings: no}\n"
    )
    sets = ["--set", "text=from set", "--set", "recipe.seed=7", "--set", "recipe.learning_rate=2e-5"]
    assert deepcuts("run", "toy.yaml", "-f", "conf/run.yaml", *sets) == 0
    values = written(only_run())
    uris = [(tmp_path / name).as_uri() for name in ("conf/data.csv", "runs/store")]
    assert values["text"] == f"from set {uris[0]} {uris[1]}" and values["rate"] == 0.001
    assert values["config"] == {"learning_rate": 2e-5, "trainable_embeddings": "no", "seed": 7}
    record = run_record.read(only_run())
    assert {p["name"] for p in record.arguments["nodepools"]["pools"]} == {"cpu", "gpu", "gpu-spot"}
    printed = capsys.readouterr().out
    assert "Make it" in printed and "peak memory" in printed and "this machine is not that pool" in printed


def test_run_again_is_served_from_the_cache_and_fresh_is_not(package):
    assert deepcuts("run", "toy.yaml", "--set", "text=x", "--runs", "a") == 0
    assert deepcuts("run", "toy.yaml", "--set", "text=x", "--runs", "a") == 0
    first, again = sorted(Path("a").glob("toy-*"))
    assert all(task.cached for task in run_record.read(again).tasks.values())
    assert deepcuts("run", "toy.yaml", "--set", "text=x", "--runs", "a", "--fresh") == 0
    (fresh,) = {*Path("a").glob("toy-*")} - {first, again}
    assert not any(task.cached for task in run_record.read(fresh).tasks.values())
    assert written(fresh)["text"].endswith(f"{fresh.name}/store"), "nor from an earlier run's checkpoints"


@dsl.pipeline(name="toy")
def slow(nodepools: dict = pools.prices()):  # noqa: B008
    first = on(
        CPU,
        make(text="x", number=1, rate=0.5, flag=True, words=[], config={}),
        cpu=1,
        memory="1Gi",
        max_hours=1,
    )
    second = wait(source=first.outputs["out"], seconds=2.0, checkpoint="")
    on(CPU, second, cpu=1, memory="1Gi", max_hours=1)


COMPILE_AND_RUN = """
import sys
from kfp import compiler
from deepcuts.pipelines.command import cli
from tests.pipelines.test_cli import slow
compiler.Compiler().compile(slow, "toy.yaml")
sys.argv = ["deepcuts", "run", "toy.yaml"]
cli.main()
"""


def test_run_killed_again_and_again_is_taken_up_by_other_processes_and_all_is_charged(package, monkeypatch):
    """kfp writes a default's keys in another order in each process: the digest must not see it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for kills in range(3):
        process = subprocess.Popen([sys.executable, "-c", COMPILE_AND_RUN], stdout=subprocess.PIPE, text=True)
        if kills < 2:
            end = time.monotonic() + 60
            while not any(path.read_text().count("waiting") > kills for path in Path().glob(LOG)):
                assert time.monotonic() < end and process.poll() is None, "the task did not start"
                time.sleep(0.02)
            process.kill()
        assert ("resuming" in process.communicate()[0]) == (kills > 0)
    assert process.returncode == 0
    record = run_record.read(only_run())
    assert record.tasks["wait"].attempt == 3 and record.tasks["make"].cached
    receipt = Path(record.tasks["make"].artifacts["receipt"])
    rows = charges.charges({"wait": run_records.read(receipt.as_uri()).receipts["wait"]}, pools.read())
    assert [(row.attempt, row.end_reason) for row in rows] == [
        (1, "infrastructure"),
        (2, "infrastructure"),
        (3, "ok"),
    ]
    assert all(row.usd is not None and row.start for row in rows), "paid for, and at a known price"


@dsl.pipeline(name="toy")
def broken(way: str, until: int = 2, nodepools: dict = {}):  # noqa: B006
    good = on(
        CPU,
        make(text="x", number=1, rate=0.5, flag=True, words=[], config={}),
        cpu=1,
        memory="1Gi",
        max_hours=1,
    )
    on(CPU, fail(way=way, until=until), cpu=1, memory="1Gi", max_hours=1).after(good)


def test_failed_run_has_its_exit_code_names_the_fix_and_is_taken_up(package, capsys):
    compiler.Compiler().compile(broken, "broken.yaml")
    assert deepcuts("run", "broken.yaml", "--set", "way=data") == 3
    printed = capsys.readouterr().out
    assert "row 3 is empty: remove it" in printed and "tasks/fail/stderr.log" in printed
    assert deepcuts("run", "broken.yaml", "--set", "way=data") == 0, "its second attempt goes well"
    record = run_record.read(only_run())
    assert record.tasks["make"].cached and record.tasks["fail"].attempt == 2
    assert deepcuts("run", "broken.yaml", "--set", "way=gate", "--set", "until=9") == 5


def test_run_of_another_version_is_not_in_the_way(package):
    Path("runs/toy-1").mkdir(parents=True)
    Path("runs/toy-1/run.json").write_text('{"pipeline": "toy"}')
    assert deepcuts("run", "toy.yaml", "--set", "text=x") == 0


def test_wrong_settings_are_all_named_before_anything_runs(package, capsys):
    code = deepcuts(
        *("run", "toy.yaml", "--set", "txt=x", "--set", "number=many", "--set", "max_tokens=600"),
        *("--set", "recipe.learning_rat=1", "--set", "recipe.method=qlora", "--set", "data_uri=no/such.csv"),
        *("--set", "nodepools={pools: [{name: cpu}]}"),
    )
    assert code == 2
    found = errors(capsys)
    assert [line.split(":")[0] for line in found] == [
        "data_uri",
        "max_tokens 600 is above recipe.seq_len 512",
        "nodepools.pools[0].cpu_cores",
        "nodepools.pools[0].memory_bytes",
        "nodepools.pools[0].selector",
        "number",
        "recipe.learning_rat",
        "recipe.method",
        "text",
        "txt",
    ]
    assert any("did you mean 'learning_rate'?" in line for line in found)
    assert not Path("runs").exists()


def test_example_limit_above_the_block_is_refused_before_anything_runs(package, capsys):
    assert deepcuts("run", "toy.yaml", "--set", "text=x", "--set", "recipe.seq_len=256") == 2
    assert "max_tokens 512 is above recipe.seq_len 256" in errors(capsys)[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "toy.yaml", "-f", "list.yaml"], "list.yaml: expected parameters as `name: value`, got list"),
        (["run", "toy.yaml", "-f", "torn.yaml"], "torn.yaml is neither JSON nor YAML: "),
        (["run", "toy.yaml", "--set", "text"], "--set text: expected name=value, or name.key=value"),
        (
            ["run", "toy.yaml", "--set", "text=a", "--set", "text.b=c"],
            "text.b: text is 'a', which has no keys",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(package, capsys, words, message):
    Path("list.yaml").write_text("- a")
    Path("torn.yaml").write_text("a: {")
    assert deepcuts(*words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "finetun"], "no pipeline 'finetun': did you mean 'finetune'?"),
        (["compile", "nothing-like-it"], "no pipeline 'nothing-like-it': there are: "),
        (["run", "no.yaml"], "no compiled pipeline at no.yaml: write it with deepcuts compile"),
        (["run", "toy.yaml", "-f", "no.yaml"], "no.yaml: no such run file: check -f"),
    ],
)
def test_what_is_not_there_is_one_line_and_exit_code_3(package, capsys, words, message):
    assert deepcuts(*words) == 3
    assert message in capsys.readouterr().err


def test_help_lists_the_parameters_with_type_default_and_meaning(package, capsys):
    assert deepcuts("run", "toy.yaml", "--help") == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[lines.index("text  text; required") + 1] == "What to write down, word by word."
    assert "number  integer; default 1" in lines
    assert "recipe.learning_rate  number > 0 or auto; default auto" in lines


def test_command_in_a_process_of_its_own_shows_no_traceback(tmp_path):
    command = [
        sys.executable,
        "-c",
        "from deepcuts.pipelines.command.cli import main; main()",
        "report",
        str(tmp_path),
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 3
    assert ended.stderr == f"deepcuts: {tmp_path}: no run.json in it: name the folder of a run\n"


# compile, report, doctor


def test_report_of_a_run_without_a_ledger_shows_its_tasks(package, capsys):
    deepcuts("run", "toy.yaml", "--set", "text=x")
    capsys.readouterr()
    assert deepcuts("report", only_run()) == 0
    printed = capsys.readouterr().out
    assert "Make it" in printed and "(done)" in printed


def test_doctor_is_content_with_this_environment(capsys, monkeypatch):
    monkeypatch.delenv("S3_ENDPOINT", raising=False)
    assert deepcuts("doctor") == 0
    assert "2.17.0" in capsys.readouterr().out


def test_doctor_names_what_is_missing_and_its_fix(monkeypatch):
    extras = {"kfp": "data", "no-such-thing": "train", "rich": ""}
    wanted = {"kfp": "==9.9", "no-such-thing": ">=1", "rich": "<1"}
    asked = [
        f"{name}{wanted[name]}" + (f"; extra == '{extra}'" if extra else "") for name, extra in extras.items()
    ]
    monkeypatch.setattr(doctor, "CHECKED", extras)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked)
    wrong, absent, above = doctor.packages()
    assert above.missing and above.state.endswith("needs <1") and above.fix == "pip install -U deepcuts"
    assert wrong.missing and wrong.state.endswith("needs ==9.9") and "deepcuts[data]" in wrong.fix
    assert absent.missing and absent.state == "missing, needs >=1" and "deepcuts[train]" in absent.fix


def test_doctor_finds_a_store_that_is_not_there():
    keys, store = doctor.store({"S3_ENDPOINT": "http://127.0.0.1:9"})
    assert keys.missing and "AWS_SECRET_ACCESS_KEY" in keys.state
    assert store.missing and store.fix == "start the store, or correct S3_ENDPOINT"


def test_doctor_tries_whether_a_second_writer_is_refused(s3_url, minio, monkeypatch):
    found = doctor.exclusive(s3_url)
    assert found.state.endswith("a second writer is refused") and not found.fix
    monkeypatch.setattr(S3Store, "_put_if_absent", lambda *words, **named: True)
    found = doctor.exclusive(s3_url)
    assert found.missing and "ignores If-None-Match" in found.state and "412" in found.fix
    assert "DEEPCUTS_STORE" in doctor.exclusive("").fix
    monkeypatch.setenv("DEEPCUTS_STORE", s3_url)
    assert [f.subject for f in doctor.store(os.environ)] == ["store", "exclusive writes"]


def test_doctor_reaches_a_store_that_is_there(minio):
    found, _ = doctor.store(minio)
    assert not found.missing and found.state.startswith(f"{minio['S3_ENDPOINT']} answers")


def test_compile_writes_a_file_and_tells_where_tasks_go(package, capsys):
    assert deepcuts("compile", "finetune", "-o", "made/here.yaml") == 0
    assert pipeline_spec.read(Path("made/here.yaml")).pipeline_info.name == "finetune"
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "Finetune" in line]
    assert "as planned" in line and "train:dev" in line


def test_doctor_doubts_old_assumed_and_unknown_prices():
    day = datetime.date(2026, 11, 24)

    def fix(**changes: Any) -> str:
        pool = msgspec.structs.replace(CPU, price_source="invoice", price_date="2026-11-01", **changes)
        (finding,) = doctor.prices({"cpu": pool}, day)
        return finding.fix

    assert fix() == ""
    assert fix(usd_per_hour=None)
    assert next(doctor.prices({"cpu": CPU}, day)).fix, "assumed"
    (old,) = doctor.prices(
        {"cpu": msgspec.structs.replace(CPU, price_source="invoice", price_date="2026-01-01")}, day
    )
    assert old.fix and "327 days old" in old.state


@pytest.mark.parametrize(("version", "good"), [("2.13.0+cpu", True), ("2.9.1", False), ("2.10.0rc1", False)])
def test_doctor_compares_versions_as_pip_does(monkeypatch, version, good):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["torch>=2.10; extra == 'train'"])
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    (found,) = doctor.packages()
    assert found.missing is not good


# settings


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1_000", 1000),
        ("no", "no"),
        ("true", True),
        ("2026-11-23", "2026-11-23"),
        (".5", 0.5),
    ],
)
def test_set_reads_values_as_people_mean_them(text, value):
    assert settings.override({}, [f"a={text}"]) == {"a": value}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_set_reads_any_number_that_python_prints(value):
    assert settings.override({}, [f"a={value!r}"]) == {"a": value}


def test_set_leaves_the_given_arguments_alone():
    given_arguments = {"recipe": {"seed": 1}}
    assert settings.override(given_arguments, ["recipe.seed=2", "recipe.order=given"]) == {
        "recipe": {"seed": 2, "order": "given"}
    }
    assert given_arguments == {"recipe": {"seed": 1}}


# live


def record(**tasks: TaskRecord) -> RunRecord:
    return RunRecord(pipeline="p", package_digest="", arguments={}, parallel=2, started_at="", tasks=tasks)


def task(**values: Any) -> TaskRecord:
    return TaskRecord(**{"name": "Train", "step": "train", "pool": "gpu", **values})


def test_costs_are_seconds_times_price_and_unknown_stays_unknown():
    pools = {"gpu": GPU}
    run = record(a=task(seconds=3600.0), b=task(seconds=1.0, pool="unknown"), c=task(pool="unknown"))
    assert progress_table.costs(run, pools) == {"a": GPU.usd_per_hour, "b": None, "c": 0.0}
    assert (
        progress_table.total(list(progress_table.costs(run, pools).values())) == "at least $0.8200, 1 unknown"
    )
    assert progress_table.total([None]) == "unknown"


def test_plain_output_tells_each_change_once(tmp_path):
    console = Console(file=(tmp_path / "out").open("w"), width=200)
    log = tmp_path / "tasks/a/stderr.log"
    log.parent.mkdir(parents=True)
    run = record(a=task(status="running", seconds=1.0))
    with progress_table.Board(console, tmp_path, {"gpu": GPU}) as board:
        log.write_text("step 1\rstep 2\n")
        board(run)
        log.write_text("step 3\n")
        board(run)  # within ten seconds of the last line
        run.tasks["a"] = task(
            status="failed", exit_code=3, message="[bold]row 3[/bold] is empty", seconds=2.0
        )
        board(run)
        board(run)
    console.file.close()
    lines = [line.split(" ", 1)[1] for line in (tmp_path / "out").read_text().splitlines()]
    assert lines == [
        "Train [gpu] running 1.0 s $0.0002 step 2",
        "Train [gpu] failed (exit 3) 2.0 s $0.0005 [bold]row 3[/bold] is empty",
    ]


def test_board_in_a_terminal_redraws_its_table_and_leaves_nothing(tmp_path):
    (tmp_path / "tasks").mkdir()
    console = Console(width=120, force_terminal=True, file=(tmp_path / "out").open("w"))
    with progress_table.Board(console, tmp_path, {"gpu": GPU}) as board:
        board(record(a=task(status="running", seconds=1.0)))
        board(record(a=task(status="done", seconds=2.0)))
    console.file.close()
    text = (tmp_path / "out").read_text()
    assert "running" in text and "done" in text and text.rstrip().endswith("\x1b[2K")


def test_terminal_output_is_a_table_with_progress(tmp_path):
    log = tmp_path / "tasks/a/stderr.log"
    log.parent.mkdir(parents=True)
    log.write_text("loss [1.5]\n")
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
    console.print(
        progress_table.table(record(a=task(status="running", seconds=12.0)), tmp_path, {"gpu": GPU})
    )
    text = console.export_text()
    assert "loss [1.5]" in text and "12.0" in text and "$0.0027" in text


def test_pools_in_the_arguments_price_the_run():
    told = msgspec.to_builtins(NodePools((msgspec.structs.replace(CPU, name="mine"),)))
    assert list(conclusion.pools_of({"nodepools": told})) == ["mine"]
    assert list(conclusion.pools_of({})) == ["cpu", "gpu", "gpu-spot"]


def test_logs_of_a_run_here_are_shown_by_task_and_a_wrong_name_lists_them(package, capsys):
    assert deepcuts("run", "toy.yaml", "--set", "text=x") == 0
    run = only_run()
    capsys.readouterr()
    assert deepcuts("logs", run, "wait") == 0
    shown = capsys.readouterr().out
    assert "waiting" in shown and "make" not in shown
    assert deepcuts("logs", Path(run).name) == 0, "its name below runs/ is enough"
    assert deepcuts("logs", "runs/none") == 3, "a folder, so no server is asked"
    assert "no run.json in it" in capsys.readouterr().err
    assert deepcuts("logs", run, "wat") == 3
    assert "its tasks are" in capsys.readouterr().err


def test_progress_of_a_chain_names_the_part_that_it_is_of(tmp_path):
    log = tmp_path / "stderr.log"
    for written, shown in (
        ("", ""),
        ("select: part 3 of 5\n", "select: part 3 of 5"),
        (
            "ingest: part 2 of 5\n1%  1 of 99 rows\n9%  9 of 99 rows  30 s left\n",
            "ingest (2 of 5): 9%  9 of 99 rows  30 s left",
        ),
        ("9%  9 of 99 rows  30 s left\n", "9%  9 of 99 rows  30 s left"),
    ):
        log.write_text(written)
        assert run_record.news(tmp_path) == shown


def test_an_interruption_names_the_part_of_a_chain_and_a_failure_only_its_reason():
    message = "100%  9 of 9 bytes\nselect: part 3 of 5"
    task = TaskRecord(name="Prepare", step="chain", pool="cpu", status="interrupted", message=message)
    record = RunRecord(
        pipeline="toy", package_digest="", arguments={}, parallel=1, started_at="", tasks={"prepare": task}
    )
    said = "interrupted in Prepare (select: part 3 of 5): run the same command to resume"
    assert conclusion.interruption(record) == said
    assert conclusion.why("ingest: part 2 of 5\n5%  1 of 20 rows\ningest: bad rows") == "ingest: bad rows"
