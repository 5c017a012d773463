"""What ends a step, and the exit code that tells the caller whether to try again.

A plain ``ValueError`` is a configuration error. Anything not listed here is a bug: traceback, exit code 1.
"""


class DataError(ValueError):
    """The data cannot be used as it is; trying again with the same data is useless."""


class StoreError(Exception):
    """The object store did not answer, or answered wrongly; trying again may help."""


class GateRefused(Exception):
    """A quality or budget gate said no; what was made so far is kept."""


class Preempted(Exception):
    """SIGTERM came; a checkpoint is committed, the same argv goes on from there."""


def exit_code(error: BaseException) -> int:
    """0 done, 1 bug, 2 configuration, 3 data, 4 retryable infrastructure, 5 gate refused, 143 preempted."""
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
