"""Turn the run file, --set and the command's own values into a pipeline's arguments."""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from deepcuts.components.core import former_names, nodepools, recipe, strict, yaml_files
from deepcuts.components.core.bounds import NonNegative
from deepcuts.components.core.recipe import Recipe
from deepcuts.pipelines.run_file import checks, hints, parameters, places
from deepcuts.pipelines.runner import pipeline_spec, spec_types

CONFIRM = "confirm_above_usd"
"""Key of a run file for the command itself; no pipeline has it."""
MISSING = re.compile(r"\w+: missing: ")


def given(file: Path | None, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments of a run file and of ``--set``, and everything that is wrong with the latter.

    Raises:
        FileNotFoundError, ValueError: the run file cannot be read; what it lacks is unknown then.
    """
    found: list[str] = []
    values = read(file) if file else {}
    for word in words:
        values = tried(found, values, override, values, [word])
    return former_names.arguments(values), found


def read(path: Path) -> dict[str, Any]:
    """Read the arguments in a run file; paths in it are relative to its folder.

    ``nodepools`` may be the path of a nodepools.yaml.

    Raises:
        FileNotFoundError: the file does not exist.
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
    """Return ``arguments`` with the content of the file named by ``nodepools``."""
    if not isinstance(arguments.get("nodepools"), str):
        return arguments
    path = folder / os.path.expanduser(arguments["nodepools"])
    if not path.is_file():
        raise FileNotFoundError(f"nodepools: nothing at {path}: check the path")
    return arguments | {"nodepools": yaml_files.load(path)}


def override(arguments: Mapping[str, Any], words: list[str]) -> dict[str, Any]:
    """Return ``arguments`` with ``a.b=value`` words applied; paths are relative to the working directory.

    Raises:
        ValueError: a word has no ``=``, its value is not YAML, or its name is below a value without keys.
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
        ValueError: the name is below a value without keys.
    """
    first, _, rest = name.partition(".")
    if not rest:
        return {**arguments, first: value}
    below = arguments.get(first, {})
    if not isinstance(below, dict):
        raise ValueError(f"{name}: {first} is {below!r}, which has no keys: set {first} as a whole")
    return {**arguments, first: put(below, rest, value)}


def complete(
    pipeline: spec_types.Pipeline,
    given: Mapping[str, Any],
    fills: Mapping[str, Any],
    problems: Iterable[str] = (),
) -> dict[str, Any]:
    """Return ``given``, with ``fills`` for parameters of the pipeline that were not given.

    Raises:
        ValueError: all problems, one per line, after the ``problems`` found before: names, types, recipe,
            node pools, missing files. The steps would find the last three, too, but only after earlier steps
            were paid for.
        FileNotFoundError: the only problem is that files are missing.
    """
    known = pipeline.root.input_definitions.parameters
    given, found = _sorted_out(pipeline, given)
    arguments = _defaults(pipeline) | {n: value for n, value in fills.items() if n in known} | given
    found += [
        f"{name}: missing: give it a value; the bundled example's is {arguments[name]!r}"
        for name, parameter in known.items()
        if parameter.is_optional and parameters.required(parameter) and name not in given
    ]
    refuse([*problems, *found, *_wrong(pipeline, arguments)], _absent(arguments))
    return arguments


def confirm_above_usd(given: Mapping[str, Any]) -> float:
    """Return the dollars above which to ask before a run; 0 never asks.

    Raises:
        ValueError: it is not such a number.
    """
    return float(strict.decode(NonNegative, given.get(CONFIRM, 0.0), CONFIRM))


def _absent(arguments: Mapping[str, Any]) -> list[str]:
    """Return a line for each missing local place."""
    return [
        line
        for name, value in arguments.items()
        if name.endswith("uri") and name != "store_uri"
        for line in lines_of(places.check_there, name, value)
    ]


def _sorted_out(pipeline: spec_types.Pipeline, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return (arguments of the pipeline, with whole numbers as integers; a message for each unknown key)."""
    known, name_of = pipeline.root.input_definitions.parameters, pipeline.pipeline_info.name.replace("-", "_")
    found = [hints.unknown(name, known, name_of) for name in given if name not in (*known, CONFIRM)]
    found += lines_of(confirm_above_usd, given)
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


def partial(pipeline: spec_types.Pipeline, given: Mapping[str, Any], problems: Iterable[str] = ()) -> None:
    """Check ``given`` together with the pipeline's defaults, without a run's other values.

    Raises:
        ValueError, FileNotFoundError: as in ``complete``, except for missing values.
    """
    given, hinted = _sorted_out(pipeline, given)
    found = [*hinted, *_wrong(pipeline, _defaults(pipeline) | given)]
    refuse([*problems, *(line for line in found if not MISSING.match(line))], _absent(given))


def refuse(problems: Iterable[str], absent: Sequence[str] = ()) -> None:
    """Raise ValueError with all ``problems`` and ``absent`` files, one per line, if there are any.

    Raises:
        FileNotFoundError: the only problem is that files are absent.
    """
    wrong = list(dict.fromkeys(problems))
    if absent and not wrong:
        raise FileNotFoundError("\n".join(absent))
    if wrong:
        raise ValueError("\n".join(dict.fromkeys([*wrong, *absent])))


def lines_of(check: Callable[..., object], *values: object) -> list[str]:
    """Return the problems that ``check`` finds with ``values``, one per line."""
    try:
        check(*values)
    except (ValueError, FileNotFoundError) as error:
        return str(error).splitlines()
    return []


def tried(
    found: list[str], before: dict[str, Any], make: Callable[..., dict[str, Any]], *given: Any
) -> dict[str, Any]:
    """Return ``make`` of ``given``; on an error, return ``before`` and add the error to ``found``."""
    try:
        return make(*given)
    except ValueError as error:
        found += str(error).splitlines()
        return before


def _defaults(pipeline: spec_types.Pipeline) -> dict[str, Any]:
    known = pipeline.root.input_definitions.parameters
    return {n: pipeline_spec.whole(given.default_value) for n, given in known.items() if given.is_optional}


def _wrong(pipeline: spec_types.Pipeline, arguments: Mapping[str, Any]) -> list[str]:
    """Return all problems with ``arguments``; a parameter of the wrong type is reported once."""
    found = lines_of(pipeline_spec.arguments, pipeline, arguments)
    named = {line.partition(":")[0] for line in found}
    found += [
        f"{name} is empty: give a path or a URI"
        for name, default in _defaults(pipeline).items()
        if name.endswith("uri") and default and arguments.get(name) == ""
    ]
    found += [line for line in checks.problems(arguments) if line.partition(":")[0] not in named]
    if isinstance(arguments.get("recipe"), dict):
        difficulty_signal = arguments.get("curriculum_signal", "none")
        found += lines_of(recipe.parse, arguments["recipe"])
        found += lines_of(_beside_recipe, arguments["recipe"], arguments.get("max_tokens"), difficulty_signal)
    if isinstance(arguments.get("nodepools"), dict):
        found += lines_of(_pools, pipeline, arguments)
    return found


def _beside_recipe(value: dict[str, Any], max_tokens: object, difficulty_signal: object) -> None:
    """Check other settings against single keys of a recipe, even if the rest of it is invalid."""
    with warnings.catch_warnings(action="ignore"):  # parsing warns of old keys already
        given = strict.current_names(Recipe, value, "recipe")
    found, order, seq_len = [], given.get("order", Recipe().order), given.get("seq_len", Recipe().seq_len)
    if difficulty_signal not in ("none", None) and order == "shuffle":
        found.append(
            f"curriculum_signal {difficulty_signal} with recipe.order {order}: training would not follow it; "
            "set recipe.order to given"
        )
    if isinstance(max_tokens, int) and isinstance(seq_len, int) and max_tokens > seq_len:
        found.append(
            f"max_tokens {max_tokens} is above recipe.seq_len {seq_len}: an example must fit into "
            "a row; lower the one or raise the other"
        )
    refuse(found)


def _pools(pipeline: spec_types.Pipeline, arguments: Mapping[str, Any]) -> None:
    """Check that every pool of a task has a price, if there is a budget."""
    known, budget_usd = nodepools.parse(arguments["nodepools"]), arguments.get("budget_usd")
    placed = {pipeline_spec.pool(leaf.placement) for _, leaf in pipeline_spec.leaves(pipeline)}
    if pipeline_spec.AS_PLANNED in placed:
        placed.add(str(arguments.get("pool")))
    unpriced = [name for name in sorted(placed) if name in known and known[name].usd_per_hour is None]
    if budget_usd and unpriced:
        raise ValueError(
            f"budget_usd {budget_usd} with pools of unknown price ({', '.join(unpriced)}): give them "
            "usd_per_hour in nodepools, or leave budget_usd 0"
        )
