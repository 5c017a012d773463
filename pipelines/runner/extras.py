"""Steps run here need the extras of their images: said before the first of them fails, or where one did."""

import importlib.metadata
import re
from collections.abc import Iterable

from deepcuts.components.core.extras import advice, quoted

IMAGES = ("data", "train", "ops")
"""Images of steps; each installs the extra of its name."""
NEEDED = {"data": ("pyarrow", "transformers"), "train": ("torch", "transformers", "peft", "accelerate")}
"""What nearly every step of an image imports; the rest only some do."""
MISSING = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")


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
        every = quoted(",".join(IMAGES))
        raise ValueError(f"its steps need {absent}, not installed here: pip install {every}")


def _there(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
