"""Report extras that are missing for running steps here, before the first step or after one failed."""

import importlib.metadata
import re
from collections.abc import Iterable

from deepcuts.components.core.extras import advice, quoted

IMAGES = ("data", "train", "ops")
"""Images of steps; each has the extra of its name installed."""
NEEDED = {"data": ("pyarrow", "transformers"), "train": ("torch", "transformers", "peft", "accelerate")}
"""Packages that nearly every step of an image imports."""
MISSING = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")


def explained(log: str) -> str:
    """Return the end of a step's log, with advice if a module was missing."""
    found = MISSING.search(log)
    hint = advice(found[1]) if found else ""
    return f"{log}\n{hint}" if hint else log


def check(images: Iterable[str], engine: object = "local") -> None:
    """Check before a run that the steps of ``images`` can run here.

    Raises:
        ValueError: a package that nearly every step of an image imports, or ``engine``, is not installed.
    """
    if engine == "ray" and not _there("ray"):
        raise ValueError(
            f"engine ray is not installed here: pip install {quoted('ray')}, or set engine local"
        )
    lacking = [extra for extra in IMAGES if extra in images and not all(map(_there, NEEDED.get(extra, ())))]
    if lacking:
        absent = ", ".join(sorted({name for extra in lacking for name in NEEDED[extra] if not _there(name)}))
        every = quoted(",".join(IMAGES))
        raise ValueError(f"its steps need {absent}, not installed here: pip install {every}")


def _there(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
