"""Decode untrusted values into typed structs, reporting all problems at once."""

import decimal
import difflib
import math
import re
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

T = TypeVar("T")
NEAR = 0.7
"""Smallest difflib ratio for suggesting a key; at 0.5, ``learning_rate`` would match ``margin_nats``."""
NUMBER = re.compile(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?")
COUNT, SCALES = (
    re.compile(r"(-?[0-9]{1,12}(?:\.[0-9]{1,12})?) ?([kKmMbB])"),
    {"k": 10**3, "m": 10**6, "b": 10**9},
)
SAID = {float: "a number", int: "a whole number", bool: "true or false", list: "a list", str: "text"}
ALIKE = 0.6
"""And likeness of each of its words: ``base_lr`` is 0.8 like ``base_uri``, ``lr`` 0.4 like ``uri``."""
IN_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
    "object": "a mapping (name: value)",
    "null": "nothing",
    "Path": "a path",
}
"""Kinds of JSON as msgspec names them, and as people do."""
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for invalid JSON: truncated, not UTF-8, of another type, nested too deep."""


def decode(kind: type[T], value: object, where: str) -> T:
    """Convert ``value``, parsed from JSON or YAML, to a ``kind``.

    msgspec stops at the first error, but people fixing a file want all of them, so structs are walked field
    by field and msgspec checks the leaves.

    Raises:
        ValueError: one line per problem, with its path (``recipe.learning_rate``).
    """
    found: list[str] = []
    result: T = _convert(kind, value, where, found)
    if found:
        raise ValueError("\n".join(found))
    return result


def unknown_key(path: str, key: str, known: Iterable[str]) -> str:
    """Return the message for an unknown key, suggesting the closest known one."""
    known = sorted(known)
    near = nearest(key, known)
    hint = f"did you mean {near!r}?" if near else f"known keys: {', '.join(known)}"
    return f"{_inner(path, key)}: unknown key: {hint}"


def either(one: str, its: object, other: str, others: object) -> str:
    """Return the message for two keys of which each decides what the other does."""
    return f"{one} {its} and {other} {others}: both say the same thing: leave one of them out"


def nearest(key: str, known: Iterable[str]) -> str:
    """Return the known key that ``key`` is a misspelling of, word by word; empty where there is none."""
    close = difflib.get_close_matches(key, list(known), n=3, cutoff=NEAR)
    return next((name for name in close if _misspelled(key.split("_"), name.split("_"))), "")


def _misspelled(words: Sequence[str], known: Sequence[str]) -> bool:
    """Tell a misspelling from another name: ``max_new_tokens`` is none of ``max_tokens``."""
    if len(words) != len(known):
        return difflib.SequenceMatcher(None, "".join(words), "".join(known)).ratio() >= 0.9
    return all(
        difflib.SequenceMatcher(None, *pair).ratio() >= ALIKE for pair in zip(words, known, strict=True)
    )


def count(value: object) -> object:
    """Convert a whole number written as ``1e6``, ``5M`` or ``64k`` to an integer; return others unchanged."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    found = COUNT.fullmatch(value) if isinstance(value, str) else None
    if found:
        scaled = decimal.Decimal(found[1]) * SCALES[found[2].lower()]
        return int(scaled) if scaled == int(scaled) else value
    return value


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
    if kind is Path and isinstance(value, str):  # msgspec does not know paths
        return Path(value)
    if origin in (Union, types.UnionType) and isinstance(value, dict):
        structs = [arm for arm in args if isinstance(arm, type) and issubclass(arm, msgspec.Struct)]
        if len(structs) == 1:
            return _struct(structs[0], value, path, found)
    try:
        result = _leaf(kind, value)
    except msgspec.ValidationError as error:
        found.append(_problem(kind, value, path, error))
        return None
    if isinstance(result, float) and not math.isfinite(result):
        found.append(f"{path}: expected a finite number, got {result}")
    return result


