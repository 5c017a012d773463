"""Read YAML and JSON in one way everywhere: run files, ``--set``, recipes, studies, node pools.

Scalars are those of YAML 1.2's core schema, with underscores in integers: ``1e-5`` is a number, ``010`` is
10, ``0x1F`` is 31, ``.inf`` is infinity; ``yes``, ``1:30`` and ``2026-11-23`` are text. PyYAML alone follows
YAML 1.1: ``1e-5`` is text there, ``010`` is 8, ``yes`` is true, ``1:30`` is 90 and ``2026-11-23`` is a date.
A key given twice is an error; PyYAML keeps the last one. So are aliases that expand to more than a
million values.
"""

import json
import math
import re
from contextlib import suppress
from pathlib import Path

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

MAX_VALUES = 1_000_000
"""Of a YAML document: the largest that we write, a compiled pipeline, has 10,000."""
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


class Bounded(yaml.SafeLoader):
    """PyYAML's safe loader that refuses aliases which expand to far more values than the document has.

    Nine of nine of nine ... of a word would take all memory.
    """

    def compose_document(self) -> Node | None:
        """Compose the next document.

        Raises:
            YAMLError: it has too many values.
        """
        node: Node | None = super().compose_document()
        if node is not None and _expanded(node, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"its aliases unfold to over {MAX_VALUES:,} values: write them out")
        return node


def _expanded(node: Node, known: dict[int, float]) -> float:
    """Count the values in a node, those behind an alias at each use; infinite where a node holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        pairs = node.value if isinstance(node, CollectionNode) else []
        inner = [part for pair in pairs for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_expanded(part, known) for part in inner)
    return known[id(node)]


class Loader(Bounded):
    """Bounded, with the scalars of YAML 1.2; refuses a key given twice."""

    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[object, object]:
        """Build a mapping.

        Raises:
            ConstructorError: a key is given twice; names line and column.
        """
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value if isinstance(node, MappingNode) else ():
            if not isinstance(key, ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if (key.tag, key.value) in seen:
                problem = f"{key.value!r} is given twice: remove one"
                raise ConstructorError("while reading a mapping", node.start_mark, problem, key.start_mark)
            seen.add((key.tag, key.value))
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
    """Return the values in ``text``, JSON or YAML.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is neither; names line and column where that is known.
    """
    with suppress(json.JSONDecodeError):
        # not left to YAML, which reads JSON's surrogate pairs as two characters
        return json.loads(text, object_pairs_hook=_without_twins, parse_constant=_no_json)
    try:
        return yaml.load(text, Loader)
    except (LookupError, AttributeError, TypeError) as error:  # PyYAML's, of a scalar that its tag is not for
        raise yaml.YAMLError(f"a value is not of its tag ({type(error).__name__} {error})") from error


def load(path: Path) -> object:
    """Return the values in a JSON or YAML file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is neither JSON nor YAML, or gives a key twice; names line and column.
    """
    try:
        return parse(path.read_text())
    except Twin as error:
        raise ValueError(f"{path}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is neither JSON nor YAML: {error}") from error


class Twin(ValueError):
    """A key of a JSON object is given twice."""


def _no_json(name: str) -> object:
    """Leave NaN and Infinity, which Python's reader takes, to YAML: they are text, ``.nan`` is the number."""
    raise json.JSONDecodeError("no JSON", name, 0)


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise Twin(f"{twin!r} is given twice: remove one")
    return found
