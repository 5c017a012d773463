"""Print what an image installs: dependencies of a step, and those of one extra, a line each.

Dockerfiles install these before the code is copied, so that a change of code costs no dependency layer.
"""

import re
import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extra: str) -> list[str]:
    """Return the requirement lines of the project with ``extra``, less what only the command needs."""
    read = tomllib.loads(pyproject.read_text())
    project, left_out = read["project"], set(read["tool"]["deepcuts"]["command-only"])
    kept = [line for line in project["dependencies"] if re.split(r"[^\w.-]", line)[0] not in left_out]
    lines: list[str] = kept + project["optional-dependencies"][extra]
    return lines


if __name__ == "__main__":
    print("\n".join(requirements(Path("pyproject.toml"), sys.argv[1])))
