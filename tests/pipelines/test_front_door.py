"""The first minutes of a newcomer: init, help, JSON, hints, names of the hub."""

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.core import nodepools, strict
from deepcuts.components.core.other_names import MEANINGS, OTHER_NAMES
from deepcuts.components.core.recipe import Recipe
from deepcuts.pipelines.command import cli, gpus, packages
from deepcuts.pipelines.command.shell import EXAMPLES
from deepcuts.pipelines.run_file import hints, parameters, places, settings
from tests.components.hub import COMMIT, Hub
from tests.pipelines.test_cli import deepcuts, errors, only_run, package  # noqa: F401

BASE, DATA = packages.HERE / "examples" / "base", packages.HERE / "examples" / "support.jsonl"


def test_version_and_short_help(capsys):
    assert deepcuts("--version") == 0
    assert re.fullmatch(r"deepcuts \d+\.\d+\.\d+\n", capsys.readouterr().out)
    assert deepcuts("-h") == 0 and deepcuts("run", "-h") == 0
    assert "--install-completion" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "submit"])
@pytest.mark.parametrize(
    "name", ["../../x", "/tmp/x", "cache", "store", ".x", "a\x1b[2J", "d\udcff", "x" * 201]
)
def test_name_that_would_leave_the_runs_or_hit_their_cache_is_refused(command, name, tmp_path, capsys):
    assert deepcuts(command, "finetune", "--runs", str(tmp_path / "a/b"), "--name", name) == 2
    told = errors(capsys)
    assert "--name" in told[0] and not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_every_command_ends_with_examples_that_parse(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert deepcuts(name, "--help") == 0
    printed = capsys.readouterr().out
    for line in EXAMPLES[name]:
        assert f"deepcuts {line}" in printed
        options = re.findall(r"(?<=\s)--?[a-z][a-z-]*", re.sub(r'".*?"', "", line))
        assert all(option in printed for option in options), line


def test_help_of_a_pipeline_is_grouped_with_choices_and_defaults(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert deepcuts("run", "finetune", "--help") == 0
    printed = capsys.readouterr().out
    places_of = [printed.index(f"\n{group}\n") for group in parameters.IN_ORDER]
    assert places_of == sorted(places_of)
    assert (
        "select_method  coverage or deduplicate-only or loss or random or target; default random" in printed
    )
    assert "recipe.seq_len  integer ≥ 8; default 512" in printed
    assert "base_uri  text; required" in printed


def test_every_key_of_the_groups_is_of_a_pipeline_or_the_recipe():
    known = {one.name.rpartition(".")[2] for name in packages.names() for one in of(name)}
    assert {key for keys in parameters.GROUPS.values() for key in keys.split()} <= known
    assert not set(OTHER_NAMES) & known, "a name that is taken here needs no hint"


def of(name: str) -> list[parameters.Setting]:
    return list(parameters.parameters(packages.read(name)))


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_init_writes_files_that_the_commands_take(in_folder, capsys):
    assert deepcuts("init", "--task", "label", "--gpu", "h100", "--usd-per-hour", "3.5") == 0
    printed = capsys.readouterr().out
    assert "deepcuts run finetune -f run.yaml" in printed
    pools = nodepools.read(in_folder / "nodepools.yaml")
    assert pools["gpu"].accelerator_model == "H100" and pools["gpu"].usd_per_hour == 3.5
    assert pools["gpu"].price_source == "user" and pools["cpu"].usd_per_hour is None, "not invented"
    given = settings.read(in_folder / "run.yaml")
    assert settings.complete(packages.read("finetune"), given, {"store_uri": "file:///x"})
    assert given["measures"] == ["completion_loss", "exact_match", "label_accuracy"]
    assert deepcuts("plan", "finetune", "-f", "run.yaml", "--json") == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["chosen"]["pool"] in pools and planned["rejected"]
    assert deepcuts("init") == 2, "nothing is written over"
    assert "--force" in errors(capsys)[0]


def test_init_for_kubeflow_says_which_pools_to_compile_for(in_folder, capsys):
    assert deepcuts("init", "--where", "kubeflow", "--in", "new", "--base", str(BASE)) == 0
    printed = capsys.readouterr().out
    assert f"export DEEPCUTS_NODEPOOLS={in_folder / 'new' / 'nodepools.yaml'}" in printed
    assert "deepcuts submit finetune -f new/run.yaml" in printed


def test_init_names_what_is_not_there_and_the_nearest_gpu(in_folder, capsys):
    assert deepcuts("init", "--base", "no/such/model") == 3
    assert deepcuts("init", "--gpu", "H10") == 2
    assert "did you mean 'H100'?" in capsys.readouterr().err
    assert not list(in_folder.iterdir())


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("NVIDIA A100-SXM4-80GB, 81920", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB, 40960", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3, 81559", "H100"),
        ("NVIDIA L4, 23034", "L4"),
        ("Tesla T4, 15360", "T4"),
        ("NVIDIA GeForce RTX 4090, 24564", "RTX-4090"),
        ("NVIDIA RTX A6000, 49140", "RTX-A6000"),
        ("NVIDIA RTX 6000 Ada Generation, 49140", ""),
        ("NVIDIA H100 PCIe, 81559", "H100-PCIe"),
        ("NVIDIA L40S, 46068", "L40S"),
        ("NVIDIA B200, 183359", "B200"),
        ("NVIDIA GeForce GTX 1080 Ti, 11264", ""),
        ("", ""),
    ],
)
def test_gpu_of_this_machine_is_found_in_the_table(line, name):
    assert gpus.in_table(line) == name


