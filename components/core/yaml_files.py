"""Read YAML and JSON the same way everywhere: run files, ``--set``, recipes, studies, node pools.

Scalars follow YAML 1.2's core schema, plus underscores in integers: ``1e-5`` is a number, ``010`` is 10,
``0x1F`` is 31, ``.inf`` is infinity; ``yes``, ``1:30`` and ``2026-11-23`` are text. Plain PyYAML follows YAML
1.1: ``1e-5`` is text, ``010`` is 8, ``yes`` is true, ``1:30`` is 90 and ``2026-11-23`` is a date.
A duplicate key is an error (PyYAML keeps the last one), and so are aliases that expand to more than a million
values.
"""

import json
import math
import re
from contextlib import suppress
from pathlib import Path

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode
from yaml.reader import ReaderError

MAX_VALUES = 1_000_000
"""Limit for a YAML document; the largest we write, a compiled pipeline, has 10,000."""
VALUE_CHARACTERS = 100
"""Characters of text that count as one value; 3,000 aliases of one megabyte took gigabytes to show."""
SCALARS = (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", "[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", "<<", ["<"]),
)


HINTS = (
    (
        "mapping values are not allowed",
        "a key is indented more than its neighbours, or a value with ': ' has no quotes",
    ),
    ("found character '\\t'", "indent with spaces, not with tabs"),
    ("escape", "in double quotes a backslash begins an escape: use single quotes, or / in paths"),
    ("did not find expected key", "a key is indented less than its neighbours, or a quote is left open"),
    ("could not find expected ':'", "write name: value, with a space after the colon"),
    ("found unexpected end of stream", "a quote or a bracket is left open"),
    ("expected ',' or", "a bracket is left open, or a comma is missing"),
    ("expected <block end>", "a key is indented more or less than its neighbours"),
    ("cannot start any token", "put the value in quotes"),
    ("determine a constructor for the tag", "tags are not read: write the value without its !"),
    ("found another document", "a file has one document: remove the line ---"),
    ("found undefined alias", "an * begins an alias: put the value in quotes"),
    ("expected alphabetic or numeric", "* begins an alias and & an anchor: put the value in quotes"),
)
"""Usual causes, by the words of PyYAML's message."""


class Bounded(yaml.SafeLoader):
    """PyYAML's safe loader, refusing aliases that expand to far too many values.

    A few nested aliases ("billion laughs") could fill the memory.
    """

    def compose_document(self) -> Node | None:
        """Compose the next document.

        Raises:
            YAMLError: its aliases expand to too many values.
        """
        node: Node | None = super().compose_document()
        if node is not None and _expanded(node, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"its aliases unfold to over {MAX_VALUES:,} values: write them out")
        return node


def _expanded(node: Node, known: dict[int, float]) -> float:
    """Count the values in a node, with aliases expanded; infinite if a node contains itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        pairs = node.value if isinstance(node, CollectionNode) else []
        inner = [part for pair in pairs for part in (pair if isinstance(pair, tuple) else (pair,))]
        text = len(node.value) // VALUE_CHARACTERS if isinstance(node, ScalarNode) else 0
        known[id(node)] = 1 + text + sum(_expanded(part, known) for part in inner)
    return known[id(node)]


class Loader(Bounded):
    """Bounded, with YAML 1.2 scalars; refuses duplicate keys."""

    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[object, object]:
        """Build a mapping.

        Raises:
            ConstructorError: a key occurs twice; names line and column.
        """
        seen: set[object] = set()
        for key, _ in node.value if isinstance(node, MappingNode) else ():
            if not isinstance(key, ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            value = self.construct_object(key)  # 1 and 01 are the same key, and so are ~ and null
            if value in seen:
                problem = f"{key.value!r} is given twice: remove one"
                raise ConstructorError("while reading a mapping", node.start_mark, problem, key.start_mark)
            seen.add(value)
        built: dict[object, object] = super().construct_mapping(node, deep)
        return built

    def whole_number(self, node: Node) -> int:
        """Build an integer; ``010`` is ten."""
        text = str(self.construct_scalar(node)).replace("_", "")  # type: ignore[arg-type]
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text[2:] if base != 10 else text, base)


for _tag, _pattern, _first in SCALARS:
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
Loader.add_constructor("tag:yaml.org,2002:int", Loader.whole_number)


def parse(text: str) -> object:
    """Parse ``text`` as JSON or YAML.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is neither; names line and column if known.
    """
    with suppress(json.JSONDecodeError):
        # not parsed as YAML, which reads JSON's surrogate pairs as two characters
        return json.loads(text, object_pairs_hook=_without_twins, parse_constant=_no_json)
    try:
        return yaml.load(text, Loader)
    except (LookupError, AttributeError, TypeError) as error:  # PyYAML's, of a scalar that its tag is not for
        raise yaml.YAMLError(f"a value is not of its tag ({type(error).__name__} {error})") from error


def load(path: Path) -> object:
    """Read a JSON or YAML file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is neither JSON nor YAML, or has a duplicate key; names and shows the line.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file: check the path")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is neither JSON nor YAML: not UTF-8 ({error.reason}): save it as UTF-8"
        ) from error
    try:
        return parse(text)
    except Twin as error:
        raise ValueError(f"{path}: {error}") from error
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"{path} is neither JSON nor YAML: {_marked(error, text)}") from error
    except ReaderError as error:
        lines = text[: error.position].splitlines() or [""]
        where = f"line {len(lines)}, column {len(lines[-1]) + 1}"
        raise ValueError(
            f"{path} is neither JSON nor YAML: {where}: a character that no text has, "
            f"U+{ord(text[error.position]):04X}: remove it"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is neither JSON nor YAML: {error}") from error


def _marked(error: yaml.MarkedYAMLError, text: str) -> str:
    """Describe the problem, with its place and the line marked."""
    mark, problem = error.problem_mark or error.context_mark, error.problem or error.context or "not YAML"
    hint = next((f": {hint}" for words, hint in HINTS if words in problem), "")
    if not mark:
        return f"{problem}{hint}"
    lines = text.splitlines() or [""]
    line = lines[min(mark.line, len(lines) - 1)].expandtabs(1)
    start = max(0, min(mark.column, len(line)) - 60)  # a file of one long line
    shown, below = line[start : start + 100], " " * (min(mark.column, len(line)) - start)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{hint}\n    {shown}\n    {below}^"


class Twin(ValueError):
    """A JSON object has a key twice."""


def _no_json(name: str) -> object:
    """Refuse NaN and Infinity, which Python's JSON parser accepts; in YAML they are text."""
    raise json.JSONDecodeError("no JSON", name, 0)


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise Twin(f"{twin!r} is given twice: remove one")
    return found
