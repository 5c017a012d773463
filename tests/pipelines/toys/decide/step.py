"""A toy step: hand out what a plan would, as output parameters."""

from pathlib import Path
from typing import Any

from deepcuts.components.core import cli
from deepcuts.components.core.receipts import Facts
from deepcuts.components.plan import placing


def decide(place: dict[str, Any], placed: dict[str, Path]) -> Facts:
    """Write ``place`` to the files of the outputs."""
    placing.leave(placed, place)
    return {}


if __name__ == "__main__":
    cli.main(decide)