@pytest.mark.parametrize("name", packages.names())
def test_schema_takes_the_defaults_of_every_pipeline_and_no_other_key(name):
    jsonschema = pytest.importorskip("jsonschema")
    schema = parameters.schema(packages.read(name))
    judge = jsonschema.Draft202012Validator(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    good = {one.name: one.default for one in of(name) if not one.required and "." not in one.name}
    values = {"string": "here", "integer": 2, "number": 0.5, "array": [], "object": {}}
    good |= {key: values[schema["properties"][key].get("type", "string")] for key in schema["required"]}
    good["nodepools"] = "nodepools.yaml"
    good["recipe"] = {}
    assert [error.message for error in judge.iter_errors(good)] == []
    assert not judge.is_valid(good | {"learning_rate": 1e-4})
    assert not judge.is_valid(good | {"recipe": {"learning_rat": 1}})
    assert not judge.is_valid(good | {"seed": "many"})


def test_schema_of_the_example(capsys):
    assert deepcuts("schema", "finetune") == 0
    schema = json.loads(capsys.readouterr().out)
    example = yaml.safe_load((packages.HERE / "examples" / "support.yaml").read_text())
    assert set(example) <= set(schema["properties"])
    assert schema["$defs"]["Recipe"]["properties"]["learning_rate"]["description"].startswith("Peak rate")


def test_keys_are_explained_recipe_first_then_other_tools_then_spelling(package, capsys):  # noqa: F811
    words = {
        "learning_rate": "1e-4",
        "epochs": "3",
        "num_train_epochs": "3",
        "lora_r": "8",
        "recipe.num_epochs": "2",
        "recipe.text": "x",
        "numbr": "1",
        "foo": "1",
    }
    sets = [word for name, value in words.items() for word in ("--set", f"{name}={value}")]
    assert deepcuts("run", "toy.yaml", *sets) == 2
    found = dict(line.split(": ", 1) for line in errors(capsys))
    assert found["learning_rate"].startswith("a key of recipe: ")
    assert "set recipe.epochs" in found["num_train_epochs"] and "margin" not in found["num_train_epochs"]
    assert found["lora_r"] == "unknown key: set recipe.lora_rank"
    assert "set recipe.epochs" in found["recipe.num_epochs"]
    assert found["epochs"].startswith("a key of recipe: ")
    assert found["recipe.text"].startswith("not a key of recipe: write text at the left margin")
    assert found["numbr"] == "unknown key: did you mean 'number'?"
    assert found["foo"] == "unknown key: deepcuts run toy --help lists all"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("n_epochs", "set recipe.epochs"),
        ("grad_accum", "recipe.tokens_per_step"),
        ("context_length", "recipe.seq_len"),
        ("lora", "recipe.method"),
        ("peak_lr", "recipe.learning_rate"),
        ("base_lr", "recipe.learning_rate"),
        ("train_on_inputs", "only answers are learned"),
        ("hf_token", "export HF_TOKEN"),
        ("gpus", "pool"),
        ("teacher_model", "deepcuts run distill"),
        ("budget", "budget_usd"),
        ("learning-rate", "a key of recipe: write recipe: {learning_rate: VALUE}"),
        ("learningRate", "a key of recipe: write recipe: {learning_rate: VALUE}"),
        ("loraRank", "a key of recipe: write recipe: {lora_rank: VALUE}"),
        ("numTrainEpochs", "set recipe.epochs"),
        ("Seed", "write seed"),
        ("learnig_rate", "did you mean 'learning_rate', a key of recipe?"),
        ("max_new_tokens", "--help lists all"),
        ("tokens_of_max", "--help lists all"),
    ],
)
def test_a_name_of_another_tool_or_spelling_is_understood_and_no_other_is_guessed(name, said):
    known = {one.name for one in of("finetune") if "." not in one.name}
    assert said in hints.unknown(name, known, "finetune")


