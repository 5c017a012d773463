"""Turn untrusted values into the project's nouns, and report everything that is wrong at once."""

import difflib
import json
import math
import re
import types
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
import yaml

T = TypeVar("T")
MOST_VALUES = 1_000_000
"""Of a YAML document: the largest that we write, a compiled pipeline, has 10,000."""


def decode(kind: type[T], value: object, where: str) -> T:
    """``value`` (as JSON or YAML gives it) as a ``kind``.

    msgspec stops at its first error; a person mending a file wants them all, so structs are walked
    field by field here and msgspec judges the leaves.

    Raises:
        ValueError: one line a problem, each with its path (``recipe.learning_rate``).
    """
    found: list[str] = []
    result: T = _convert(kind, value, where, found)
    if found:
        raise ValueError("\n".join(found))
    return result


class Bounded(yaml.SafeLoader):
    """Refuses documents whose aliases unfold to far more than they are (nine of nine of nine … of a word)."""

    def compose_document(self) -> yaml.Node | None:
        """The next document's nodes; raises YAMLError where they are too many."""
        node: yaml.Node | None = super().compose_document()
        if node is not None and _unfolded(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"its aliases unfold to over {MOST_VALUES:,} values: write them out")
        return node


def _unfolded(node: yaml.Node, known: dict[int, float]) -> float:
    """Values in a node, those behind aliases as often as they are named; infinite where one holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        pairs = node.value if isinstance(node, yaml.CollectionNode) else []
        inner = [part for pair in pairs for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_unfolded(part, known) for part in inner)
    return known[id(node)]


class _Yaml12(Bounded):
    """YAML 1.2 and underscores in integers; PyYAML's 1.1 takes ``1e-5`` for text, ``yes`` for a boolean."""

    yaml_implicit_resolvers = {}


for _tag, _pattern, _first in (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", "[-+]?(0|[1-9][0-9_]*)", list("-+0123456789")),
    ("float", r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
):
    _Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def load(path: Path) -> object:
    """The values in a JSON or YAML file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is neither JSON nor YAML; names line and column.
    """
    try:
        text = path.read_text()
        with suppress(json.JSONDecodeError):
            return json.loads(text)  # not left to YAML, which reads JSON's surrogate pairs as two characters
        return yaml.load(text, _Yaml12)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is neither JSON nor YAML: {error}") from error


def unknown_key(path: str, key: str, known: Iterable[str]) -> str:
    """The message for a key that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
    return f"{_inner(path, key)}: unknown key: {hint}"


def _inner(path: str, key: str) -> str:
    shown = key if key.isprintable() else repr(key)  # a problem stays on one line
    return f"{path}.{shown}" if path else shown


def _convert(kind: Any, value: object, path: str, found: list[str]) -> Any:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        return _struct(kind, value, path, found)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (list, tuple) and isinstance(value, list | tuple) and args[1:] in ((), (...,)):
        items = [_convert(args[0], item, f"{path}[{i}]", found) for i, item in enumerate(value)]
        return origin(items)
    if origin is dict and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _convert(args[1], item, _inner(path, key), found) for key, item in value.items()}
    if kind is Path and isinstance(value, str):  # msgspec has no paths
        return Path(value)
    if origin in (Union, types.UnionType) and isinstance(value, dict):
        structs = [arm for arm in args if isinstance(arm, type) and issubclass(arm, msgspec.Struct)]
        if len(structs) == 1:
            return _struct(structs[0], value, path, found)
    try:
        result = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        found.append(_problem(kind, value, path, error))
        return None
    if isinstance(result, float) and not math.isfinite(result):
        found.append(f"{path}: expected a finite number, got {result}")
    return result


def _struct(kind: type[msgspec.Struct], value: dict[Any, Any], path: str, found: list[str]) -> Any:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    before = len(found)
    found += [unknown_key(path, str(key), fields) for key in value if key not in fields]
    ready = {}
    for key, field in fields.items():
        inner = _inner(path, key)
        if key in value:
            ready[field.name] = _convert(field.type, value[key], inner, found)
        elif field.required:
            found.append(f"{inner}: missing: give it a value")
    if len(found) > before:
        return None
    try:
        return kind(**ready)  # __post_init__ rejects contradictions between fields
    except ValueError as error:
        found.append(f"{path}: {error}")
        return None


def _problem(kind: Any, value: object, path: str, error: msgspec.ValidationError) -> str:
    text, _, place = str(error).partition(" - at `$")
    text = re.sub(r", got `\w+`$", "", text.replace("Expected", "expected", 1))
    if get_origin(kind) is Literal:
        text = f"expected one of {', '.join(map(repr, get_args(kind)))}"
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)  # a problem stays on one line
    return f"{path}{place.rstrip('`')}: {text}, got {_short(value)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
