import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.core import cli, errors, receipts
from deepcuts.components.core.receipts import Facts, Receipt
from deepcuts.components.core.recipe import Recipe
from tests.conftest import ROOT

StepValues = dict[str, Any]


def everything(
    corpus: Path, name: str, count: int, share: float, flag: bool, names: list[str], recipe: Recipe
) -> Facts:
    """A step with one parameter of every kind; it writes what it was given."""
    corpus.write_bytes(msgspec.json.encode([name, count, share, flag, names, recipe.learning_rate]))
    return {"kept": 3, "share": 0.5, "label": "a", "tokens": 12}


FLAGS = {
    "--name": "plain text",
    "--count": "3",
    "--share": "-1e-5",
    "--flag": "true",
    "--names": '["a", "b c"]',
    "--recipe": '{"learning_rate": 1e-5}',
}


def words(flags: dict[str, str], **changed: str | None) -> list[str]:
    """argv of ``flags`` with some changed, or left out (None)."""
    merged = flags | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    return [word for flag, value in merged.items() if value is not None for word in (flag, value)]


def last_receipt(capsys: pytest.CaptureFixture[str]) -> tuple[Receipt, list[str]]:
    """The receipt on the last line of stdout, and the lines of stderr."""
    out = capsys.readouterr()
    return msgspec.json.decode(out.out.splitlines()[-1], type=Receipt), out.err.splitlines()


def problems(capsys: pytest.CaptureFixture[str], argv: list[str]) -> list[str]:
    assert cli.run(everything, argv) == 2
    receipt, lines = last_receipt(capsys)
    assert receipt.end_reason == "config"
    return [line.removeprefix("everything: ") for line in lines]


def test_run_decodes_text_as_it_is_and_the_rest_as_json(tmp_path):
    assert cli.run(everything, words(FLAGS, corpus=str(tmp_path / "out"))) == 0
    assert json.loads((tmp_path / "out").read_text()) == ["plain text", 3, -1e-5, True, ["a", "b c"], 1e-5]


def test_run_takes_flags_with_an_equals_sign(tmp_path):
    flags = FLAGS | {"--corpus": str(tmp_path / "out"), "--name": "a=b"}
    assert cli.run(everything, [f"{flag}={value}" for flag, value in flags.items()]) == 0
    assert json.loads((tmp_path / "out").read_text())[0] == "a=b"


@pytest.mark.parametrize(
    "text", ["", "-", "--", "--name", "-x", "--help", "@file", " ", "3", "null", "ü\n{}"]
)
def test_run_passes_any_text_through(tmp_path, text):
    assert cli.run(everything, words(FLAGS, corpus=str(tmp_path / "out"), name=text)) == 0
    assert json.loads((tmp_path / "out").read_text())[0] == text


def test_run_takes_what_is_json_from_a_file_of_yaml_or_json(tmp_path):
    (tmp_path / "names.json").write_text('["a", "b c"]')
    (tmp_path / "recipe.yaml").write_text("learning_rate: 1e-5\n")
    files = {"names": f"@{tmp_path}/names.json", "recipe": f"@{tmp_path}/recipe.yaml"}
    assert cli.run(everything, words(FLAGS, corpus=str(tmp_path / "out"), **files)) == 0
    assert json.loads((tmp_path / "out").read_text())[-2:] == [["a", "b c"], 1e-5]


