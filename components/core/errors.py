"""Errors that end a step, and exit codes that tell the caller whether to retry.

A plain ``ValueError`` is a configuration error. Anything not listed here is a bug: traceback, exit code 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class DataError(ValueError):
    """The data cannot be used as it is; a retry with the same data fails again."""


class ModelFault(DataError):
    """A model's own files are at fault, whatever the data: no example can be processed with them."""


class StoreError(Exception):
    """The object store did not answer, or answered wrongly; a retry may help."""


class GateRefused(Exception):
    """A quality or budget gate refused; results so far are kept."""


class Preempted(Exception):
    """SIGTERM arrived; a checkpoint is committed, and the same argv resumes from it."""


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
        case _ if is_lost_peer(error):
            return 4
        case _:
            return 1


@contextmanager
def judged(what: str, fix: str, kind: type[DataError] = DataError) -> Iterator[None]:
    """Turn any error a library raises about an untrusted file into a DataError.

    Libraries have no error class for a malformed file: a list, a zero or an unknown name in one field raises
    AttributeError, ZeroDivisionError or KeyError, or panics in Rust. Errors that are not the file's fault
    pass through: memory, connections, a missing package (ValueError with its name).

    Args:
        what: What is wrong, with the file: ``base/tokenizer.json does not load``.
        fix: What to do about it.
        kind: Class of the error to raise.
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


def is_lost_peer(error: BaseException) -> bool:
    """Tell whether another process of a training went away, which is no bug of this one.

    torch.distributed raises subclasses of DistError, Gloo a RuntimeError that names its source file.
    """
    dist = any(each.__name__ == "DistError" for each in type(error).__mro__)
    return dist or "/gloo/transport/" in str(error)


def is_panic(error: BaseException) -> bool:
    """Tell whether Rust code panicked (tokenizers, safetensors); pyo3 bypasses ``except Exception``."""
    return type(error).__name__ == "PanicException"


def _said(error: BaseException) -> str:
    said, name = " ".join(str(error).split())[:300], type(error).__name__
    return said if said and type(error) in (ValueError, OSError) else f"{name} {said}".strip()
