"""Short examples of GSM8K for the benchmarks: what a base of 260,032 weights can read in one row."""

import json
from pathlib import Path

from deepcuts.components.core import examples
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.training import models, scoring
from tests.conftest import SHARED

BASE, GSM8K = SHARED / "models" / "stories260K", SHARED / "gsm8k"
LONGEST = 257
"""Tokens, as in docs/DESIGN.md, Equal quality."""


def write(path: Path, split: str, count: int, skip: int = 0) -> Path:
    """``count`` examples of at most ``LONGEST`` tokens from ``split`` (train, test), in its order."""
    tokenizer = models.load_tokenizer(BASE)
    found: list[Example] = []
    for number, line in enumerate((GSM8K / f"{split}.jsonl").read_text().splitlines()):
        row = json.loads(line)
        messages = (Message("user", row["question"]), Message("assistant", row["answer"]))
        example = Example(f"{split}-{number}", messages)
        if len(scoring.render_all([example], tokenizer)[0].ids) <= LONGEST:
            found.append(example)
        if len(found) == skip + count:
            break
    examples.write(path, found[skip:])
    return path
