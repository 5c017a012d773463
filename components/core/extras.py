"""What to install for a module that is missing: one of pyproject.toml's extras, as the metadata has them."""

import importlib.metadata
import re
import sys
from types import TracebackType

EXTRAS = ("", "data", "train", "ops", "cuda", "serve")
"""In the order of advice; the empty one is what deepcuts needs without an extra."""
DISTRIBUTIONS = {"celpy": "cel-python", "google": "protobuf", "grpc": "grpcio", "mlflow": "mlflow-skinny"}
"""Of modules whose name does not say it."""
REQUIRED = re.compile(r"([\w.-]+)(?:.*extra == ['\"](\w+)['\"])?")


def advice(module: str) -> str:
    """Return what to install for ``module``; empty where no extra has it, which is then a bug of ours."""
    top = module.partition(".")[0]
    wanted = DISTRIBUTIONS.get(top, top.replace("_", "-").lower())
    for extra in EXTRAS:
        if wanted in _distributions(extra):
            return f"{wanted} is not installed: pip install {quoted(extra)}"
    return ""


def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say what to install, and exit with 2, where a module is missing: a hook for ``sys.excepthook``."""
    hint = advice(error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    if not hint:
        sys.__excepthook__(kind, error, trace)
        return
    print(hint, file=sys.stderr)
    raise SystemExit(2)


def quoted(extra: str) -> str:
    """Return the name that pip installs an extra by, as a shell takes it."""
    return f'"deepcuts[{extra}]"' if extra else "deepcuts"


def _distributions(extra: str) -> set[str]:
    """Return what deepcuts asks for with an extra; empty: with none."""
    try:
        asked = importlib.metadata.requires("deepcuts") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return set()
    found = filter(None, map(REQUIRED.match, asked))
    return {one[1].replace("_", "-").lower() for one in found if (one[2] or "") == extra}
