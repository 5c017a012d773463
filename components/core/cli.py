"""Run a step from the command line: argv in, files out, one receipt at the end.

The same command works on a laptop, in a KFP pod, a Katib trial and a TrainJob. Values use the encoding KFP
gives container arguments: text as it is, everything else as JSON (``true``, ``0.1``, ``["a"]``) or ``@PATH``
of a file with the value. With an executor input, ``$.NAME`` is the value of that parameter of the task.
"""

import inspect
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from deepcuts.components.core import attempts as attempt_files
from deepcuts.components.core import escape, executor_input, extras, files, strict, yaml_files
from deepcuts.components.core.attempts import Attempts
from deepcuts.components.core.errors import DataError, exit_code, is_panic
from deepcuts.components.core.receipts import Facts, Meter, Receipt, process_start

StepFunction = Callable[..., Facts]


def main(step: StepFunction) -> None:
    """Run a step (``python -m``), then exit with its exit code."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns each time that it has no CPU kernels
    sys.exit(run(step, sys.argv[1:], Meter(process_start())))


def run(step: StepFunction, argv: list[str], meter: Meter | None = None) -> int:
    """Parse ``argv``, run ``step``, and write its receipt to stdout, to disk and for KFP.

    Returns the exit code (``core/errors.py``). An error the user can fix is one message on stderr; a
    traceback means a bug of ours. A failed step writes a receipt, too: failed work costs money. Under KFP, an
    attempt after a final end exits at once in the same way (``core/attempts.py``).
    """
    if argv in (["-h"], ["--help"]):
        print(usage(step))
        return 0
    meter = meter or Meter()
    flags, problems = pairs(argv)
    receipt_path, executor_text = flags.pop("--receipt", None), flags.pop("--executor-input", None)
    is_main = os.environ.get("RANK", "0") == "0"  # torchrun: one step, one attempt, one receipt
    facts: Facts = {}
    code, message, executor, attempts = 0, "", None, None
    try:
        if executor_text:
            executor = _decode(dict[str, Any], executor_text, "executor_input")
            meter.pool = executor_input.pool(executor) or meter.pool
        if is_main and (attempts := attempt_files.attempts(executor, step.__name__)):
            begin(attempts, step.__name__, meter)
        with attempts.alive(meter.seconds) if attempts else nullcontext():
            if attempts and executor:
                attempts.given(executor)
            words = {flag: executor_input.value(word, executor) for flag, word in flags.items()}
            values = parse(step, words, problems)
            if executor:
                _check_inputs(executor, values)
            with attempt_files.named_run(executor), attempt_files.pods_charged(attempts):
                facts = _facts(step, values)
    except Exception as error:
        code, message = exit_code(error), escape.redacted(str(error)) or type(error).__name__
        if attempts and executor:  # a Job has its podFailurePolicy, and may be created again after a fix
            message = attempts.keep_outputs(executor, message)
            attempts.end(step.__name__, code, message)
        _explain(step.__name__, error, code, message)
    if not is_main:
        return code
    receipt = meter.receipt(step.__name__, code, facts, message)
    print(escape.json(msgspec.json.encode(receipt).decode()), flush=True)
    if attempts:
        attempts.leave(receipt)
    if receipt_path:
        write_json(Path(receipt_path), receipt)
    if executor and code == 0:
        write_json(
            Path(executor["outputs"]["outputFile"]),
            executor_output({"receipt": receipt}, executor["outputs"]),
        )
    return code


def _facts(step: StepFunction, values: Mapping[str, Any]) -> Facts:
    """Run the step and return its facts.

    Raises:
        DataError: Rust code panicked, which ``except Exception`` does not catch.
        ValueError: a module is missing that one of our extras installs.
    """
    try:
        return step(**values)
    except ModuleNotFoundError as error:
        if hint := extras.advice(error.name or ""):
            raise ValueError(hint) from error
        raise
    except BaseException as error:
        if not is_panic(error):
            raise
        fix = "correct tokenizer.json, or the text"
        raise DataError(f"a library gave up on the data ({error}): {fix}") from error


def begin(attempts: Attempts, step: str, meter: Meter) -> None:
    """Begin an attempt and set its number for the receipt; raises what ``Attempts.begin`` raises."""
    number = attempts.begin(step, meter.pool, meter.started_at)
    if "DEEPCUTS_ATTEMPT" not in os.environ:
        meter.attempt = number


def pairs(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return (value by flag, problems); a flag takes one value, which may begin with a dash (``-1e-5``)."""
    values: dict[str, str] = {}
    found = []
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if not flag.startswith("--"):
            found.append(f"{word!r}: a flag should stand here: quote a value that holds spaces")
            continue
        if not equals:
            value = next(words, "")
        if flag in values:
            found.append(f"{flag}: given twice: remove one")
        values[flag] = value
    return values, found


