import json
import math
import time
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from deepcuts.components.core import nodepools, recipe, strict, yaml_files
from deepcuts.pipelines.command import packages
from deepcuts.pipelines.run_file import settings as run_files
from deepcuts.pipelines.runner import pipeline_spec


class Wheel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    radius: Annotated[float, Meta(gt=0)]
    kind: Literal["front", "rear"] = "front"


class Car(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    wheels: tuple[Wheel, ...] = ()
    spare: Wheel | None = None
    doors: dict[str, int] = {}
    size: tuple[int, str] = (1, "m")
    manual: Path | None = None
    notes: Any = None

    def __post_init__(self) -> None:
        if len(self.wheels) == 1:
            raise ValueError("one wheel is no car: give 0 or more than 1")


def problems(value: object, kind: Any = Car) -> list[str]:
    with pytest.raises(ValueError) as error:
        strict.decode(kind, value, "car")
    return str(error.value).splitlines()


def test_decode_gives_the_noun():
    value = {
        "name": "a",
        "wheels": [{"radius": 1}, {"radius": 2.5, "kind": "rear"}],
        "spare": {"radius": 1.0},
        "doors": {"left": 2},
        "size": [3, "l"],
    }
    assert strict.decode(Car, value, "car") == Car(
        "a", (Wheel(1.0), Wheel(2.5, "rear")), Wheel(1.0), {"left": 2}, (3, "l")
    )


def test_decode_reports_every_problem_at_once_with_its_path():
    value = {
        "nmae": "a",
        "wheels": [{"radius": -1}, {"radius": 1, "kind": "back"}, 7],
        "spare": {"radios": 1},
        "doors": {"left": 2, "right": "two"},
        "size": [3, 4],
    }
    assert problems(value) == [
        "car.nmae: unknown key: did you mean 'name'?",
        "car.name: missing: give it a value",
        "car.wheels[0].radius: expected a number > 0.0, got -1",
        "car.wheels[1].kind: expected one of 'front', 'rear', got 'back'",
        "car.wheels[2]: expected a mapping (name: value), got 7",
        "car.spare.radios: unknown key: did you mean 'radius'?",
        "car.spare.radius: missing: give it a value",
        "car.doors.right: expected a whole number, got 'two'",
        "car.size[1]: expected text, got [3, 4]",
    ]


def test_decode_unknown_key_without_a_near_one_lists_all():
    assert problems({"radius": 1, "zzz": 1}, Wheel) == ["car.zzz: unknown key: known keys: kind, radius"]


def test_decode_reports_contradictions_between_fields_with_the_path():
    assert problems({"name": "a", "wheels": [{"radius": 1}]}) == [
        "car: one wheel is no car: give 0 or more than 1"
    ]


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_decode_refuses_numbers_that_are_not_finite(number):
    assert problems(number, float) == [f"car: expected a finite number, got {number}"]
    assert problems([1.0, number], list[float]) == [f"car[1]: expected a finite number, got {number}"]


def test_decode_does_not_take_one_type_for_another():
    assert problems("0.5", float) == ["car: expected a number without quotes, got '0.5'"]
    assert problems(True, int) == ["car: expected a whole number, got True"]
    assert problems(1.0, str) == ["car: expected text, got 1.0"]


def test_decode_shortens_what_it_shows():
    (message,) = problems("x" * 10_000, int)
    assert len(message) < 130


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=2)
)
KEYS = st.sampled_from(
    [*msgspec.structs.asdict(recipe.Recipe()), *Car.__struct_fields__, "pools", "selector", "usd_per_hour"]
)
VALUES = st.recursive(
    SCALARS | st.just(10**400) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS | SCALARS, inner, max_size=6)
        | st.tuples(inner, inner)
    ),
    max_leaves=15,
)


@settings(max_examples=3000)
@example(value={"method": {"\x1e": None}, None: None})  # msgspec names the field, and \x1e ends a line
@given(value=VALUES)
def test_decode_on_any_value_raises_nothing_but_value_error(value):
    for kind in (Car, recipe.Recipe, nodepools.NodePools, list[Wheel], dict[str, Wheel], Wheel | None):
        try:
            strict.decode(kind, value, "x")
        except ValueError as error:
            assert all(line.startswith("x") for line in str(error).splitlines())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(value=JSON)
def test_load_reads_json_as_json_reads_it(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value))
    assert yaml_files.load(path) == value


def test_load_reads_yaml_without_the_traps_of_1_1(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "rate: 1e-5\nanswer: yes\nswitch: off\ndate: 2026-11-01\ncount: 1_000_000\ntime: 1:30\n"
        "none: ~\nempty:\ntruth: true\nhalf: .5\nnegative: -3\nlist: [1, 2.5, x]\nquoted: '1'\n"
    )
    assert yaml_files.load(path) == {
        "rate": 1e-5,
        "answer": "yes",
        "switch": "off",
        "date": "2026-11-01",
        "count": 1_000_000,
        "time": "1:30",
        "none": None,
        "empty": None,
        "truth": True,
        "half": 0.5,
        "negative": -3,
        "list": [1, 2.5, "x"],
        "quoted": "1",
    }
    assert yaml.safe_load("answer: yes") == {"answer": True}  # PyYAML itself is left as it was


