"""``make catalogue``: folders that keep the rules of kubeflow/pipelines-components, restated here.

Read there at commit fab64a9 of 2026-07-23; each test names the file that a rule comes from.
"""

import ast
import datetime
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import docstring_parser
import pytest
import yaml

from deepcuts.components.core import clock
from deepcuts.pipelines.kubeflow import catalogue
from deepcuts.pipelines.kubeflow.catalogue import CATEGORIES
from tests.conftest import ROOT

TODAY = clock.now().date()
IMAGES = "ghcr.io/kubeflow/deepcuts"
NAMES = [(category, name) for category, names in CATEGORIES.items() for name in names]
each = pytest.mark.parametrize(("category", "name"), NAMES)
ALONE = """
import importlib.util, json, pathlib, sys
sys.modules["deepcuts"] = None  # nobody has it there
import yaml
from kfp import compiler
found = {}
for path in pathlib.Path(sys.argv[1]).glob("components/*/*/component.py"):
    spec = importlib.util.spec_from_file_location(path.parent.name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    package = f"{sys.argv[2]}/{path.parent.name}.yaml"
    compiler.Compiler().compile(getattr(module, path.parent.name), package)
    found[path.parent.name] = next(yaml.safe_load_all(open(package)))
print(json.dumps(found))
"""


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


def make(folder: Path, owners: str, verified: str, registry: str) -> subprocess.CompletedProcess[str]:
    words = ("--owners", owners, "--verified", verified, "--to", folder)
    return run("-m", catalogue.__name__, *words, DEEPCUTS_REGISTRY=registry, DEEPCUTS_TAG="v1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue") / "made"
    done = make(folder, "first-handle,second", str(TODAY), IMAGES)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(folder / "components" / category / name) for category, name in NAMES]
    return folder


