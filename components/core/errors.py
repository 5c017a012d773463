"""What ends a step, and the exit code that tells the caller whether to try again.

A plain ``ValueError`` is a configuration error. Anything not listed here is a bug: traceback, exit code 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class DataError(ValueError):
    """The data cannot be used as it is; trying again with the same data is useless."""


class ModelFault(DataError):
    """A model's own files are at fault, whatever the data: no example can be processed with them."""


class StoreError(Exception):
    """The object store did not answer, or answered wrongly; trying again may help."""


class GateRefused(Exception):
    """A quality or budget gate said no; what was made so far is kept."""


class Preempted(Exception):
    """SIGTERM came; a checkpoint is committed, the same argv resumes from there."""


def exit_code(error: BaseException) -> int:
    """Return 0 done, 1 bug, 2 configuration, 3 data, 4 infrastructure, 5 gate refused, 143 preempted."""
    match error:
        case DataError() | FileNotFoundError() | IsADirectoryError() | NotADirectoryError():
            return 3
        case ValueError() | FileExistsError():
            return 2
        case StoreError() | MemoryError() | ConnectionError() | TimeoutError() | OSError():
            return 4
        case GateRefused():
            return 5
        case Preempted():
            return 143
        case _ if "(os error " in str(error):  # a full disk, as safetensors and tokenizers (Rust) put it
            return 4
        case _:
            return 1


@contextmanager
def judged(what: str, fix: str, kind: type[DataError] = DataError) -> Iterator[None]:
    """Turn whatever a library raises of a file that somebody else wrote into a DataError.

    Libraries have no class of their own for a malformed file: the same field as a list, a zero or a name that
    nobody knows ends in AttributeError, ZeroDivisionError, KeyError, or in a panic of Rust. What is not the
    file's fault passes: memory, connections, a package that is missing (ValueError with its name).

    Args:
        what: What is wrong with which file, ``base/tokenizer.json does not load``.
        fix: What to do.
        kind: Class of the error.
    """
    try:
        yield
    except (DataError, FileNotFoundError, MemoryError, ConnectionError, TimeoutError):
        raise
    except ImportError as error:
        raise ValueError(f"{what} without a package that is not installed ({error}): install it") from error
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError" or "(os error " in str(error):  # torch's; a full disk
            raise
        raise kind(f"{what} ({_said(error)}): {fix}") from error
    except BaseException as error:
        if not is_panic(error):
            raise
        raise kind(f"{what} ({_said(error)}): {fix}") from error


def is_panic(error: BaseException) -> bool:
    """Return whether Rust code panicked (tokenizers, safetensors): pyo3 bypasses ``except Exception``."""
    return type(error).__name__ == "PanicException"


def _said(error: BaseException) -> str:
    said, name = " ".join(str(error).split())[:300], type(error).__name__
    return said if said and type(error) in (ValueError, OSError) else f"{name} {said}".strip()
