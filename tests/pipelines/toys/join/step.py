"""A toy step: put files together that come by name in one JSON object, as the ledger takes its receipts."""

import os
from pathlib import Path

from deepcuts.components.core import cli
from deepcuts.components.core.receipts import Facts


def join(parts: dict[str, str], out: Path) -> Facts:
    """Write ``name=content`` lines of ``parts`` (paths by name) and the pool it ran for to ``out``."""
    lines = [f"{name}={Path(path).read_text()}" for name, path in parts.items()]
    out.write_text("\n".join([*lines, f"pool={os.environ['DEEPCUTS_POOL']}"]))
    return {"parts": len(lines)}


if __name__ == "__main__":
    cli.main(join)
