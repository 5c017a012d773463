"""Print what an image installs: dependencies of a step, and those of its extras, a line each.

Dockerfiles install these before the code is copied, so that a change of code costs no dependency layer.
"""

import re
import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Return the requirement lines of the project with ``extras``, less what only the command needs."""
    read = tomllib.loads(pyproject.read_text())
    project, left_out = read["project"], set(read["tool"]["deepcuts"]["command-only"])
    kept = [line for line in project["dependencies"] if re.split(r"[^\w.-]", line)[0] not in left_out]
    return kept + [line for extra in extras for line in project["optional-dependencies"][extra]]


if __name__ == "__main__":
    print("\n".join(requirements(Path("pyproject.toml"), sys.argv[1:])))
