"""banking77 for the benchmarks: examples drawn from its files, which are sorted by label."""

import csv
import random
from pathlib import Path

from deepcuts.components.core import examples
from deepcuts.components.core.examples import Example, Message
from tests.conftest import SHARED

BANKING77 = SHARED / "banking77"


def write(path: Path, split: str, count: int) -> Path:
    """Write ``count`` examples of ``split`` (train, test), the same ones each time."""
    with (BANKING77 / f"{split}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    drawn = random.Random(0).sample(range(len(rows)), min(count, len(rows)))
    examples.write(path, [_example(f"{split}-{i}", rows[i]["text"], rows[i]["category"]) for i in drawn])
    return path


def _example(name: str, question: str, label: str) -> Example:
    return Example(name, (Message("user", question), Message("assistant", label)), label=label)