@pytest.fixture(scope="module")
def compiled(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The pipeline that each folder compiles to where there is no deepcuts."""
    done = run("-c", ALONE, made, tmp_path_factory.mktemp("compiled"))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def source(made: Path, category: str, name: str, file: str) -> str:
    return (made / "components" / category / name / file).read_text()


def test_every_component_that_the_page_of_cuts_names_is_in_it():
    page = (ROOT / "docs/cuts/index.md").read_text()
    named = set(re.findall(r"`(\w+)`", page))
    known = {name.removesuffix("_model") for _, name in NAMES}
    assert {name for name in named if (ROOT / "components" / name / "component.py").exists()} <= known


@each
def test_a_folder_has_the_required_files_and_a_snake_case_name(made, category, name):
    """CONTRIBUTING.md in their docs: the four categories, Required Files, Naming Conventions."""
    assert category in {"data_processing", "training", "evaluation", "deployment"}
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)
    folder = made / "components" / category / name
    required = {"__init__.py", "component.py", "metadata.yaml", "README.md", "OWNERS", "tests"}
    assert {path.name for path in folder.iterdir()} == required
    assert ast.literal_eval(source(made, category, name, "__init__.py").partition("__all__ = ")[2]) == [name]


@each
def test_metadata_has_its_keys_in_their_order_and_a_recent_verification(made, category, name):
    """scripts/validate_metadata/validate_metadata.py."""
    text = yaml.safe_load(source(made, category, name, "metadata.yaml"))
    required = [key for key in text if key not in {"tags", "ci", "links"}]
    assert required == ["name", "stability", "dependencies", "lastVerified"]
    assert text["name"] == name and text["stability"] in {"experimental", "alpha", "beta", "stable"}
    assert text["dependencies"].keys() <= {"kubeflow", "external_services"}
    needed = text["dependencies"]["kubeflow"]
    assert "Pipelines" in [one["name"] for one in needed]
    assert all(re.fullmatch(r"([<>=]=)?\d+\.\d+\.\d+", one["version"]) for one in needed)
    verified = text["lastVerified"]
    assert isinstance(verified, datetime.datetime) and verified.tzinfo  # not a date alone
    assert abs((TODAY - verified.date()).days) < 365
    assert all(isinstance(tag, str) for tag in text["tags"])


@each
def test_an_approver_stands_in_the_line_after_the_heading(made, category, name):
    """scripts/validate_metadata/validate_metadata.py reads OWNERS line by line; Prow reads it as YAML."""
    text = source(made, category, name, "OWNERS")
    assert text.splitlines()[0] == "approvers:" and text.splitlines()[1].strip() == "- first-handle"
    assert yaml.safe_load(text) == {"approvers": ["first-handle", "second"]}


@each
def test_modules_import_only_the_standard_library_and_kfp(made, category, name):
    """.github/scripts/check_imports/check_imports.py and its import_exceptions.yaml."""
    for path in (made / "components" / category / name).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules = [node.module]
            roots = {module.partition(".")[0] for module in modules}
            assert roots <= sys.stdlib_module_names | {"kfp", "pytest"}, path


@each
def test_it_compiles_alone_to_what_our_component_compiles_to(compiled, category, name):
    """scripts/compile_check/compile_check.py: each module with metadata is loaded and compiled.

    The image matches scripts/validate_base_images/base_image_allowlist.yaml.
    """
    (executor,) = compiled[name]["deploymentSpec"]["executors"].values()
    container = executor["container"]
    assert re.match(r"ghcr\.io/kubeflow/", container["image"])
    (entry,) = [entry for entry in catalogue.entries() if entry.name == name]
    ours = entry.container
    name_of = re.compile(r"/(\w+):")
    assert name_of.findall(container["image"]) == name_of.findall(ours.image)
    # another image that a step names is of the same registry and tag
    images = (ours.image, container["image"])
    (here, old), (there, new) = (re.split(r"\w+:", image, maxsplit=1) for image in images)
    args = [re.sub(rf"^{re.escape(here)}(\w+):{old}$", rf"{there}\1:{new}", str(word)) for word in ours.args]
    assert container["command"] == [*ours.command] and container["args"] == args
    (component,) = compiled[name]["components"].values()
    spec = entry.face.component_spec
    sides = {"inputDefinitions": spec.inputs or {}, "outputDefinitions": spec.outputs or {}}
    for side, declared in sides.items():
        kinds = {
            key: one.get("parameterType") or f"{one['artifactType']['schemaTitle']}@0.0.1"
            for group in component[side].values()
            for key, one in group.items()
        }
        assert kinds.keys() == declared.keys()
        artifacts = {key: each.type for key, each in declared.items() if each.type.startswith("system.")}
        assert artifacts == {key: kind for key, kind in kinds.items() if kind.startswith("system.")}


@each
def test_their_generator_of_readmes_finds_the_function_and_every_argument(made, category, name):
    """scripts/generate_readme/metadata_parser.py: a decorator called component, and Google's Args."""
    tree = ast.parse(source(made, category, name, "component.py"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    (function,) = functions
    assert [ast.unparse(decorator) for decorator in function.decorator_list] == ["component"]
    read = docstring_parser.parse(ast.get_docstring(function) or "")
    assert read.short_description
    assert [one.arg_name for one in read.params] == [one.arg for one in function.args.args]
    assert all(one.description for one in read.params)
    page = source(made, category, name, "README.md")
    assert all(f"| `{one.arg}` | `{ast.unparse(one.annotation)}` |" in page for one in function.args.args)


def test_source_passes_their_linter(made):
    """pyproject.toml: ruff with 120 columns, pycodestyle, pyflakes, isort and Google's docstrings."""
    common = ("--isolated", "--no-cache", "--line-length", "120", "--target-version", "py311", made)
    rules = ("--select", "E,W,F,I,D", "--ignore", "D100,D104,D415")
    style = ("--config", 'lint.pydocstyle.convention = "google"')
    checked = run("-m", "ruff", "check", *rules, *style, *common)
    assert checked.returncode == 0, checked.stdout
    formatted = run("-m", "ruff", "format", "--check", *common)
    assert formatted.returncode == 0, formatted.stdout


def test_the_tests_of_the_folders_pass_there(made):
    """scripts/tests/run_component_tests.py: pytest over each folder's tests."""
    code = "import sys; sys.modules['deepcuts'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    words = ("-q", "-p", "no:cacheprovider", "--import-mode=importlib", f"--rootdir={made}", "-c", os.devnull)
    done = run("-c", code, *words, made)
    assert done.returncode == 0, done.stdout
    assert f"{2 * len(NAMES)} passed" in done.stdout


def test_nothing_is_written_without_people_a_day_and_images_that_others_reach(tmp_path):
    done = make(tmp_path / "made", "", "", "localhost/deepcuts")
    assert done.returncode == 2 and not (tmp_path / "made").exists()
    lines = done.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["OWNERS", "VERIFIED", "REGISTRY"]
    assert "at least one approver" in lines[0] and "VERIFIED=YYYY-MM-DD" in lines[1]


@pytest.mark.parametrize("days", [-1, 365])
def test_a_day_to_come_or_a_year_ago_is_no_verification(days):
    day = str(TODAY - datetime.timedelta(days=days))
    with pytest.raises(ValueError, match=f"VERIFIED: {day} is {days} days ago"):
        catalogue.check(["handle"], day, IMAGES, TODAY)
    catalogue.check(["handle"], str(TODAY - datetime.timedelta(days=364)), IMAGES, TODAY)


@pytest.mark.parametrize("owner", ["first last", "@handle", "-handle", "a_b", ""])
def test_an_owner_that_is_no_handle_is_refused(owner):
    with pytest.raises(ValueError, match="is no GitHub handle"):
        catalogue.check([owner], str(TODAY), IMAGES, TODAY)
