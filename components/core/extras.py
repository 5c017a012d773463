"""Tell which extra of deepcuts installs a missing module, from the package metadata."""

import importlib.metadata
import re
import sys
from types import TracebackType

EXTRAS = ("", "data", "train", "ops", "ray", "cuda", "serve")
"""In the order they are suggested; the empty one stands for the base dependencies."""
DISTRIBUTIONS = {"celpy": "cel-python", "google": "protobuf", "grpc": "grpcio", "mlflow": "mlflow-skinny"}
"""Distribution of modules with another name than their distribution."""
REQUIRED = re.compile(r"([\w.-]+)(?:.*extra == ['\"](\w+)['\"])?")


def advice(module: str) -> str:
    """Return what to install for ``module``; empty if no extra has it, which means a bug of ours."""
    top = module.partition(".")[0]
    wanted = DISTRIBUTIONS.get(top, top.replace("_", "-").lower())
    for extra in EXTRAS:
        if wanted in _distributions(extra):
            return f"{wanted} is not installed: pip install {quoted(extra)}"
    return ""


def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say what to install when a module is missing, and exit with code 2; a ``sys.excepthook``."""
    hint = advice(error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    if not hint:
        sys.__excepthook__(kind, error, trace)
        return
    print(hint, file=sys.stderr)
    raise SystemExit(2)


def quoted(extra: str) -> str:
    """Return the pip requirement of an extra, quoted for a shell."""
    return f'"deepcuts[{extra}]"' if extra else "deepcuts"


def _distributions(extra: str) -> set[str]:
    """Return the distributions that an extra requires; "" is the base."""
    try:
        asked = importlib.metadata.requires("deepcuts") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return set()
    found = filter(None, map(REQUIRED.match, asked))
    return {one[1].replace("_", "-").lower() for one in found if (one[2] or "") == extra}
