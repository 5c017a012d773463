"""Rows a second of select and ingest in this process and on Ray, and that the outputs are the same.

    python -m tests.benchmarks.ray_rows select|ingest [--rows 200000] [--repeats 1] [--ways local ray-1 ray-2]
                                        [--semantic 1.0]

Rows are questions of banking77, two at a time; a fifth are copies with a change, and every hundredth is held
out of a selection. Ways alternate. Each is a process of its own, whose wall time has the
start of Python and of Ray in it. On two cores a second worker shares them with the process that starts it.
Prints Markdown; ends with 1 if an output differs.
"""

import argparse
import csv
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
from tests.benchmarks import banking77
from tests.benchmarks.duplicates import BASE

WAYS = ("local", "ray-1", "ray-2")
OUTPUTS = {
    "select": ("cut", "dropped", "report"),
    "ingest": ("train", "valid", "test", "labels", "quarantine", "preview", "page"),
}
SETTINGS: dict[str, dict[str, object]] = {
    "select": {
        "method": "random",
        "near-threshold": 0.7,
        "word-threshold": 0.8,
        "embedder-uri": "",
        "seed": 0,
    },
    "ingest": {
        "format": "auto",
        "columns": "{}",
        "config": "",
        "valid-share": 0.05,
        "test-share": 0.1,
        "max-bad-share": 0.05,
        "fold-system": "false",
        "max-tokens": 512,
        "seed": 0,
    },
}


def texts(count: int) -> list[str]:
    """Pairs of real questions; a fifth are copies: exact, in capitals, a word changed, longer, reordered."""
    asked = [row["text"] for row in banking77.read("train")]
    drawn = random.Random(0)
    found = [" ".join(drawn.sample(asked, 2)) for _ in range(count - count // 5)]
    for number, text in enumerate(drawn.sample(found, count // 5)):
        words = text.split()
        words[drawn.randrange(len(words))] = str(number)
        changed = (text, text.upper(), " ".join(words), f"{text} Why?", " ".join(reversed(text.split())))
        found.append(changed[number % 5])
    return found


def write_corpus(folder: Path, count: int) -> None:
    """Write ``corpus``, ``valid`` and ``test``; rows have three labels or none, and their length."""
    drawn = random.Random(1)
    records = [
        Example(
            id=str(number),
            messages=(Message("user", text), Message("assistant", "yes" * drawn.randint(1, 3))),
            label=drawn.choice(["a", "b", "c", None]),
        )
        for number, text in enumerate(texts(count))
    ]
    lengths = stored_lengths.lengths(records, models.load_tokenizer(BASE))
    records = [
        msgspec.structs.replace(record, tokens=length)
        for record, length in zip(records, lengths, strict=True)
    ]
    examples.write(folder / "corpus", records)
    examples.write(folder / "valid", records[::200])
    examples.write(folder / "test", records[100::200])


def write_raw(folder: Path, count: int) -> None:
    """Write ``raw``: train in JSON Lines with every hundredth line broken, valid in CSV, test in Parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    raw = folder / "raw"
    raw.mkdir()
    rows = [{"prompt": text, "completion": "yes" * (n % 3 + 1)} for n, text in enumerate(texts(count))]
    with (raw / "train.jsonl").open("w") as out:
        out.writelines(
            (json.dumps(row) if number % 100 else '{"prompt": 1,') + "\n" for number, row in enumerate(rows)
        )
    with (raw / "valid.csv").open("w", newline="") as out:
        table = csv.DictWriter(out, ["prompt", "completion"])
        table.writeheader()
        table.writerows(rows[1::200] + [{"prompt": "", "completion": "no"}])
    parquet.write_table(pa.Table.from_pylist(rows[101::200]), raw / "test.parquet")


WRITE = {"select": write_corpus, "ingest": write_raw}


def measured(
    folder: Path, step: str, way: str, count: int, semantic: float = 1.0
) -> tuple[float, dict[str, str]]:
    """(wall seconds, SHA-256 by output) of one run."""
    engine, _, workers = way.partition("-")
    flags = SETTINGS[step] | {
        "base": BASE,
        "engine": engine,
        "ray": json.dumps({"workers": int(workers or 1)}),
    }
    flags |= {"ray-image": "", "nodepools": '{"pools": []}', "store": (folder / "store").as_uri()}
    if step == "select":
        flags |= {"budget-tokens": count * 20, "semantic-threshold": semantic}
        flags |= {name: folder / name for name in ("corpus", "valid", "test")}
    else:
        flags |= {"raw": folder / "raw"}
    made = {name: folder / way / name for name in OUTPUTS[step]}
    words = [word for name, value in (flags | made).items() for word in (f"--{name}", str(value))]
    begun = time.monotonic()
    command = [sys.executable, "-m", f"deepcuts.components.{step}.step", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return time.monotonic() - begun, {name: files.digest(path) for name, path in made.items()}


def main() -> int:
    """Measure every way and print a row of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=OUTPUTS)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--semantic", type=float, default=1.0, help="semantic threshold; 1: never")
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {way: [] for way in given.ways}
    digests: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        WRITE[given.step](Path(scratch), given.rows)
        for _ in range(given.repeats):
            for way in given.ways:
                took, made = measured(Path(scratch), given.step, way, given.rows, given.semantic)
                seconds[way].append(took)
                digests.append(made)
                print(f"{way}: {took:.1f} s, {made}", file=sys.stderr, flush=True)
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
