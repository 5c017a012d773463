"""What to install for a module that is missing: one of pyproject.toml's extras, as the metadata has them."""

import importlib.metadata
import re
from collections.abc import Iterable

from packaging.requirements import Requirement

IMAGES = ("data", "train", "ops")
"""Images of steps; each installs the extra of its name."""
NEEDED = {"data": ("pyarrow", "transformers"), "train": ("torch", "transformers", "peft", "accelerate")}
"""What nearly every step of an image imports; the rest only some do."""
DISTRIBUTIONS = {"celpy": "cel-python", "google": "protobuf", "grpc": "grpcio", "mlflow": "mlflow-skinny"}
"""Of modules whose name does not say it."""
MISSING = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")


def advice(module: str) -> str:
    """Return what to install for ``module``; empty where no extra has it, which is then a bug of ours."""
    top = module.partition(".")[0]
    wanted = DISTRIBUTIONS.get(top, top.replace("_", "-").lower())
    for extra in ("", *IMAGES, "cuda", "serve"):
        if wanted in _distributions(extra):
            return f"{wanted} is not installed: pip install {_quoted(extra)}"
    return ""


def explained(log: str) -> str:
    """Return the end of a step's log, with the advice where a module was missing."""
    found = MISSING.search(log)
    hint = advice(found[1]) if found else ""
    return f"{log}\n{hint}" if hint else log


def check(images: Iterable[str]) -> None:
    """Refuse to run steps of ``images`` here before the first of them fails.

    Raises:
        ValueError: what nearly every step of one of them imports is not installed.
    """
    lacking = [extra for extra in IMAGES if extra in images and not all(map(_there, NEEDED.get(extra, ())))]
    if lacking:
        absent = ", ".join(sorted({name for extra in lacking for name in NEEDED[extra] if not _there(name)}))
        every = _quoted(",".join(IMAGES))
        raise ValueError(f"its steps need {absent}, not installed here: pip install {every}")


def _quoted(extra: str) -> str:
    return f'"deepcuts[{extra}]"' if extra else "deepcuts"


def _there(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _distributions(extra: str) -> set[str]:
    """Return what deepcuts asks for with an extra; empty: with none."""
    try:
        asked = [Requirement(line) for line in importlib.metadata.requires("deepcuts") or []]
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return set()
    return {
        one.name.replace("_", "-").lower()
        for one in asked
        if (one.marker.evaluate({"extra": extra}) if extra and one.marker else not extra and not one.marker)
    }
