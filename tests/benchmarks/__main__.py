"""Run every benchmark, or those that are named; what each prints stays in a folder.

    python -m tests.benchmarks [NAME ...] [--short] [--folder build/benchmarks]

One after another, a thread each; all of them take most of a day. ``--short`` takes the smallest settings, of
which nothing follows but that they run. What is done is not run again: delete its file. The data are those of
``make data``; a benchmark whose peers are not installed is left out, with the command that installs them.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import gsm8k
from tests.conftest import ROOT, SHARED
from tests.public_data import missing


class Benchmark(NamedTuple):
    """Words of one benchmark; ``{train}`` and the like stand for what ``places`` makes."""

    words: str = ""
    short: str = ""
    """More words that make it short."""
    needs: tuple[str, ...] = ()
    """Packages that are no dependency."""


GSM8K = "--base {base} --train {train}"
BENCHMARKS = {
    "compiling": Benchmark("--way auto", "--pairs 1 --budget-tokens 20000"),
    "compression": Benchmark(
        GSM8K + " --test {test} --folder {folder}/compression", "--tokens 4000 --heal-tokens 2000"
    ),
    "duplicates": Benchmark("", "--rows 2000 --repeats 1", ("datasketch", "semhash")),
    "early_stop": Benchmark(GSM8K + " --valid {valid} --test {test}", "--seeds 1 --budget-tokens 20000"),
    "hours": Benchmark(),
    "ingest_rows": Benchmark("", "--sizes 1000"),
    "prefixes": Benchmark("--base {base} --data gsm8k", "--examples 4 --repeats 1"),
    "ray_rows": Benchmark("", "--rows 500", ("ray",)),
    "retraining": Benchmark("--data {data}", "--seeds 1"),
    "search": Benchmark(
        "--base {base} --data {data}/gsm8k --folder {folder}/search", "--seeds 1 --units 9 --rates 1"
    ),
    "stall": Benchmark(GSM8K + " --valid {valid}", "--pairs 1 --budget-tokens 20000"),
    "throughput": Benchmark(GSM8K + " --test {test}", "--pairs 1 --budget-tokens 4000", ("trl",)),
    "warmstart": Benchmark("", "--seeds 1 --budget-tokens 4000"),
}


def command(name: str, short: bool, places: dict[str, Path]) -> list[str]:
    """Return the argv of a benchmark."""
    chosen = BENCHMARKS[name]
    words = f"{chosen.words} {chosen.short if short else ''}".split()
    return [sys.executable, "-m", f"tests.benchmarks.{name}", *(word.format(**places) for word in words)]


def places(folder: Path) -> dict[str, Path]:
    """Write short examples of GSM8K into ``folder``; returns what words of a benchmark stand for."""
    split = {
        "train": gsm8k.write(folder / "train.jsonl", "train", 1000),
        "valid": gsm8k.write(folder / "valid.jsonl", "train", 60, skip=1000),
        "test": gsm8k.write(folder / "test.jsonl", "test", 100),
    }
    return split | {"base": gsm8k.BASE, "data": SHARED, "folder": folder}


def main() -> int:
    """Run them; returns 3 where something is missing, else 1 where one failed."""
    parser = argparse.ArgumentParser(description="Run the benchmarks one after another.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(BENCHMARKS))
    parser.add_argument("--short", action="store_true", help="only see that they run")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in BENCHMARKS]:
        parser.error(f"{unknown[0]} is no benchmark: give {', '.join(BENCHMARKS)}")
    names, folder = given.names or list(BENCHMARKS), given.folder.resolve()
    if lacks := missing(SHARED):
        print(
            f"{len(lacks)} data files are not in {SHARED}, first {next(iter(lacks))}: make data",
            file=sys.stderr,
        )
        return 3
    folder.mkdir(parents=True, exist_ok=True)
    made, code = places(folder), 0
    for name in names:
        log, done = folder / f"{name}.part", folder / f"{name}{'.short' if given.short else ''}.txt"
        if done.exists():
            print(f"{name}: done, {done}")
            continue
        if lacks := [one for one in BENCHMARKS[name].needs if not importlib.util.find_spec(one)]:
            print(f"{name}: left out, its peers are missing: .venv/bin/pip install {' '.join(lacks)}")
            code = 3
            continue
        start = time.monotonic()
        with log.open("w") as out:
            argv = command(name, given.short, made)
            ended = subprocess.run(argv, cwd=ROOT, stdout=out, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if ended.returncode == 0:
            log.replace(done)
        code = code or int(ended.returncode != 0)
        word = f"exit code {ended.returncode}, {log}" if ended.returncode else done
        print(f"{name}: {(time.monotonic() - start) / 60:.1f} min, {word}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
