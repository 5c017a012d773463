"""Values that no step would take are refused by every command, before anything runs."""

import importlib
import sys
from typing import Any, get_args

import pytest
import yaml

from deepcuts.components.curriculum import step as curriculum
from deepcuts.components.curriculum.pacing import Pacing
from deepcuts.components.distill import distill_config
from deepcuts.components.prune import step as prune
from deepcuts.components.quantize import choice, served
from deepcuts.components.quantize import step as quantize
from deepcuts.components.retrain.policies import POLICIES
from deepcuts.components.select import step as select
from deepcuts.pipelines import pools
from deepcuts.pipelines.command import cli, packages
from deepcuts.pipelines.kubeflow import cron
from deepcuts.pipelines.run_file import checks, settings
from tests.conftest import ROOT

BASE = (ROOT / "pipelines/examples/base").as_uri()


def test_lists_are_those_of_the_steps():
    assert get_args(checks.SELECT) == select.METHODS
    assert get_args(checks.DIFFICULTY_SIGNAL) == curriculum.DIFFICULTY_SIGNALS
    assert checks.KINDS["curriculum_pacing"] == Pacing
    assert get_args(checks.FORMATS) == (served.AUTO, served.OFF, *quantize.NAMES)
    assert get_args(checks.SERVE_ON) == tuple(served.SERVED_BY)
    assert get_args(checks.OBJECTIVE) == choice.OBJECTIVES
    assert get_args(checks.PRUNE) == prune.METHODS
    assert get_args(checks.DISTILL) == distill_config.METHODS
    assert get_args(checks.POLICY) == POLICIES


@pytest.fixture(scope="module")
def finetune():
    return packages.read("finetune")


@pytest.mark.parametrize("name", packages.names())
def test_defaults_of_every_pipeline_pass(name):
    spec = getattr(importlib.import_module(f"deepcuts.pipelines.{name}"), name).component_spec
    values = {key: given.default for key, given in spec.inputs.items() if given.default is not None}
    assert values and checks.problems(values) == []


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"quantize_objective": "fast"}, "quantize_objective: expected one of 'bytes'"),
    ({"quantize_candidates": ["int9"]}, "quantize_candidates"),
    ({"quantize_candidates": []}, "quantize_candidates"),
    ({"quantize_candidates": ["fp8", "fp8"]}, "give each format once"),
    ({"release_name": "My Model"}, "release name 'My Model': give lower-case letters"),
    ({"budget_usd": -5}, "budget_usd: expected a number >= 0"),
    ({"deadline_hours": -1}, "deadline_hours"),
    ({"valid_share": 0.6, "test_share": 0.5}, "leave something to train on"),
    ({"test_share": 1.0}, "test_share"),
    ({"test_share": 0}, "nothing to judge the model by"),
    ({"max_bad_share": 2}, "max_bad_share"),
    ({"max_examples": 1}, "max_examples"),
    ({"margin_nats": 0}, "margin_nats"),
    ({"select_method": "rnadom"}, "select_method: expected one of"),
    ({"select_method": "coverage"}, "give 0 to deduplicate-only"),
    ({"near_threshold": 0}, "near_threshold"),
    ({"curriculum_signal": "hard"}, "curriculum_signal"),
    ({"curriculum_phases": 0}, "curriculum_phases"),
    ({"measures": ["bleu"]}, "measures"),
    ({"format": "shargpt"}, "did you mean 'sharegpt'"),
    ({"columns": {"promt": "a"}}, "did you mean 'prompt'"),
    ({"config": "main"}, "is one file: leave config out"),
    ({"base_uri": "pvc://x"}, "unknown scheme"),
    ({"store_uri": "hf://a/b"}, "unknown scheme"),
    ({"seed": -1}, "seed"),
]


