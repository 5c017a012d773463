"""The wheel: one top-level name, no clash with a user's packages, and a command that needs no extra."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from deepcuts.pipelines.command import packages
from tests.conftest import ROOT

FOLDERS = ("components", "pipelines", "manifests", "deepcuts")
BASE_ONLY = '''
"""Run the command where nothing is installed but what the wheel asks for without an extra."""
import importlib.metadata as metadata, sys
from importlib.machinery import PathFinder
from packaging.requirements import Requirement

base, todo = set(), [Requirement("deepcuts")]
while todo:
    one = todo.pop()
    name = one.name.lower().replace("_", "-")
    if (name, str(one.extras)) in base:
        continue
    base.add((name, str(one.extras)))
    try:
        asked = metadata.requires(name) or []
    except metadata.PackageNotFoundError:  # of another platform
        continue
    for line in map(Requirement, asked):
        if not line.marker or any(line.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
            todo.append(line)
names = {name for name, _ in base}
owners = metadata.packages_distributions().items()
absent = {top for top, by in owners if not {one.lower().replace("_", "-") for one in by} & names}

class Installed:
    find_distributions = PathFinder.find_distributions

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name in absent else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
assert {"torch", "transformers", "pyarrow"} <= absent
if sys.argv[1:2] == ["-m"]:
    import runpy
    module, sys.argv = sys.argv[2], ["-m", *sys.argv[3:]]  # what python -m has while it imports packages
    runpy.run_module(module, run_name="__main__", alter_sys=True)
else:
    from deepcuts.pipelines.command.cli import main
    main()
'''
STEPS = sorted(f"deepcuts.components.{path.parent.name}.step" for path in ROOT.glob("components/*/step.py"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy, as a build leaves folders next to its sources."""
    copy = tmp_path_factory.mktemp("source")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, copy / name)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed in."""
    folder = tmp_path_factory.mktemp("site")
    words = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target", folder, wheel]
    subprocess.run([sys.executable, "-m", "pip", *map(str, words)], check=True)
    return folder


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A user's folder, with packages called as our folders are, and a clone of ours."""
    for name in ("components", "pipelines", "manifests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    (tmp_path / "deepcuts" / "docs").mkdir(parents=True)
    return tmp_path


def ran(site: Path, folder: Path, *words: str, code: int = 0) -> str:
    """Run Python in ``folder``, which it finds packages in first; returns what it printed."""
    environment = os.environ | {"PYTHONPATH": str(site), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_the_wheel_installs_one_name_with_all_that_lies_beside_the_code(wheel):
    names = ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"deepcuts"}
    links = [path for path in (ROOT / "deepcuts").iterdir() if path.is_symlink()]
    tracked = subprocess.run(
        ["git", "ls-files", *(path.name for path in links)], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    data = {f"deepcuts/{name}" for name in tracked if not name.endswith((".py", ".pyi", ".proto", ".md"))}
    assert len(links) == 3 and data <= set(names)


def test_a_users_own_packages_of_the_same_names_do_not_clash(site, beside):
    code = (
        "import components, pipelines, manifests, deepcuts.components.core, deepcuts.pipelines.finetune\n"
        "assert components.MINE and pipelines.MINE and manifests.MINE\n"
        "print(deepcuts.__file__)"
    )
    assert ran(site, beside, "-c", code).startswith(str(site))
    cli = ("-m", "deepcuts.pipelines.command.cli")
    assert "compile" in ran(site, beside, *cli, "--help")
    ran(site, beside, *cli, "compile", "finetune", "-o", "finetune.yaml")
    assert "- deepcuts.components.finetune.step\n" in (beside / "finetune.yaml").read_text()
    ran(site, beside, "-m", "deepcuts.components.accept.step", "--help")


def test_the_command_needs_no_extra_and_names_the_one_that_is_missing(site, beside):
    def base_only(*words: str, code: int = 0) -> str:
        return ran(site, beside, "-c", BASE_ONLY, *words, code=code)

    assert "finetune" in base_only("compile", "finetune")
    assert "submit" in base_only("--help")
    assert "cpu cores" in base_only("doctor").lower()
    example = str(ROOT / "pipelines" / "examples" / "support.yaml")
    assert 'torch is not installed: pip install "deepcuts[train]"' in base_only(
        "plan", "finetune", "-f", example, code=2
    )


def test_a_step_without_its_extra_names_it_and_is_no_traceback(site, beside):
    """As ``python -m`` on the built wheel with its base: most steps import what only an extra brings."""
    named = {}
    for step in STEPS:
        words = [sys.executable, "-c", BASE_ONLY, "-m", step, "--help"]
        done = subprocess.run(
            words, cwd=beside, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True
        )
        assert "Traceback" not in done.stderr and done.returncode in (0, 2), (step, done.stderr)
        if done.returncode == 2:
            named[step.split(".")[2]] = done.stderr.rpartition("pip install ")[2].strip()
    assert named.keys() >= {"finetune", "quantize", "evaluate", "select", "ingest", "distill"}
    assert (
        named["finetune"] == named["quantize"] == '"deepcuts[train]"'
        and named["ingest"] == '"deepcuts[data]"'
    )
    assert "accept" not in named


def test_importing_a_pipeline_reads_no_node_pools(tmp_path):
    environment = os.environ | {"DEEPCUTS_NODEPOOLS": str(tmp_path / "none.yaml")}
    code = "import " + ", ".join(f"deepcuts.pipelines.{name}" for name in packages.names())
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
