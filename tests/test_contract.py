"""The architecture as tests: what holds for every step and every component, those to come included."""

import ast
import graphlib
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl.base_component import BaseComponent

from deepcuts.components.core import executor_input
from deepcuts.components.core.executor_input import PARAMETER
from tests.conftest import ROOT

LIBRARIES = {"core", "gguf", "rayjob", "training", "trainjob", "joined"}
"""Folders under components/ that are no step."""
NAMES = sorted(p.name for p in (ROOT / "components").iterdir() if p.is_dir() and p.name[0] not in "_.")
STEPS = [name for name in NAMES if name not in LIBRARIES]
MAY_IMPORT = {
    "kfp",
    "kfp.dsl.base_component",
    "types",
    "typing",
    "deepcuts.components.core.container",
    "deepcuts.components.core.faces",
}
OF_EXIT_TASK = {"mlflow-skinny"}
"""What only the ledger at the end of a run needs, which alone knows of a tracking server."""
DISTRIBUTIONS = packages_distributions()
HEAVY = ("torch", "transformers", "peft", "accelerate")


def step_of(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(importlib.import_module(f"deepcuts.components.{name}.step"), name)
    return function


def faces_of(name: str) -> list[BaseComponent]:
    """The container components of a folder."""
    module = importlib.import_module(f"deepcuts.components.{name}.component")
    return [value for value in vars(module).values() if isinstance(value, BaseComponent)]


def container_of(face: BaseComponent) -> Any:
    return face.component_spec.implementation.container


def imports(path: Path) -> set[str]:
    """Modules that a file imports, wherever in it; ``from a import b`` counts as ``a`` and ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("name", STEPS)
def test_step_folder_is_complete(name):
    folder = ROOT / "components" / name
    assert (folder / "step.py").exists() and (folder / "component.py").exists()
    assert list((ROOT / "tests" / "components").glob(f"test_{name}*.py")), (
        f"no tests/components/test_{name}.py"
    )
    assert faces_of(name), f"{folder}/component.py has no container component"


@pytest.mark.parametrize("name", STEPS)
def test_component_passes_exactly_the_flags_its_step_takes(name):
    taken = {f"--{parameter.replace('_', '-')}" for parameter in inspect.signature(step_of(name)).parameters}
    for face in faces_of(name):
        container = container_of(face)
        assert container.command == ["python", "-m", f"deepcuts.components.{name}.step"]
        flags = container.args[::2]
        assert sorted(flags) == sorted(taken | {"--receipt", "--executor-input"}), face.name


def unused(face: BaseComponent) -> list[str]:
    """Inputs and outputs that no flag passes."""
    values = [word for _, word in executor_input.pairs(list(map(str, container_of(face).args)))]
    files = [value.removeprefix(PARAMETER) for value in values if value.startswith(PARAMETER)]
    begins = tuple(word[:-1] for value in files for word in value.split(",") if word.endswith("*"))
    names = [*(face.component_spec.inputs or {}), *(face.component_spec.outputs or {})]
    return [
        name
        for name in names
        if not (begins and name.startswith(begins))
        and f"{PARAMETER}{name}" not in values
        and not any(f"['{name}']" in value for value in values)
    ]


@pytest.mark.parametrize("name", STEPS)
def test_component_uses_every_parameter_it_takes(name):
    for face in faces_of(name):
        assert unused(face) == [], face.name


@pytest.mark.parametrize("name", STEPS)
def test_defaults_live_in_recipes_and_pipelines_only(name):
    step = inspect.signature(step_of(name)).parameters.values()
    assert [p.name for p in step if p.default is not p.empty] == []
    for face in faces_of(name):
        inputs = (face.component_spec.inputs or {}).items()
        assert [parameter for parameter, spec in inputs if spec.optional] == [], face.name


def test_packages_import_one_another_in_no_circle():
    """A package is a folder of Python files; its modules may import one another as they like."""
    sources = [path for top in ("components", "pipelines") for path in (ROOT / top).rglob("*.py")]
    package = {
        ".".join(("deepcuts", *path.relative_to(ROOT).with_suffix("").parts)): path for path in sources
    }
    arrows: dict[Path, set[Path]] = {path.parent: set() for path in sources}
    for path in sources:
        found = {package[name].parent for name in imports(path) if name in package}
        arrows[path.parent] |= found - {path.parent}
    order = graphlib.TopologicalSorter(arrows)
    order.prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("name", STEPS)
def test_component_imports_kfp_and_the_container_only(name):
    for module in imports(ROOT / "components" / name / "component.py"):
        assert module in MAY_IMPORT or module.rpartition(".")[0] in MAY_IMPORT


def joined() -> list[BaseComponent]:
    """The components of several steps in one task."""
    found = []
    for path in sorted((ROOT / "components" / "joined").glob("[!_]*.py")):
        module = importlib.import_module(f"deepcuts.components.joined.{path.stem}")
        found += [value for value in vars(module).values() if isinstance(value, BaseComponent)]
    return found


def parts_of(face: BaseComponent) -> dict[str, tuple[str, dict[str, Any]]]:
    """(module, values by flag) of each step of a joined component, by its name in the ledger."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for flag, value in executor_input.pairs(container_of(face).args):
        if flag == "--part":
            name, module = executor_input.named_step(value)
            found[name] = (module, {})
        elif found:
            found[name][1][flag] = value
    return found


@pytest.mark.parametrize("face", joined(), ids=lambda face: face.name)
def test_joined_component_passes_exactly_the_flags_of_its_steps_and_uses_what_it_takes(face):
    assert container_of(face).command == ["python", "-m", "deepcuts.components.core.chain"]
    assert unused(face) == []
    assert [name for name, spec in (face.component_spec.inputs or {}).items() if spec.optional] == []
    image = container_of(face).image.rpartition("/")[2].partition(":")[0]
    for name, (module, given) in parts_of(face).items():
        step = module.split(".")[2]
        taken = {f"--{p.replace('_', '-')}" for p in inspect.signature(step_of(step)).parameters}
        assert given.keys() == taken, name
        needed = foreign_packages(ROOT / "components" / step / "step.py")
        assert needed - declared(*extras_of(image)) <= (OF_EXIT_TASK if step == "ledger" else set()), name


def first_to_load(modules: list[str], banned: tuple[str, ...]) -> str:
    """The first of ``modules`` that brings one of ``banned`` into a fresh process; empty if none does."""
    code = (
        "import importlib, sys\n"
        "banned, *modules = sys.argv[1:]\n"
        "for name in modules:\n"
        "    importlib.import_module(name)\n"
        "    loaded = set(banned.split(',')) & set(sys.modules)\n"
        "    if loaded: sys.exit(print(f'{name} loads {sorted(loaded)}'))\n"
    )
    argv = [sys.executable, "-c", code, ",".join(banned), *modules]
    return subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def modules_in(*patterns: str) -> list[str]:
    paths = sorted(path for pattern in patterns for path in ROOT.glob(pattern) if path.name != "__init__.py")
    return [".".join(("deepcuts", *path.relative_to(ROOT).with_suffix("").parts)) for path in paths]


def test_components_and_pipelines_never_load_torch():
    ours = modules_in("components/*/component.py", "components/joined/*.py", "pipelines/**/*.py")
    scripts = "deepcuts.pipelines.examples."  # make the example's model and data; nothing imports them
    assert first_to_load([name for name in ours if not name.startswith(scripts)], HEAVY) == ""


def test_steps_and_what_they_share_never_load_kfp():
    ours = modules_in("components/*/*.py")
    faces = (".component", ".core.container")
    inside = [name for name in ours if not name.endswith(faces) and ".joined." not in name]
    assert first_to_load(inside, ("kfp",)) == ""
    asking = (".tune_katib.", ".trainjob.", ".rayjob.", ".retrain.start", ".core.api_server")
    elsewhere = [name for name in inside if not any(word in name for word in asking)]
    assert first_to_load(elsewhere, ("kubernetes",)) == ""


def foreign_packages(path: Path) -> set[str]:
    """Distributions that a file needs, by itself or through our own modules."""
    pending, seen, foreign = [path], {path}, set()
    while pending:
        for name in imports(pending.pop()):
            ours = ROOT / f"{name.replace('.', '/')}.py"
            if ours.exists() and ours not in seen:
                seen.add(ours)
                pending.append(ours)
            foreign.add(name.partition(".")[0])
    foreign -= {*sys.stdlib_module_names, "deepcuts"}
    return {normal(DISTRIBUTIONS[name][0]) for name in foreign}


def declared(*extras: str) -> set[str]:
    """Distributions that pyproject.toml gives a step, with these extras."""
    read = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, command_only = read["project"], read["tool"]["deepcuts"]["command-only"]
    base, *more = (
        {normal(re.split(r"[^\w.-]", line)[0]) for line in lines}
        for lines in (project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras))
    )
    assert set(command_only) <= base
    return (base - set(command_only)).union(*more)