def test_every_setting_that_a_hint_names_is_there():
    recipe = set(Recipe.__struct_fields__)
    keys = {key for name in packages.names() for key in (one.name for one in of(name))}
    for hint in MEANINGS:
        assert set(re.findall(r"recipe\.(\w+)", hint)) <= recipe, hint
        assert set(re.findall(r"set (?!recipe)([a-z]\w+)", hint)) <= keys, hint
    names = [name for found in MEANINGS.values() for name in found.split()]
    assert sorted(names) == sorted(set(names)), "a name that means two things"


@pytest.mark.parametrize(
    ("text", "number"), [("5M", 5_000_000), ("64k", 64_000), ("1.5M", 1_500_000), ("2B", 2 * 10**9)]
)
def test_large_numbers_as_people_write_them(text, number):
    assert strict.count(text) == number
    assert strict.decode(Recipe, {"budget_tokens": text}, "recipe").budget_tokens == number


def test_whole_numbers_may_be_written_as_1e6_and_others_may_not(in_folder):
    assert strict.decode(Recipe, {"budget_tokens": 1e6}, "recipe").budget_tokens == 10**6
    for wrong in (1.5, "5 MiB", "1.0001k", "M", "5T"):
        with pytest.raises(ValueError, match="recipe.budget_tokens"):
            strict.decode(Recipe, {"budget_tokens": wrong}, "recipe")
    with pytest.raises(ValueError, match="expected 'auto' or a number without quotes, got '1e-4'"):
        strict.decode(Recipe, {"learning_rate": "1e-4"}, "recipe")
    pipeline = packages.read("finetune")
    given = settings.override({}, [f"base_uri={BASE}", f"data_uri={DATA}", "max_tokens=0.5k", "seed=1e3"])
    kept = settings.complete(pipeline, given, {"store_uri": "file:///x"})
    assert (kept["max_tokens"], kept["seed"]) == (500, 1000)


