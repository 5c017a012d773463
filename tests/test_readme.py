"""What the README tells a reader to type or to look for exists."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.command.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"deepcuts (\w+) ", README))))
def test_a_deepcuts_command_of_the_readme_exists(command: str) -> None:
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^    make (\w+)", README, re.MULTILINE))))
def test_a_make_target_of_the_readme_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_a_folder_or_module_of_the_readme_exists() -> None:
    named = set(re.findall(r"(?:components|pipelines|manifests|tests)/[\w/.-]+", README))
    assert named and [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_step_stands_in_the_tree_of_the_readme() -> None:
    steps = sorted(path.parent.name for path in ROOT.glob("components/*/step.py"))
    assert [name for name in steps if f"{name}/" not in README] == []
