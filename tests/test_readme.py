"""Every command, target, file and step that README and docs name exists."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepcuts.pipelines.command.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
CODE = "\n".join(re.findall(r"^    .*$|`[^`\n]+`", TEXT, re.MULTILINE))
"""Indented blocks and inline code: what a reader types."""


@pytest.mark.parametrize("command", sorted(set(re.findall(r"(?<![\w/])deepcuts ([a-z]\w*)", CODE))))
def test_a_deepcuts_command_of_the_docs_exists(command: str) -> None:
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([\w-]+)", CODE))))
def test_a_make_target_of_the_docs_exists(target: str) -> None:
    assert re.search(
        rf"^[\w\s-]*\b{target}:|^[\w\s-]* {target} ", (ROOT / "Makefile").read_text(), re.MULTILINE
    )


def test_a_folder_or_module_of_the_docs_exists() -> None:
    named = set(re.findall(r"\b(?:components|pipelines|manifests|tests|images)/[\w/.-]*\w", TEXT))
    templates = {"components/NAME", "components/NAME/step.py", "tests/components/test_NAME.py"}
    assert named and [name for name in sorted(named - templates) if not (ROOT / name).exists()] == []


def test_a_module_that_the_docs_run_exists() -> None:
    modules = set(re.findall(r"python -m ((?:components|pipelines|tests)[\w.]*\w)", TEXT))
    assert (
        modules
        and [
            name
            for name in sorted(modules)
            if "NAME" not in name and not (ROOT / f"{name.replace('.', '/')}.py").exists()
        ]
        == []
    )


def test_every_step_is_in_the_tree_of_the_design() -> None:
    steps = sorted(path.parent.name for path in ROOT.glob("components/*/step.py"))
    design = (ROOT / "docs" / "DESIGN.md").read_text()
    assert [name for name in steps if f"`{name}`" not in design] == []


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) < 9_000