def parse(step: StepFunction, flags: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    """Return the values of ``step``'s parameters from ``flags``; a flag whose value may be None is optional.

    Raises:
        ValueError: ``problems``, unknown and missing flags and invalid values, one per line.
    """
    hints = get_type_hints(step, include_extras=True)  # keeps bounds, as in Annotated[int, Meta(ge=1)]
    names = {_flag(name): name for name in inspect.signature(step).parameters}
    found = problems + [strict.unknown_key("", flag, names) for flag in flags if flag not in names]
    values: dict[str, Any] = {}
    for flag, name in names.items():
        if flag not in flags and _optional(hints[name]):
            values[name] = None
            continue
        if flag not in flags:
            found.append(f"{flag}: missing: give it a value ({_type_name(get_type_hints(step)[name])})")
            continue
        try:
            values[name] = _decode(hints[name], flags[flag], name)
        except ValueError as error:
            found.append(str(error))
    if found:
        raise ValueError("\n".join(found))
    return values


def usage(step: StepFunction) -> str:
    """Return the help text: what the step does and the flags it takes."""
    hints = get_type_hints(step)
    flags = [f"  {_flag(name)} {_type_name(hints[name])}" for name in inspect.signature(step).parameters]
    return "\n".join([f"{step.__name__}: {inspect.getdoc(step)}", "", *flags, "  --receipt path (optional)"])


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON, atomically."""
    with files.staged(path) as staging:
        staging.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _type_name(hint: Any) -> str:
    return {Path: "path", str: "text"}.get(hint, hint.__name__ if isinstance(hint, type) else str(hint))


def _optional(hint: Any) -> bool:
    """Tell whether a parameter may be None: ``str | None``."""
    return type(None) in get_args(hint)


def _decode(hint: Any, text: str, name: str) -> Any:
    if _optional(hint):
        hint = next(arm for arm in get_args(hint) if arm is not type(None))
    if hint in (str, Path):
        return hint(text)
    if get_origin(hint) is Literal and all(isinstance(choice, str) for choice in get_args(hint)):
        return strict.decode(hint, text, name)
    return strict.decode(hint, from_json(text, name), name)


def from_json(text: str, name: str) -> Any:
    """Parse the value of a flag that is neither text nor a path: JSON, or ``@PATH`` of a YAML or JSON file.

    Raises:
        ValueError: ``text`` is neither.
    """
    if text.startswith("@"):  # JSON never does
        return _from_file(Path(text[1:]), name)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not JSON ({error}), got {text[:80]!r}: quote it as JSON") from error


def _from_file(path: Path, name: str) -> Any:
    try:
        return yaml_files.load(path)
    except OSError as error:
        why = error.strerror or "No such file or directory"
        raise ValueError(f"{name}: {path} cannot be read ({why}): check the path") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_inputs(executor: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Report a missing input by its URI: kfp 2.17.0 turns a missing object into a missing file.

    Checks only artifacts that are a parameter of their own: the ledger takes many in one, and some may be
    absent.
    """
    inputs = executor.get("inputs", {}).get("artifacts", {})
    for name, value in inputs.items():
        for artifact in value.get("artifacts", []):
            local = executor_input.path_of(artifact)
            if name in values and local and not Path(local).exists():
                raise FileNotFoundError(
                    f"input {name!r}: nothing at {artifact['uri']}: "
                    "check the URI, or rerun the step that makes it"
                )


def _explain(step: str, error: Exception, code: int, message: str) -> None:
    if code == 1:
        trace = escape.redacted("".join(traceback.format_exception(error)))
        print(escape.terminal(trace), end="", file=sys.stderr)
        print(f"{step}: this is a bug of deepcuts, not of your input: please report it", file=sys.stderr)
        return
    for line in escape.terminal(message).splitlines():
        print(f"{step}: {line}", file=sys.stderr)


def executor_output(made: Mapping[str, Receipt], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return KFP's ExecutorOutput: declared output parameters by name, and every number as a metric.

    Args:
        made: Receipts by output artifact.
        outputs: ``outputs`` of the executor input. KFP's launcher reads other parameters from files.
    """
    facts = {name: value for receipt in made.values() for name, value in receipt.facts.items()}
    return {
        "parameterValues": {name: facts[name] for name in outputs.get("parameters", {}) if name in facts},
        "artifacts": {name: {"artifacts": [{"metadata": _numbers(made[name])}]} for name in made},
    }


def _numbers(receipt: Receipt) -> dict[str, float]:
    numbers = {name: float(value) for name, value in receipt.facts.items() if isinstance(value, int | float)}
    return numbers | {
        "wall_seconds": receipt.wall_seconds,
        "cpu_seconds": receipt.cpu_seconds,
        "peak_resident_bytes": float(receipt.peak_resident_bytes),
    }