def _leaf(kind: Any, value: object) -> Any:
    """Convert a leaf; whole numbers may be written like ``5M``."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        # where a share is allowed, 1.0 is a share out of bounds, never the count 1
        if (number := count(value)) is value or (isinstance(value, float) and _takes_float(kind)):
            raise
        return msgspec.convert(number, kind)


def _takes_float(kind: Any) -> bool:
    return kind is float or any(_takes_float(arm) for arm in get_args(kind))


def current_names(kind: type[msgspec.Struct], value: Mapping[Any, Any], path: str) -> dict[Any, Any]:
    """Rename the old keys of ``kind.RENAMED`` in ``value`` to their new names, with a warning for each.

    An old key given together with its new name is left for the caller to refuse.
    """
    renamed: Mapping[str, str] = getattr(kind, "RENAMED", {})
    given = dict(value)
    for old, new in renamed.items():
        if old in given and new not in given:
            where = _inner(path, old)
            warnings.warn(f"{where} is called {new} now: rename it", FutureWarning, stacklevel=2)
            given[new] = given.pop(old)
    return given


def _struct(kind: type[msgspec.Struct], value: dict[Any, Any], path: str, found: list[str]) -> Any:
    value = current_names(kind, value, path)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    before, wrong = len(found), set()
    named: Mapping[str, str] = getattr(kind, "OTHER_NAMES", {})
    found += [
        f"{_inner(path, key)}: unknown key: {named[key]}"
        if key in named
        else unknown_key(path, str(key), fields)
        for key in value
        if key not in fields
    ]
    ready = {}
    for one, other in getattr(kind, "EITHER", ()):  # here, as what is given at its default shows only here
        if value.get(one) is not None and value.get(other) is not None:
            found.append(f"{path}: {either(one, value[one], other, value[other])}")
            wrong |= {one, other}
    for key, field in fields.items():
        inner = _inner(path, key)
        known = len(found)
        if key in value:
            ready[field.name] = _convert(field.type, value[key], inner, found)
        elif field.required:
            found.append(f"{inner}: missing: give it a value")
        if len(found) > known:
            wrong.add(field.name)
            ready.pop(field.name, None)
    try:
        made = kind(**ready)  # __post_init__ rejects contradictions between fields
    except ValueError as error:
        lines = str(error).splitlines()  # fields that failed already are not reported twice
        found += [f"{path}: {line}" for line in lines if not wrong & set(re.findall(r"\w+", line))]
        return None
    except TypeError:  # a required field is missing
        return None
    return None if len(found) > before else made


def _problem(kind: Any, value: object, path: str, error: msgspec.ValidationError) -> str:
    text, _, place = str(error).partition(" - at `$")
    text = re.sub(r", got `\w+`$", "", text.replace("Expected", "expected", 1))
    if get_origin(kind) is Literal:
        text = f"expected one of {', '.join(map(repr, get_args(kind)))}"
    elif text.startswith("Invalid enum value"):  # of a type that also takes certain words
        kinds = sorted(_said(kind), key=lambda word: (word in SAID.values(), word))
        text = f"expected {' or '.join(kinds)}"
    text = re.sub(r"`(\w+(?: \| \w+)*)`", _in_words, text)
    if value is None:
        return f"{path}{place.rstrip('`')}: {text}, got nothing: give it a value, or leave it out"
    if isinstance(value, str) and SAID[int] in text and any(character.isdigit() for character in value):
        text = f"{text} (1000000, 1e6 or 1M)"
    elif isinstance(value, str) and NUMBER.fullmatch(value) and SAID[float] in text:
        text = f"{text} without quotes"
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)  # a problem stays on one line
    return f"{path}{place.rstrip('`')}: {text}, got {_short(value)}"


def _in_words(found: re.Match[str]) -> str:
    kinds = found[1].split(" | ")
    return " or ".join(IN_WORDS.get(kind, kind) for kind in kinds)


def _said(kind: Any) -> Iterator[str]:
    """Yield the values a type accepts, in words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        yield from map(repr, args)
    elif origin in (Union, types.UnionType, Annotated):
        for arm in args[:1] if origin is Annotated else args:
            yield from _said(arm)
    else:
        yield SAID.get(origin or kind, str(kind))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