def test_run_names_the_flag_whose_file_is_missing_or_broken(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("{")
    argv = words(FLAGS, names=f"@{tmp_path}/none", recipe=f"@{tmp_path}/recipe.yaml", corpus=None)
    found = problems(capsys, argv)
    assert found[0].startswith("--corpus: missing")
    assert found[1] == f"names: {tmp_path}/none cannot be read (No such file or directory): check the path"
    assert found[2].startswith(f"recipe: {tmp_path}/recipe.yaml is neither JSON nor YAML")


def test_run_reports_missing_and_unknown_flags_and_bad_values_all_together(capsys):
    argv = words(FLAGS, name=None, cuont="3", count="three", share="[]", recipe='{"seed": -1, "sede": 1}')
    found = problems(capsys, argv)
    assert found[:2] == [
        "--cuont: unknown key: did you mean '--count'?",
        "--corpus: missing: give it a value (path)",
    ]
    assert found[2] == "--name: missing: give it a value (text)"
    assert found[3].startswith("count: not JSON (") and found[3].endswith("got 'three': quote it as JSON")
    assert found[4:] == [
        "share: expected a number, got []",
        "recipe.sede: unknown key: did you mean 'seed'?",
        "recipe.seed: expected a whole number >= 0, got -1",
    ]


def test_run_reports_words_that_belong_to_no_flag(capsys, tmp_path):
    corpus = str(tmp_path / "out")
    assert problems(capsys, [*words(FLAGS, corpus=corpus), "stray"]) == [
        "'stray': a flag should stand here: quote a value that holds spaces"
    ]
    assert problems(capsys, ["-c", *words(FLAGS, corpus=corpus)])[0].startswith("'-c': a flag should")


def test_run_reports_a_flag_given_twice(capsys, tmp_path):
    argv = [*words(FLAGS, corpus=str(tmp_path / "out")), "--count", "4"]
    assert problems(capsys, argv) == ["--count: given twice: remove one"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["True", "yes", "", "{", "[" * 100_000, "1" * 5000])
def test_run_reports_what_is_not_json(capsys, tmp_path, value):
    (found,) = problems(capsys, words(FLAGS, corpus=str(tmp_path / "out"), flag=value))
    assert found.startswith("flag: ") and len(found) < 300


@given(
    argv=st.lists(
        st.sampled_from(["--count", "--name", "--recipe", "{}", "3", "x", "--x=1", "-"]) | st.text()
    )
)
def test_parse_of_any_argv_raises_nothing_but_value_error(argv):
    with pytest.raises(ValueError, match="--corpus: missing|--share: missing"):
        cli.parse(everything, *cli.pairs(argv))


def test_help_shows_what_the_step_does_and_takes(capsys):
    assert cli.run(everything, ["--help"]) == 0
    shown = capsys.readouterr().out
    assert "it writes what it was given" in shown
    for line in ("--corpus path", "--name text", "--count int", "--names list[str]", "--recipe Recipe"):
        assert f"  {line}\n" in shown


def test_run_leaves_the_receipt_on_stdout_and_on_disk(tmp_path, capsys):
    argv = words(FLAGS, corpus=str(tmp_path / "out"), receipt=str(tmp_path / "new" / "receipt.json"))
    assert cli.run(everything, argv) == 0
    receipt, lines = last_receipt(capsys)
    assert (receipt.step, receipt.end_reason, receipt.tokens, receipt.facts["kept"]) == (
        "everything",
        "ok",
        12,
        3,
    )
    assert msgspec.json.decode((tmp_path / "new" / "receipt.json").read_bytes(), type=Receipt) == receipt
    assert lines == []


def test_run_leaves_a_receipt_when_the_flags_are_wrong(tmp_path, capsys):
    assert cli.run(everything, ["--receipt", str(tmp_path / "receipt.json"), "--nonsense", "1"]) == 2
    written = msgspec.json.decode((tmp_path / "receipt.json").read_bytes(), type=Receipt)
    assert written.end_reason == "config"


RAISED = [
    (ValueError("too small, 3: give 4"), 2, "config"),
    (FileExistsError("out is there: remove it"), 2, "config"),
    (errors.DataError("row 3 is no row: mend it"), 3, "data"),
    (FileNotFoundError("no corpus: check the path"), 3, "data"),
    (IsADirectoryError("a folder"), 3, "data"),
    (errors.StoreError("the store is away: try again"), 4, "infrastructure"),
    (OSError(28, "No space left on device"), 4, "infrastructure"),
    (ConnectionResetError("reset"), 4, "infrastructure"),
    (TimeoutError("too slow"), 4, "infrastructure"),
    (MemoryError(), 4, "infrastructure"),
    (errors.GateRefused("0.71 is below 0.75"), 5, "gate"),
    (errors.Preempted("checkpoint 7 is committed"), 143, "preempted"),
]


@pytest.mark.parametrize(("error", "code", "reason"), RAISED, ids=lambda value: str(value)[:20])
def test_run_maps_each_error_to_its_exit_code_and_one_message(tmp_path, capsys, error, code, reason):
    def fails() -> Facts:
        raise error

    assert cli.run(fails, ["--receipt", str(tmp_path / "receipt.json")]) == code
    receipt, lines = last_receipt(capsys)
    assert receipt.end_reason == reason
    assert lines == [f"fails: {str(error) or type(error).__name__}"]
    assert msgspec.json.decode((tmp_path / "receipt.json").read_bytes(), type=Receipt) == receipt


def test_run_shows_a_traceback_only_for_a_bug_of_ours(capsys):
    def fails() -> Facts:
        raise KeyError("oops")

    assert cli.run(fails, []) == 1
    receipt, lines = last_receipt(capsys)
    assert receipt.end_reason == "bug"
    assert lines[0].startswith("Traceback") and "please report it" in lines[-1]


def test_main_ends_the_process_with_the_exit_code():
    code = (
        "from deepcuts.components.core import cli, errors\n"
        "def fails():\n    raise errors.DataError('row 3')\n"
        "cli.main(fails)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr == "fails: row 3\n"


def executor_input(folder: Path, inputs: StepValues, parameters: StepValues) -> str:
    """What the KFP launcher puts in place of ``{{$}}`` (recorded from kfp 2.17.0, shortened)."""
    return json.dumps(
        {
            "inputs": {
                "artifacts": {
                    name: {
                        "artifacts": [
                            {"name": "1", "type": {"instanceSchema": ""}, "uri": uri, "metadata": {}}
                        ]
                    }
                    for name, uri in inputs.items()
                },
                "parameterValues": {},
            },
            "outputs": {
                "artifacts": {"receipt": {"artifacts": [{"uri": f"file://{folder}/receipt"}]}},
                "parameters": parameters,
                "outputFile": str(folder / "executor" / "output_metadata.json"),
            },
        }
    )


def test_run_writes_the_executor_output_that_kfp_reads(tmp_path):
    executor = executor_input(tmp_path, {}, {"kept": {"outputFile": "/x"}, "label": {"outputFile": "/y"}})
    argv = words(FLAGS, corpus=str(tmp_path / "out"), executor_input=executor)
    assert cli.run(everything, argv) == 0
    output = json.loads((tmp_path / "executor" / "output_metadata.json").read_text())
    assert output["parameterValues"] == {"kept": 3, "label": "a"}
    (artifact,) = output["artifacts"]["receipt"]["artifacts"]
    assert artifact["metadata"]["kept"] == 3.0 and artifact["metadata"]["share"] == 0.5
    assert artifact["metadata"]["wall_seconds"] >= 0
    assert all(
        isinstance(number, float) for number in artifact["metadata"].values()
    )  # UI: metrics are numbers


def test_run_failed_step_writes_no_executor_output(tmp_path, capsys):
    def fails() -> Facts:
        raise errors.DataError("row 3")

    assert cli.run(fails, ["--executor-input", executor_input(tmp_path, {}, {})]) == 3
    assert not (tmp_path / "executor").exists()


@given(
    st.text(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.booleans()
)
def test_run_looks_parameters_up_in_the_executor_input(name, count, share, flag):
    with tempfile.TemporaryDirectory() as folder:
        executor = json.loads(executor_input(Path(folder), {}, {}))
        executor["inputs"]["parameterValues"] = {"called": name, "count": count, "share": share, "flag": flag}
        named = {"--name": "$.called", "--count": "$.count", "--share": "$.share", "--flag": "$.flag"}
        argv = words(FLAGS | named, corpus=f"{folder}/out", executor_input=json.dumps(executor))
        assert cli.run(everything, argv) == 0
        assert json.loads(Path(folder, "out").read_text())[:4] == [name, count, share, flag]


def test_run_refuses_a_parameter_that_the_task_has_not(tmp_path, capsys):
    executor = executor_input(tmp_path, {}, {})
    argv = words(FLAGS, name="$.nam", corpus=str(tmp_path / "out"), executor_input=executor)
    assert problems(capsys, argv)[0].startswith("$.nam: no input or output of this task")


def test_run_executor_input_that_is_not_json_is_a_configuration_error(tmp_path, capsys):
    argv = words(FLAGS, corpus=str(tmp_path / "out"), executor_input="{{$}}")
    assert problems(capsys, argv)[0].startswith("executor_input: not JSON")


def reads(corpus: Path) -> Facts:
    """A step with an input artifact."""
    return {"bytes": corpus.stat().st_size}


@pytest.mark.parametrize(
    ("uri", "there"),
    [
        ("minio://mlpipeline/v2/corpus", False),
        ("s3://bucket/corpus", False),
        ("file://{folder}/corpus", True),
    ],
)
def test_run_names_the_uri_of_a_missing_input_artifact(tmp_path, capsys, uri, there):
    uri = uri.format(folder=tmp_path)
    argv = ["--corpus", str(tmp_path / "corpus")]
    executor = ["--executor-input", executor_input(tmp_path, {"corpus": uri}, {})]
    assert cli.run(reads, argv + executor) == 3
    assert last_receipt(capsys)[1] == [
        f"reads: input 'corpus': nothing at {uri}: check the URI, or rerun the step that makes it"
    ]
    if there:
        (tmp_path / "corpus").touch()
        assert cli.run(reads, argv + executor) == 0


def test_run_lets_an_input_be_missing_that_is_no_parameter_by_itself(tmp_path):
    (tmp_path / "corpus").touch()
    executor = executor_input(tmp_path, {"receipts": "s3://bucket/gone"}, {})
    assert cli.run(reads, ["--corpus", str(tmp_path / "corpus"), "--executor-input", executor]) == 0


def choice(mode: Literal["a", "b"]) -> Facts:
    """A step whose text parameter is one of a few: text to KFP, so text in argv."""
    return {"mode": mode}


def test_run_text_of_a_few_choices_is_taken_as_it_is_and_checked(capsys):
    assert cli.run(choice, ["--mode", "a"]) == 0
    assert last_receipt(capsys)[0].facts == {"mode": "a"}
    assert cli.run(choice, ["--mode", "c"]) == 2
    assert last_receipt(capsys)[1] == ["choice: mode: expected one of 'a', 'b', got 'c'"]


def test_write_json_is_whole_or_absent(tmp_path):
    cli.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        cli.write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def bounded(count: Annotated[int, msgspec.Meta(ge=1)]) -> Facts:
    return {"count": count}


def test_run_refuses_a_value_outside_the_bounds_of_its_type(capsys):
    assert cli.run(bounded, ["--count", "1"]) == 0
    capsys.readouterr()
    assert cli.run(bounded, ["--count", "0"]) == 2
    assert last_receipt(capsys)[1] == ["bounded: count: expected a whole number >= 1, got 0"]


def test_only_the_main_process_of_torchrun_leaves_a_receipt(tmp_path, capsys, monkeypatch):
    for rank, lines in (("1", 0), ("0", 1)):
        monkeypatch.setenv("RANK", rank)
        assert cli.run(_ranked, ["--receipt", str(tmp_path / rank)]) == 0
        assert len(capsys.readouterr().out.splitlines()) == lines
        assert (tmp_path / rank).exists() == (rank == "0")


def _ranked() -> Facts:
    return {}


def test_panic_of_rust_is_a_data_error_with_a_receipt(tmp_path, capsys):
    """A pattern that backtracks: pyo3 raises a BaseException, which once ended the step without a receipt."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    def encode(text: str) -> dict[str, int]:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
        return {"tokens": len(tokenizer.encode(text).ids)}

    words = ["--text", "a" * 60 + "!", "--receipt", str(tmp_path / "receipt")]
    assert cli.run(encode, words) == 3
    assert receipts.read(tmp_path / "receipt").end_reason == "data"
    assert "correct tokenizer.json" in capsys.readouterr().err


def test_a_parameter_that_may_be_none_may_be_left_out(tmp_path):
    def step(out: Path, name: str | None, columns: dict[str, str] | None) -> Facts:
        out.write_text(json.dumps([name, columns]))
        return {}

    def told(*argv: str) -> object:
        assert cli.run(step, ["--out", str(tmp_path / "o"), *argv]) == 0
        return json.loads((tmp_path / "o").read_text())

    assert told() == [None, None]
    assert told("--name", "5", "--columns", '{"a": "b"}') == ["5", {"a": "b"}]
    assert told("--name", "", "--columns", "{}") == ["", {}]