def extras_of(image: str) -> list[str]:
    """The extras that an image installs."""
    text = (ROOT / "images" / image / "Dockerfile").read_text()
    (extras,) = re.findall(r"requirements.py ([\w ]+) > requirements.txt", text)
    assert isinstance(extras, str)
    return extras.split()


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize("name", STEPS)
def test_image_of_a_step_has_all_that_the_step_imports(name):
    images = {container_of(face).image.rpartition("/")[2].partition(":")[0] for face in faces_of(name)}
    for image in images:
        assert foreign_packages(ROOT / "components" / name / "step.py") - declared(*extras_of(image)) == set()


@pytest.mark.parametrize("module", sorted(path.stem for path in (ROOT / "components" / "core").glob("*.py")))
def test_core_needs_no_more_than_every_step_has(module):
    more = {"container": {"kfp"}, "api_server": {"kubernetes"}}.get(module, set())
    assert foreign_packages(ROOT / "components" / "core" / f"{module}.py") - declared() <= more


def test_a_step_starts_without_torchaos_warnings():
    pytest.importorskip("torchao", reason="no dependency: warns only where it is installed")
    words = [sys.executable, "-m", "deepcuts.components.quantize.step", "--help"]
    assert subprocess.run(words, cwd=ROOT, check=True, capture_output=True).stderr.count(b"_pytree") == 0


def test_no_module_is_called_utils():
    paths = [*ROOT.glob("components/**/*.py"), *ROOT.glob("pipelines/**/*.py")]
    assert [str(path) for path in paths if path.stem.endswith(("utils", "helpers", "misc"))] == []
