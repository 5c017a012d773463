"""Write components as folders for kubeflow/pipelines-components, generated from their signatures.

Each is self-contained: image and command are literals, so nothing of deepcuts is imported there.
That repository's rules are in ``tests/pipelines/test_catalogue.py``.
"""

import argparse
import datetime
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from deepcuts.components.core import clock, container, files
from deepcuts.pipelines.kubeflow import catalogue_texts
from deepcuts.pipelines.kubeflow.catalogue_texts import CatalogueEntry

CATEGORIES = {
    "data_processing": ("fetch_model", "ingest", "select", "curriculum"),
    "training": ("plan", "finetune", "warmstart", "distill", "prune", "tune", "tune_katib", "retrain"),
    "evaluation": ("evaluate", "watch", "accept"),
    "deployment": ("quantize",),
}
"""Our components by folder of that repository: the twelve cuts' and those they depend on."""
HANDLE = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*")
MAX_AGE_DAYS = 365
"""Their checks refuse components verified earlier."""


def entries() -> list[CatalogueEntry]:
    """Return every component of the catalogue."""
    found = []
    for category, names in CATEGORIES.items():
        for name in names:
            folder = name.partition("_")[0] if name.startswith("fetch") else name
            face = getattr(importlib.import_module(f"deepcuts.components.{folder}.component"), name)
            found.append(CatalogueEntry(name, category, face))
    return found


def check(owners: Sequence[str], verified: str, registry: str, today: datetime.date) -> None:
    """Check the values that only a person knows.

    Raises:
        ValueError: everything missing or wrong, one per line.
    """
    found = [f"OWNERS: {owner!r} is no GitHub handle" for owner in owners if not HANDLE.fullmatch(owner)]
    if not owners:
        found.append("OWNERS: missing: each folder names at least one approver: OWNERS=handle,handle")
    try:
        age = (today - datetime.date.fromisoformat(verified)).days
        if not 0 <= age < MAX_AGE_DAYS:
            found.append(f"VERIFIED: {verified} is {age} days ago: give a day of the last {MAX_AGE_DAYS}")
    except ValueError:
        found.append(
            f"VERIFIED: {verified!r} is no date: give the day on which these images last ran on Kubeflow "
            f"Pipelines: VERIFIED=YYYY-MM-DD"
        )
    if registry.partition("/")[0].partition(":")[0] in ("localhost", "127.0.0.1"):
        found.append(f"REGISTRY: nobody else reaches {registry}: REGISTRY=ghcr.io/kubeflow/… TAG=…")
    if found:
        raise ValueError("\n".join(found))


def write(to: Path, owners: Sequence[str], verified: str) -> list[Path]:
    """Write ``to`` atomically; return the folders of its components."""
    made = []
    with files.staged(to) as staging:
        for entry in entries():
            made.append(Path("components", entry.category, entry.name))
            for name, text in catalogue_texts.folder(entry, owners, verified).items():
                path = staging / made[-1] / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    return [to / folder for folder in made]


def main(argv: Sequence[str]) -> int:
    """Write the catalogue from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="catalogue", description=__doc__)
    parser.add_argument("--owners", required=True, help="GitHub handles of approvers, comma-separated")
    parser.add_argument("--verified", required=True, help="day on which it last ran on Kubeflow Pipelines")
    parser.add_argument("--to", type=Path, required=True, help="folder to write")
    given = parser.parse_args(argv)
    owners = [owner for owner in re.split(r"[,\s]+", given.owners) if owner]
    try:
        check(owners, given.verified, container.REGISTRY, clock.now().date())
    except ValueError as error:
        print(f"catalogue: {error}".replace("\n", "\ncatalogue: "), file=sys.stderr)
        return 2
    for folder in write(given.to, owners, given.verified):
        print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