@pytest.fixture
def given(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    data = (tmp_path / "data.jsonl").as_uri()
    return {"base_uri": BASE, "data_uri": data, "store_uri": tmp_path.as_uri()}


@pytest.mark.parametrize(("changed", "reason"), WRONG)
def test_a_value_that_no_step_takes_is_refused(finetune, given, changed, reason):
    with pytest.raises(ValueError) as caught:
        settings.complete(finetune, given | changed, {})
    assert reason in str(caught.value)
    if changed.keys() != {"test_share"}:  # plan and compile do not know the data
        with pytest.raises(ValueError):
            settings.partial(finetune, given | changed)


def test_a_measure_alone_is_named_once_and_general_text_and_harness_tasks_are_taken(finetune, given):
    with pytest.raises(ValueError) as caught:
        settings.partial(finetune, given | {"measures": "exact_match"})
    assert str(caught.value) == "measures: expected a list, got 'exact_match'"
    for general in ("general", "general:texts.txt"):
        measures = ["completion_loss", general, "lm-eval:piqa"]
        settings.partial(finetune, given | {"measures": measures})


def test_everything_that_is_wrong_is_said_at_once_and_once(finetune, given):
    with pytest.raises(ValueError) as caught:
        settings.complete(finetune, given | {"seed": "x", "budget_usd": -5, "patince": 1}, {})
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["patince", "seed", "budget_usd"]


def ended(monkeypatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["deepcuts", *argv])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["plan", "finetune", "--set", "patince=3"], "did you mean 'patience'"),
        (["plan", "finetune", "--set", "budget_usd=-5"], "budget_usd"),
        (["compile", "finetune", "--set", "budget_usd=-5"], "budget_usd"),
        (["compile", "finetune", "--pool", "gpu"], "--pool: only with --to job"),
        (["submit", "finetune", "--set", "release_name=My Model"], "release name 'My Model'"),
        (["schedule", "finetune", "--cron", "0 3 * * *", "--set", "release_name=My Model"], "release name"),
        (["run", "finetune", "--set", "release_name=My Model"], "release name"),
    ],
)
def test_every_command_refuses(monkeypatch, tmp_path, capsys, argv, reason):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:9")  # nobody is asked
    uris = ["--set", f"base_uri={BASE}"] if argv[0] == "plan" else []
    assert ended(monkeypatch, *argv, *uris) == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_compile_bakes_the_values_that_are_given(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("release_name: tickets\nrecipe: {learning_rate: 1e-3}\n")
    assert ended(monkeypatch, "compile", "finetune", "-f", "run.yaml", "--set", "patience=3") == 0
    known = packages.read("finetune.yaml").root.input_definitions.parameters
    assert known["release_name"].default_value == "tickets" and known["patience"].default_value == 3
    assert known["recipe"].default_value == {"learning_rate": 1e-3}


KINDS_OF_ERROR = {  # one of each kind: enumeration, share, sign, name, URI, combination, recipe, unknown key
    "quantize_objective": ("fast", "quantize_objective: expected one of"),
    "max_bad_share": (2, "max_bad_share: expected"),
    "budget_usd": (-5, "budget_usd: expected"),
    "release_name": ("My Model", "release name 'My Model'"),
    "embedder_uri": ("pvc://x", "unknown scheme"),
    "select_method": ("coverage", "give 0 to deduplicate-only"),
    "max_tokens": (1024, "max_tokens 1024 is above recipe.seq_len 256"),
    "recipe": (
        {"learning_rate": -1, "method": "full", "seq_len": 256, "tokens_per_step": 128, "new_token_ids": [1]},
        "recipe.learning_rate: expected",
    ),
    "columns": ({"promt": "a", "label": ""}, "did you mean 'prompt'"),
    "patince": (3, "did you mean 'patience'"),
}
CONTRADICTIONS = [
    "tokens_per_step 128 is below seq_len 256",
    "go with method lora",
    "columns.label: '' is no",
]
COMMANDS = {
    ("run", "finetune", "--until", "prepar"): ["did you mean 'prepare'"],
    ("submit", "finetune"): [],
    ("schedule", "finetune", "--cron", "0 3 *"): ["--cron '0 3 *' has 3 fields"],
    ("plan", "finetune"): ["base_uri: missing"],
    ("compile", "finetune", "--pool", "gpu"): ["--pool: only with --to job"],
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_says_all_that_is_wrong_at_once(monkeypatch, tmp_path, capsys, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:9")  # nobody is asked
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump({key: value for key, (value, _) in KINDS_OF_ERROR.items()})
    )
    argv = [
        *command,
        "-f",
        "run.yaml",
        "--set",
        "no value",
        "--set",
        "recipe.seed.x=1",
        "--set",
        "data_uri=nope",
    ]
    assert ended(monkeypatch, *argv) == 2
    said = capsys.readouterr().err
    wanted = [*(reason for _, reason in KINDS_OF_ERROR.values()), *CONTRADICTIONS, *COMMANDS[command]]
    wanted += ["--set no value: expected name=value", "data_uri: nothing at"]
    assert [reason for reason in wanted if reason not in said] == []
    assert [file.name for file in tmp_path.iterdir()] == ["run.yaml"]


def test_a_job_says_all_that_is_wrong_at_once(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["compile", "select", "--to", "job", "--pool", "gpuu", "--cron", "x", "--set", "budget_tokns=1"]
    assert ended(monkeypatch, *argv, "--set", "method=[1]") == 2
    said = capsys.readouterr().err
    wanted = [
        "node pool 'gpuu'",
        "--cron 'x' has 1 fields",
        "did you mean 'budget_tokens'",
        "method: expected",
    ]
    assert [reason for reason in wanted if reason not in said] == [] and list(tmp_path.iterdir()) == []


OF_ONE_PIPELINE = [
    ("distill", {"layers": "evry-2"}, "layers 'evry-2': give all, every-2"),
    ("distill", {"layers": "0,99"}, "give indices from 0 to 4"),
    ("distill", {"config": {"hidden_size": 64}}, "set layers to all"),
    (
        "distill",
        {"layers": "all", "config": {"hiden_size": 64}},
        "config.hiden_size: unknown key: did you mean 'hidden_size'",
    ),
    ("distill", {"layers": "all", "config": {"vocab_size": 64}}, "must keep the vocabulary"),
    ("distill", {"method": "sequence", "hidden_weight": 1.0}, "hidden_weight 1.0 with method sequence"),
    ("distill", {"cached_draws": 4, "method": "reverse-kl"}, "draws estimate the forward KL only"),
    ("tune", {"brackets": 9}, "brackets 9 with 4 rungs"),
    ("tune", {"space": {"learning_rte": {"kind": "float", "min": 1e-5, "max": 1e-3}}}, "did you mean"),
    ("tune_katib", {"algorithm": "hyperband"}, "give asha"),
    ("tune_katib", {"pool": "nope"}, "'nope'"),
    ("tune_katib", {"trial_image": ""}, "trial_image ''"),
    ("tune_katib", {"namespace": "My NS"}, "namespace 'My NS'"),
    ("tune_katib", {"db_manager": "nohost"}, "db_manager 'nohost'"),
    ("retrain", {"metric": "exact_match"}, "metric exact_match is not measured"),
    ("retrain", {"period": 0}, "period"),
    ("retrain", {"window": "last week"}, "window 'last week'"),
    ("retrain", {"service": "My Service"}, "service 'My Service'"),
    ("retrain", {"retraining_usd": 0}, "retraining_usd is 0 and ledger_uri is empty"),
    ("finetune", {"measures": ["general", "general:a.txt"]}, "one general text"),
    ("finetune", {"embedder_uri": "hf://a/b"}, "nothing is compared by it"),
    ("finetune", {"seed": 2**32}, "seed"),
    ("finetune", {"engine": "spark"}, "engine: expected one of"),
    ("retrain", {"engine": "ray", "ray": {"pool": "nope"}}, "ray.pool 'nope' is not among nodepools"),
    ("compress", {"engine": "ray", "ray": {"pool": "nope"}}, "ray.pool 'nope' is not among nodepools"),
    ("tune", {"ray": {"wrokers": 2}}, "did you mean 'workers'"),
    ("distill", {"ray": {"workers": 0}}, "ray.workers"),
    ("finetune", {"data_uri": ""}, "data_uri is empty"),
]


@pytest.mark.parametrize(("name", "changed", "reason"), OF_ONE_PIPELINE)
def test_a_value_of_one_pipeline_is_refused_before_anything_runs(name, changed, reason):
    known = dict.fromkeys(("base_uri", "teacher_uri", "student_uri", "service_uri"), BASE)
    pipeline = packages.read(name)
    given = {k: v for k, v in known.items() if k in pipeline.root.input_definitions.parameters} | changed
    with pytest.raises(ValueError) as caught:
        settings.partial(pipeline, given | {"nodepools": pools.prices()})
    assert reason in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_model_is_a_folder_with_a_config_and_a_store_is_a_folder(finetune, given, tmp_path):
    file = (tmp_path / "data.jsonl").as_uri()
    for changed in ({"base_uri": file}, {"base_uri": tmp_path.as_uri()}, {"store_uri": file}):
        with pytest.raises(ValueError, match="give a (Hugging Face model )?folder"):
            settings.complete(finetune, given | changed, {})


@pytest.mark.parametrize(
    "field",
    [
        "99 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 7",
        "*/0 * * * *",
        "5-2 * * * *",
        "a * * * *",
    ],
)
def test_a_schedule_that_never_comes_is_refused(field):
    with pytest.raises(ValueError, match="--cron .* is not a "):
        cron.six_fields(field)
    with pytest.raises(ValueError, match="--cron .* is not a "):
        cron.check(field)


def test_schedules_as_people_write_them_are_taken():
    for given in ("0 3 * * *", "*/15 0-6,22 1 JAN-mar mon", "0 0 1/2 ? *"):
        cron.check(given)
        assert cron.six_fields(given) == f"0 {given}"
    assert cron.six_fields("30 0 3 * * *") == "30 0 3 * * *"


def test_a_report_is_json_or_a_page(monkeypatch, tmp_path, capsys):
    assert ended(monkeypatch, "report", str(tmp_path), "--json", "--html", "x.html") == 2
    assert "--html with --json" in capsys.readouterr().err
