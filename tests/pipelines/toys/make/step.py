"""A toy step: write down what arrived in argv."""

import json
from pathlib import Path
from typing import Any

from deepcuts.components.core import cli, files
from deepcuts.components.core.receipts import Facts


def make(
    out: Path, text: str, number: int, rate: float, flag: bool, words: list[str], config: dict[str, Any]
) -> Facts:
    """Write every value to ``out``."""
    values = {"text": text, "number": number, "rate": rate, "flag": flag, "words": words, "config": config}
    with files.staged(out) as staging:
        staging.write_text(json.dumps(values))
    return {"count": len(words), "tokens": 7}


if __name__ == "__main__":
    cli.main(make)