@given(st.one_of(st.integers(), st.floats(allow_nan=False), st.text(), st.booleans()))
def test_counting_changes_no_value_but_whole_numbers(value):
    found = strict.count(value)
    assert found == value or (isinstance(value, str) and isinstance(found, int))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "bad.yaml is empty: give parameters"),
        ("# nothing\n", "bad.yaml is empty"),
        (
            "recipe:\n  a: 1\n   b: 2\n",
            "line 3, column 5: mapping values are not allowed here: a key is indented more",
        ),
        ("a: 1\n\tb: 2\n", "line 2, column 1"),
        ('a: "C:\\Users"\n', "in double quotes a backslash"),
        ("a: {b: 1\n", "bracket is left open"),
        ("a: 'b\n", "a quote or a bracket is left open"),
        ("recipe:\n    a: 1\n  b: 2\n", "line 3, column 3: expected <block end>"),
        ("a: %HOME%/x\n", "line 1, column 4: found character '%' that cannot start any token: put the value"),
        ("a: 1\nb: !!python/name:os.system x\n", "line 2, column 4: could not determine"),
        ("a: 1\n---\nb: 2\n", "a file has one document"),
        ("a: 1\nb: x\x00y\n", "line 2, column 5: a character that no text has, U+0000"),
        ("a: *.jsonl\n", "* begins an alias and & an anchor: put the value in quotes"),
    ],
)
def test_a_run_file_that_is_no_yaml_is_shown_with_its_line(package, capsys, text, said):  # noqa: F811
    Path("bad.yaml").write_text(text)
    assert deepcuts("run", "toy.yaml", "-f", "bad.yaml") == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "uri: missing" not in printed, "what a file lacks that cannot be read is not known"
    if "line" in said and "U+" not in said:
        number = int(re.search(r"line (\d+)", said)[1])
        assert text.splitlines()[number - 1].strip() in printed and "^" in printed


