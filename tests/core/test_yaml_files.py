"""One meaning of a scalar, whichever file it is in."""

import math
from pathlib import Path

import pytest

from deepcuts.components.core import yaml_files


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