@pytest.mark.parametrize(
    "text", ["a: [", "a: b: c", "\x00", "!!python/name:os.system", "[" * 5000, "? [1]\n: 2"]
)
def test_load_names_the_file_that_is_no_yaml(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match="a.yaml is neither JSON nor YAML"):
        yaml_files.load(tmp_path / "a.yaml")


def test_load_names_a_file_that_is_not_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="a.yaml is neither JSON nor YAML"):
        yaml_files.load(tmp_path / "a.yaml")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


MERGES = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


LONG = "a: &a " + "x" * 1_000_000 + "\nb: [" + ", ".join(["*a"] * 3_000) + "]\n"
"""3 MB, of which a message would have shown 3 GB."""


@pytest.mark.parametrize(
    "text", [LAUGHS, MERGES, LONG, "a: &a [*a]\n", "a: &a {b: *a}\n", "[" * 2000 + "]" * 2000, "{a: " * 2000]
)
def test_aliases_that_explode_and_endless_nesting_are_refused_quickly(tmp_path, text):
    (tmp_path / "f.yaml").write_text(text)
    begun = time.monotonic()
    with pytest.raises(ValueError, match="f.yaml is neither JSON nor YAML"):
        yaml_files.load(tmp_path / "f.yaml")
    with pytest.raises(ValueError, match="f.yaml is neither JSON nor YAML"):
        run_files.read(tmp_path / "f.yaml")
    with pytest.raises(ValueError, match="f.yaml is not a compiled pipeline"):
        pipeline_spec.read(tmp_path / "f.yaml")
    with pytest.raises(ValueError, match="f.yaml is not a compiled pipeline"):
        packages.package(str(tmp_path / "f.yaml"), tmp_path / "copy.yaml")
    assert time.monotonic() - begun < 30


def test_ordinary_aliases_are_fine(tmp_path):
    (tmp_path / "f.yaml").write_text("base: &base {a: 1}\nmore: [*base, *base]\n")
    assert yaml_files.load(tmp_path / "f.yaml") == {"base": {"a": 1}, "more": [{"a": 1}, {"a": 1}]}


class Renamed(msgspec.Struct, forbid_unknown_fields=True):
    RENAMED: ClassVar[dict[str, str]] = {"length": "seq_len"}

    seq_len: int = 1


def test_an_old_key_is_taken_for_one_version_with_a_warning_that_names_the_new_one():
    with pytest.warns(FutureWarning, match="recipe.length is called seq_len now"):
        assert strict.decode(Renamed, {"length": 7}, "recipe") == Renamed(seq_len=7)


def test_an_old_key_next_to_its_new_name_is_refused():
    with pytest.raises(ValueError, match="recipe.length: unknown key"):
        strict.decode(Renamed, {"length": 7, "seq_len": 8}, "recipe")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": "fast"}, "recipe.learning_rate: expected 'auto' or a number, got 'fast'"),
        ({"learning_rate": "1e-4"}, "expected 'auto' or a number without quotes, got '1e-4'"),
        ({"trained_layers": "upper"}, "expected 'all' or a number or a whole number, got 'upper'"),
        ({"trained_layers": 1.0}, "recipe.trained_layers: expected"),
    ],
)
def test_what_may_be_a_number_or_a_word_is_said_in_words(fields, message):
    with pytest.raises(ValueError, match=message):
        strict.decode(recipe.Recipe, fields, "recipe")


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (int, "5 million", "expected a whole number (1000000, 1e6 or 1M), got '5 million'"),
        (int, "5,000,000", "expected a whole number (1000000, 1e6 or 1M), got '5,000,000'"),
        (int, None, "expected a whole number, got nothing: give it a value, or leave it out"),
        (bool, "yes", "expected true or false, got 'yes'"),
        (
            dict[str, int],
            None,
            "expected a mapping (name: value), got nothing: give it a value, or leave it out",
        ),
        (list[int], "a", "expected a list, got 'a'"),
        (int | None, "x", "expected a whole number or nothing, got 'x'"),
    ],
)
def test_kinds_are_named_as_people_name_them(kind, value, said):
    assert problems(value, kind) == [f"car: {said}"]


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("seq_length", "seq_len"),
        ("maxtokens", "max_tokens"),
        ("max_new_tokens", ""),
        ("base_lr", ""),
        ("train_seed", ""),
    ],
)
def test_a_misspelling_is_alike_word_by_word(key, near):
    assert strict.nearest(key, ["seq_len", "max_tokens", "base_uri", "data_seed"]) == near
