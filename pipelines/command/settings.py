"""What the user asked for: run file, --set and what the command fills in become a pipeline's arguments."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from deepcuts.components.core import nodepools, recipe, strict, yaml_files
from deepcuts.pipelines.command import checks, hints, parameters, places
from deepcuts.pipelines.runner import ir, pipeline_spec


def read(path: Path) -> dict[str, Any]:
    """Return the arguments in a run file; paths in it count from its own folder.

    ``nodepools`` may be the path of a nodepools.yaml.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is empty, or not a YAML mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such run file: check -f, or write one with deepcuts init")
    value = yaml_files.load(path)
    if value is None:
        raise ValueError(
            f"{path} is empty: give parameters as `name: value`, or write one with deepcuts init"
        )
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected parameters as `name: value`, got {type(value).__name__}")
    return _with_pools(
        places.anchored({str(name): item for name, item in value.items()}, path.resolve().parent),
        path.resolve().parent,
    )


def _with_pools(arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return ``arguments`` with the content of the file that ``nodepools`` names."""
    if not isinstance(arguments.get("nodepools"), str):
        return arguments
    path = folder / Path(arguments["nodepools"]).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"nodepools: nothing at {path}: check the path")
    return arguments | {"nodepools": yaml_files.load(path)}


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
        result = put(result, path, value if parents else places.anchored({last: value}, Path.cwd())[last])
    return _with_pools(result, Path.cwd())


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


def complete(pipeline: ir.Pipeline, given: Mapping[str, Any], fills: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given``, with ``fills`` where the pipeline takes them and nothing was given.

    Raises:
        ValueError: everything that is wrong, one a line: names, types, recipe, node pools, missing files. The
            steps would find the last three too, but only after the steps before them have been paid for.
        FileNotFoundError: nothing is wrong but that files are missing.
    """
    known = pipeline.root.input_definitions.parameters
    given, found = _sorted_out(pipeline, given)
    defaults = {
        name: pipeline_spec.whole(parameter.default_value)
        for name, parameter in known.items()
        if parameter.is_optional
    }
    arguments = defaults | {name: value for name, value in fills.items() if name in known} | given
    found += [
        f"{name}: missing: give it a value; the bundled example's is {defaults[name]!r}"
        for name, parameter in known.items()
        if parameter.is_optional and parameters.required(parameter) and name not in given
    ]
    found += _problems(pipeline_spec.arguments, pipeline, arguments)
    named = {line.partition(":")[0] for line in found}
    found += [line for line in checks.problems(arguments) if line.partition(":")[0] not in named]
    if isinstance(arguments.get("recipe"), dict):
        signal = arguments.get("curriculum_signal", "none")
        found += _problems(_recipe, arguments["recipe"], arguments.get("max_tokens"), signal)
    if isinstance(arguments.get("nodepools"), dict):
        found += _problems(_pools, pipeline, arguments["nodepools"], arguments.get("budget_usd"))
    absent = []
    for name, value in arguments.items():
        if name.endswith("uri") and name != "store_uri":
            absent += _problems(places.check_there, name, value)
    if found:
        raise ValueError("\n".join(found + absent))
    if absent:
        raise FileNotFoundError("\n".join(absent))
    return arguments


def _sorted_out(pipeline: ir.Pipeline, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return (what the pipeline takes, whole numbers as such; a message for each key it does not take)."""
    known, name_of = pipeline.root.input_definitions.parameters, pipeline.pipeline_info.name.replace("-", "_")
    found = [hints.unknown(name, known, name_of) for name in given if name not in known]
    kept = {name: value for name, value in given.items() if name in known}
    for name, value in kept.items():
        if pipeline_spec.KINDS[known[name].parameter_type] is int:
            kept[name] = strict.count(value)
    recipe_given = kept.get("recipe")
    if isinstance(recipe_given, dict):
        misplaced = [key for key in recipe_given if key in known and key not in hints.RECIPE_KEYS]
        found += [hints.misplaced(key) for key in misplaced]
        kept["recipe"] = {key: value for key, value in recipe_given.items() if key not in misplaced}
    return kept, found


def partial(pipeline: ir.Pipeline, given: Mapping[str, Any]) -> None:
    """Check ``given`` alone, where a run's other values are not known yet.

    Raises:
        ValueError: unknown names, values that no run would take, a recipe that contradicts itself.
    """
    given, found = _sorted_out(pipeline, given)
    found += checks.problems(given)
    if isinstance(given.get("recipe"), dict):
        signal = given.get("curriculum_signal", "none")
        found += _problems(_recipe, given["recipe"], given.get("max_tokens"), signal)
    if found:
        raise ValueError("\n".join(found))


def _problems(check: Callable[..., object], *values: object) -> list[str]:
    try:
        check(*values)
    except (ValueError, FileNotFoundError) as error:
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
