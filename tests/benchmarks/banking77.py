"""banking77 for the benchmarks: examples drawn from its files, which are sorted by label.

    python -m tests.benchmarks.banking77 --listed FILE.csv

With ``--listed`` its training file again, each question after an instruction that lists the 77 labels.
"""

import argparse
import csv
import json
import random
from pathlib import Path

from deepcuts.components.core import examples
from deepcuts.components.core.examples import Example, Message
from tests.conftest import SHARED

BANKING77 = SHARED / "banking77"


def write(path: Path, split: str, count: int) -> Path:
    """Write ``count`` examples of ``split`` (train, test), the same ones each time."""
    rows = read(split)
    drawn = random.Random(0).sample(range(len(rows)), min(count, len(rows)))
    examples.write(path, [_example(f"{split}-{i}", rows[i]["text"], rows[i]["category"]) for i in drawn])
    return path


def read(split: str) -> list[dict[str, str]]:
    """Return the rows of ``split``: text, category."""
    with (BANKING77 / f"{split}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def instruction() -> str:
    """Return a prompt's beginning that lists all labels."""
    labels = json.loads((BANKING77 / "categories.json").read_text())
    return f"Which of these does the customer ask about: {', '.join(labels)}?\n"


def _example(name: str, question: str, label: str) -> Example:
    return Example(name, (Message("user", question), Message("assistant", label)), label=label)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--listed", type=Path, required=True)
    asked = instruction()
    with flags.parse_args().listed.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "category"])
        writer.writeheader()
        writer.writerows(row | {"text": asked + row["text"]} for row in read("train"))


if __name__ == "__main__":
    main()
