"""What the user asked for: run file, --set and what the command fills in become a pipeline's arguments."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import docstring_parser
import yaml

from deepcuts.components.core import nodepools, recipe, strict, yaml_files
from deepcuts.pipelines.command import checks
from deepcuts.pipelines.runner import ir, pipeline_spec

EXAMPLE = "the bundled example by default"
"""Of a parameter whose default only lets a pipeline start from the UI as it is: here it must be given."""


def read(path: Path) -> dict[str, Any]:
    """Return the arguments in a run file; paths in it count from its own folder.

    Raises:
        ValueError: it is missing, or not a YAML mapping.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such run file: check -f")
    value = yaml_files.load(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected parameters as `name: value`, got {type(value).__name__}")
    return anchored({str(name): item for name, item in value.items()}, path.resolve().parent)


def override(arguments: Mapping[str, Any], words: list[str]) -> dict[str, Any]:
    """Return ``arguments`` with ``a.b=value`` words put in; their paths count from the working directory.

    Raises:
        ValueError: a word has no ``=``, its value is not YAML, or it goes below something that has no keys.
    """
    result = dict(arguments)
    for word in words:
        path, found, text = word.partition("=")
        *parents, last = path.split(".")
        if not found or not all([*parents, last]):
            raise ValueError(f"--set {word}: expected name=value, or name.key=value")
        try:
            value = yaml_files.parse(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(f"--set {word}: the value is not YAML: quote it") from error
        result = put(result, path, value if parents else anchored({last: value}, Path.cwd())[last])
    return result


def put(arguments: Mapping[str, Any], name: str, value: object) -> dict[str, Any]:
    """Return ``arguments`` with ``value`` at the dotted ``name``.

    Raises:
        ValueError: the name goes below something that has no keys.
    """
    first, _, rest = name.partition(".")
    if not rest:
        return {**arguments, first: value}
    below = arguments.get(first, {})
    if not isinstance(below, dict):
        raise ValueError(f"{name}: {first} is {below!r}, which has no keys: set {first} as a whole")
    return {**arguments, first: put(below, rest, value)}


def anchored(arguments: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Paths given as ``…uri`` made absolute ``file://`` URIs; URIs with a scheme stay as they are."""
    return {
        name: (folder / Path(value).expanduser()).resolve().as_uri()
        if name.endswith("uri") and isinstance(value, str) and value and "://" not in value
        else value
        for name, value in arguments.items()
    }


def complete(pipeline: ir.Pipeline, given: Mapping[str, Any], fills: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given``, with ``fills`` where the pipeline takes them and nothing was given.

    Raises:
        ValueError: everything that is wrong, one a line: names, types, recipe, node pools, missing files. The
            steps would find the last three too, but only after the steps before them have been paid for.
    """
    known = pipeline.root.input_definitions.parameters
    defaults = {
        name: pipeline_spec.whole(parameter.default_value)
        for name, parameter in known.items()
        if parameter.is_optional
    }
    arguments = defaults | {name: value for name, value in fills.items() if name in known} | dict(given)
    found = [
        f"{name}: missing: give it a value; the bundled example's is {defaults[name]!r}"
        for name, parameter in known.items()
        if EXAMPLE in " ".join(parameter.description.split()) and name not in given
    ]
    found += _problems(pipeline_spec.arguments, pipeline, arguments)
    named = {line.partition(":")[0] for line in found}
    found += [line for line in checks.problems(arguments) if line.partition(":")[0] not in named]
    if isinstance(arguments.get("recipe"), dict):
        signal = arguments.get("curriculum_signal", "none")
        found += _problems(_recipe, arguments["recipe"], arguments.get("max_tokens"), signal)
    if isinstance(arguments.get("nodepools"), dict):
        found += _problems(_pools, pipeline, arguments["nodepools"], arguments.get("budget_usd"))
    for name, value in arguments.items():
        if name.endswith("uri") and name != "store_uri":
            found += _problems(_exists, name, value)
    if found:
        raise ValueError("\n".join(found))
    return arguments


def partial(pipeline: ir.Pipeline, given: Mapping[str, Any]) -> None:
    """Check ``given`` alone, where a run's other values are not known yet.

    Raises:
        ValueError: unknown names, values that no run would take, a recipe that contradicts itself.
    """
    known = pipeline.root.input_definitions.parameters
    found = [strict.unknown_key("", name, known) for name in given if name not in known]
    found += checks.problems(given)
    if isinstance(given.get("recipe"), dict):
        signal = given.get("curriculum_signal", "none")
        found += _problems(_recipe, given["recipe"], given.get("max_tokens"), signal)
    if found:
        raise ValueError("\n".join(found))


def meanings(kind: type) -> dict[str, str]:
    """Return what the docstrings below the fields of a struct say, by field."""
    fields = docstring_parser.parse_from_object(kind).params
    return {field.arg_name: " ".join((field.description or "").split()) for field in fields}


def _problems(check: Callable[..., object], *values: object) -> list[str]:
    try:
        check(*values)
    except ValueError as error:
        return str(error).splitlines()
    return []


def _recipe(value: object, max_tokens: object, signal: object) -> None:
    parsed = recipe.parse(value)
    if signal != "none" and parsed.order != "given":
        raise ValueError(
            f"curriculum_signal {signal} with recipe.order {parsed.order}: training would not follow it; "
            "set recipe.order to given"
        )
    seq_len = parsed.seq_len
    if isinstance(max_tokens, int) and max_tokens > seq_len:
        raise ValueError(
            f"max_tokens {max_tokens} is above recipe.seq_len {seq_len}: an example must fit into "
            "a block; lower the one or raise the other"
        )


def _pools(pipeline: ir.Pipeline, value: object, budget_usd: object) -> None:
    """Check that every pool that a task is placed on has a price, if there is a budget to keep."""
    known = nodepools.parse(value)
    used = (
        {pipeline_spec.pool(leaf.placement) for _, leaf in pipeline_spec.leaves(pipeline)}
        if budget_usd
        else set()
    )
    if unpriced := [name for name in sorted(used) if name in known and known[name].usd_per_hour is None]:
        raise ValueError(
            f"budget_usd {budget_usd} with pools of unknown price ({', '.join(unpriced)}): give them "
            "usd_per_hour in nodepools, or leave budget_usd 0"
        )


def _exists(name: str, value: object) -> None:
    if isinstance(value, str) and value.startswith("file://"):
        path = Path(unquote(value.removeprefix("file://")))
        if not path.exists():
            raise ValueError(f"{name}: nothing at {path}: check the path")
