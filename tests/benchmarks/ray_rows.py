"""Rows a second of select on this process and on Ray with one and two workers, and that all cut the same.

    python -m tests.benchmarks.ray_rows [--rows 200000] [--repeats 1] [--ways local ray-1 ray-2]

Rows are those of ``duplicates.py``: a fifth are copies, and every hundredth is held out. Ways alternate. Each
is a process of its own, whose wall time has the start of Python and of Ray in it. On two cores a second
worker shares them with the process that selects. Prints Markdown; ends with 1 if an output differs.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from deepcuts.components.core import examples, files
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.training import models, stored_lengths
from tests.benchmarks.duplicates import BASE, corpus

OUTPUTS = ("cut", "dropped", "report")
WAYS = ("local", "ray-1", "ray-2")
SETTINGS: dict[str, object] = {
    "method": "random",
    "near-threshold": 0.7,
    "word-threshold": 0.8,
    "semantic-threshold": 1.0,
    "embedder-uri": "",
    "ray-image": "",
    "nodepools": '{"pools": []}',
    "seed": 0,
}


def write(folder: Path, count: int) -> None:
    """Write ``corpus``, ``valid`` and ``test``; rows have three labels or none, and their length."""
    texts, _ = corpus(count, 0)
    drawn = random.Random(1)
    records = [
        Example(
            id=str(number),
            messages=(Message("user", text), Message("assistant", "yes" * drawn.randint(1, 3))),
            label=drawn.choice(["a", "b", "c", None]),
        )
        for number, text in enumerate(texts)
    ]
    lengths = stored_lengths.lengths(records, models.load_tokenizer(BASE))
    records = [
        msgspec.structs.replace(record, tokens=length)
        for record, length in zip(records, lengths, strict=True)
    ]
    examples.write(folder / "corpus", records)
    examples.write(folder / "valid", records[::200])
    examples.write(folder / "test", records[100::200])


def measured(folder: Path, way: str, count: int) -> tuple[float, dict[str, str]]:
    """(wall seconds, SHA-256 by output) of one selection."""
    engine, _, workers = way.partition("-")
    cluster = json.dumps({"workers": int(workers or 1)})
    flags = SETTINGS | {"engine": engine, "ray": cluster, "store": (folder / "store").as_uri()}
    flags |= {"base": BASE, "budget-tokens": count * 20}
    flags |= {name: folder / name for name in ("corpus", "valid", "test")}
    flags |= {name: folder / way / name for name in OUTPUTS}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    begun = time.monotonic()
    command = [sys.executable, "-m", "deepcuts.components.select.step", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return time.monotonic() - begun, {name: files.digest(folder / way / name) for name in OUTPUTS}


def main() -> int:
    """Measure every way and print a row of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {way: [] for way in given.ways}
    digests: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch), given.rows)
        for _ in range(given.repeats):
            for way in given.ways:
                took, made = measured(Path(scratch), way, given.rows)
                seconds[way].append(took)
                digests.append(made)
                print(f"{way}: {took:.1f} s, cut {made['cut'][:12]}", file=sys.stderr, flush=True)
    print(f"| {given.rows:,} rows | wall s, median (spread) | rows/s | outputs as the first way's |")
    print("|--|--:|--:|--|")
    for number, way in enumerate(given.ways):
        took = statistics.median(seconds[way])
        same = all(made == digests[0] for made in digests[number :: len(given.ways)])
        spread = f"{min(seconds[way]):.1f} to {max(seconds[way]):.1f}"
        print(f"| {way} | {took:.1f} ({spread}) | {given.rows / took:,.0f} | {'yes' if same else 'NO'} |")
    return int(any(made != digests[0] for made in digests))


if __name__ == "__main__":
    sys.exit(main())
