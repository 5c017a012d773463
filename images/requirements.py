"""Print what an image installs: the project's dependencies and those of one extra, a line each.

Dockerfiles install these before the code is copied, so that a change of code costs no dependency layer.
"""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extra: str) -> list[str]:
    """Return the requirement lines of the project with ``extra``."""
    project = tomllib.loads(pyproject.read_text())["project"]
    lines: list[str] = project["dependencies"] + project["optional-dependencies"][extra]
    return lines


if __name__ == "__main__":
    print("\n".join(requirements(Path("pyproject.toml"), sys.argv[1])))