def test_a_run_file_in_another_encoding_is_named(package, capsys):  # noqa: F811
    Path("bad.yaml").write_text("text: ä", encoding="utf-16")
    assert deepcuts("run", "toy.yaml", "-f", "bad.yaml") == 2
    assert "save it as UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("gs://bucket/x", "gcloud storage cp -r gs://bucket/x FOLDER"),
        ("az://bucket/x", "azcopy copy"),
        ("https://host/x.jsonl", "curl -LO"),
        (r"C:\data\x.jsonl", "under WSL /mnt/c/"),
        ("$NO_SUCH_NAME/x.jsonl", "$NO_SUCH_NAME in"),
        ("gs:/bucket/x", "gcloud storage cp"),
        ("hdfs://name/x", "hdfs dfs -get hdfs://name/x FOLDER"),
        ("runs:/id/model", "mlflow artifacts download -u runs:/id/model"),
        ("r2://bucket/x", "give s3://bucket/x, with S3_ENDPOINT"),
        (r"\\server\share", "mount the share"),
        ("${DATA:-x}/y.jsonl", "is for a shell to expand"),
        ("$(pwd)/y.jsonl", "is for a shell to expand"),
        ("%USERPROFILE%/y.jsonl", "is for a shell to expand"),
        ("pvc://claim/x", "unknown scheme: give a path or"),
        ("hf://org/name", "data sets are hf://datasets/org/name"),
        ("hf://datasets/name", "give hf://datasets/org/name"),
    ],
)
def test_places_that_are_not_read_say_what_to_do(value, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        settings.partial(packages.read("finetune"), places.anchored({"data_uri": value}, Path.cwd()))


def test_home_is_understood(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = {"data_uri": (tmp_path / "x.jsonl").as_uri()}
    for text in ("$HOME/x.jsonl", "${HOME}/x.jsonl", "~/x.jsonl"):
        assert places.anchored({"data_uri": text}, Path("/elsewhere")) == expected


@pytest.mark.parametrize(
    ("name", "text", "hub"),
    [
        ("base_uri", "org/name", "hf://org/name"),
        ("data_uri", "org/name", "hf://datasets/org/name"),
        ("data_uri", "data/train.jsonl", ""),
        ("base_uri", "here/name", ""),
        ("base_uri", "./org/name", ""),
        ("base_uri", "org", ""),
        ("base_uri", "org/name@v1.0", "hf://org/name@v1.0"),
        ("base_uri", "https://huggingface.co/org/name", "hf://org/name"),
        ("base_uri", "https://huggingface.co/org/name/tree/main", "hf://org/name@main"),
        ("data_uri", "https://huggingface.co/datasets/org/name/", "hf://datasets/org/name"),
        ("base_uri", "hf:org/name", "hf://org/name"),
        ("base_uri", "S3://bucket/x", "s3://bucket/x"),
        ("base_uri", "s3a://bucket/x", "s3://bucket/x"),
        ("base_uri", "s3:/bucket/x", "s3://bucket/x"),
        ("base_uri", "file:/there/x", "file:///there/x"),
        ("base_uri", "~nobody-of-this-name/x", ""),
        ("data_uri", "a:b.jsonl", ""),
        ("store_uri", "org/name", ""),
    ],
)
def test_a_name_of_the_hub_is_told_from_a_path(tmp_path, name, text, hub):
    (tmp_path / "here").mkdir()
    found = places.place(name, text, tmp_path)
    assert found == (hub or (tmp_path / text).resolve().as_uri())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import huggingface_hub.constants

    def start(status: int = 200) -> Hub:
        served = Hub("models/org/name", BASE, status)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.endpoint)
        return served

    return start


def test_the_newest_commit_is_asked_for_once_and_kept(tmp_path, hub):
    said, record = [], tmp_path / "runs" / places.COMMITS
    with hub():
        first = places.pinned({"base_uri": "hf://org/name", "seed": 1}, record, said.append)
    assert first == {"base_uri": f"hf://org/name@{COMMIT}", "seed": 1}
    assert COMMIT in said[0] and str(record) in said[0]
    again = places.pinned({"base_uri": "hf://org/name"}, record, said.append)  # the hub has gone
    assert again["base_uri"] == first["base_uri"] and len(said) == 1
    assert places.pinned(first, None, said.append) == first, "a commit is asked for nowhere"


def test_a_repository_that_may_not_be_read_says_so_and_names_the_token(tmp_path, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub(401), pytest.raises(ValueError, match=r"HTTP 401, HF_TOKEN is not set\).*licence"):
        places.pinned({"base_uri": "hf://org/name"}, None, print)


def test_offline_says_offline(hub, monkeypatch):
    import huggingface_hub.constants

    from deepcuts.components.core.errors import StoreError

    with hub():
        pass
    with pytest.raises(StoreError, match="may be offline"):
        places.pinned({"base_uri": "hf://org/name"}, None, print)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StoreError, match=r"offline \(HF_HUB_OFFLINE is set\)"):
        places.pinned({"base_uri": "hf://org/name"}, None, print)


def test_json_of_report_and_doctor(package, capsys):  # noqa: F811
    assert deepcuts("run", "toy.yaml", "--set", "text=x", "-q") == 0
    assert "Make it" not in capsys.readouterr().out.split("┏")[0], "no progress where only results are wanted"
    assert deepcuts("report", only_run(), "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["status"] == "done" and found["tasks"]["make"]["status"] == "done"
    assert deepcuts("doctor", "--json") in (0, 2)
    assert {"subject", "state", "fix", "missing"} <= set(json.loads(capsys.readouterr().out)[0])


def test_verbose_shows_what_tasks_log_and_the_traceback(package, capsys):  # noqa: F811
    assert deepcuts("run", "toy.yaml", "--set", "text=x", "-v") == 0
    assert "wait | waiting 0.1 s" in capsys.readouterr().out
    assert deepcuts("report", "nowhere", "-v") == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("run", "finetun"),
        ("run", "no.yaml"),
        ("run", "finetune", "-f", "no.yaml"),
        ("run", "finetune", "--set", "base_uri=no", "--set", "data_uri=no"),
        ("preview", "finetune", "--set", "base_uri=no"),
        ("plan", "finetune", "--set", "base_uri=no"),
        ("report", "no"),
        ("chat", "no"),
        ("chat", "no/1"),
        ("export", "no", "--to", "x"),
        ("rollback", "no"),
        ("ablate", "no.yaml"),
    ],
)
def test_what_is_not_there_has_one_exit_code(in_folder, capsys, words):
    assert deepcuts(*words) == 3
    assert all(line.startswith("deepcuts: ") for line in capsys.readouterr().err.splitlines())
    assert not list(in_folder.iterdir())
