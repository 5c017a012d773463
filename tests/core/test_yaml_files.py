"""One meaning of a scalar, whichever file it is in."""

import math
from pathlib import Path

import pytest
import yaml

from deepcuts.components.core import nodepools, recipe, yaml_files
from deepcuts.pipelines.run_file import settings
from deepcuts.pipelines.studies import study_spec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1:30", "1:30"),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("1e-5", 1e-5),
        ("5.", 5.0),
        ("1_000_000", 1_000_000),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("2026-11-23", "2026-11-23"),
        ("~", None),
        ("-7", -7),
    ],
)
def test_a_scalar_means_what_yaml_1_2_says(text: str, value: object) -> None:
    read = yaml_files.parse(f"a: {text}")
    assert read == {"a": value} and type(read["a"]) is type(value)


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "x:\n  a: 1\n  a: 2\n", '{"a": 1, "a": 2}'])
def test_a_key_given_twice_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"(?s)run.yaml.*'a' is given twice"):
        yaml_files.load(tmp_path / "run.yaml")


@pytest.mark.parametrize("keys", [("1", "01"), ("0x1F", "31"), ("~", "null"), ('"a"', "a"), ("1", "1.0")])
def test_a_key_written_in_two_ways_is_given_twice(keys: tuple[str, str]) -> None:
    with pytest.raises(yaml.YAMLError, match="is given twice"):
        yaml_files.parse("".join(f"{key}: x\n" for key in keys))


def test_an_error_names_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("a: 1\nb: [1, 2\nc: 3\n")
    with pytest.raises(ValueError, match=r"(?s)run.yaml.*line 3, column 2"):
        yaml_files.load(tmp_path / "run.yaml")


def test_a_merge_key_still_merges() -> None:
    text = "base: &base {a: 1, b: 2}\nmine:\n  <<: *base\n  b: 3\n"
    assert yaml_files.parse(text)["mine"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    "text", ['!!bool "x"', '!!int ""', "!!timestamp x", '!!float ""', "? !!set {a}\n: 1"]
)
def test_a_value_that_its_tag_is_not_for_is_an_error_of_the_file(tmp_path: Path, text: str) -> None:
    """PyYAML raises KeyError, IndexError, AttributeError, TypeError: once a bug of ours."""
    (tmp_path / "run.yaml").write_text(f"a: 1\n{text}\n" if text.startswith("?") else f"a: {text}\n")
    with pytest.raises(ValueError, match="run.yaml is neither JSON nor YAML"):
        yaml_files.load(tmp_path / "run.yaml")


RECIPE = "recipe.yaml", "{}", lambda path: recipe.read(path)
RUN = "run.yaml", "recipe:\n  {}", lambda path: recipe.parse(settings.read(path)["recipe"])
STUDY = "study.yaml", "{}", lambda path: study_spec.read(path)
POOLS = "pools.yaml", "pools:\n- {}", lambda path: nodepools.read(path)["a"]
ARMS = "name: a\nquestion: b\nset: {}\nseeds: [0]\narms: [{name: a, why: b}, {name: c, why: d}]\n"
POOL = "name: a\n  selector: {pool: a}\n  cpu_cores: 1\n  memory_bytes: 1\n  "
POOL += "price_source: x\n  price_date: 2026-11-30\n  "
KINDS = {
    "recipe": (*RECIPE, "", "budget_tokens"),
    "run": (*RUN, "", "budget_tokens"),
    "study": (*STUDY, ARMS, "budgets"),
    "node pools": (*POOLS, POOL, "usd_per_hour"),
}
"""File, the text around a key, its reader, what else the file needs, and a key that takes a number."""


def holding(kind: str, folder: Path, line: str) -> object:
    """What the reader makes of a file of ``kind`` that holds ``line``."""
    name, form, read, more, _ = KINDS[kind]
    path = folder / name
    path.write_text(form.replace("{}", more + line, 1) if kind != "study" else f"{more}{line}")
    return read(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("text", "value"), [("010", 10), ("0x1F", 31), ("1_000", 1000)])
def test_a_number_is_the_same_in_every_kind_of_file(tmp_path, kind, text, value):
    key = KINDS[kind][-1]
    found = getattr(holding(kind, tmp_path, f"{key}: {f'[{text}]' if kind == 'study' else text}"), key)
    assert found == ((value,) if kind == "study" else value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["1:30", "yes", ".inf", ".nan"])
def test_what_is_no_finite_number_is_one_in_no_kind_of_file(tmp_path, kind, text):
    """YAML 1.1 reads 1:30 as 90; no figure of a setting may be infinite."""
    key = KINDS[kind][-1]
    with pytest.raises(ValueError, match=key):
        holding(kind, tmp_path, f"{key}: {f'[{text}]' if kind == 'study' else text}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_given_twice_is_an_error_in_every_kind_of_file(tmp_path, kind):
    key, indent = KINDS[kind][-1], "" if kind in ("recipe", "study") else "  "
    with pytest.raises(ValueError, match=f"'{key}' is given twice"):
        holding(kind, tmp_path, f"{key}: 1\n{indent}{key}: 1\n")
