"""Seconds and peak memory of ingest over generated rows, which must not grow with them.

    python -m tests.benchmarks.ingest_rows [--sizes 10000 100000 1000000] [--shape chat|text]

Each size is a process of its own, with the bundled base's tokenizer. Memory is the proportional share
(PSS) of ingest and its workers together, looked at twice a second. Prints Markdown.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

BASE = Path(__file__).parents[2] / "pipelines" / "examples" / "base"
OUTPUTS = ("train", "valid", "test", "labels", "quarantine", "preview", "page", "receipt")
SETTINGS = {
    "format": "auto",
    "columns": "{}",
    "config": "",
    "valid-share": "0.05",
    "test-share": "0.1",
    "max-bad-share": "0.001",
    "fold-system": "false",
    "max-tokens": "256",
    "engine": "local",
    "ray": "{}",
    "ray-image": "",
    "nodepools": '{"pools": []}',
    "store": "",
    "seed": "0",
}
LOOK_SECONDS = 0.5


def rows(count: int, shape: str) -> Iterator[dict[str, object]]:
    """Tickets of about twenty tokens, no two alike."""
    drawn = random.Random(0)
    for number in range(count):
        thing = drawn.choice(("laptop", "badge", "printer", "phone", "screen", "chair"))
        asked = f"Ticket {number}: my {thing} is broken, room {drawn.randint(1, 999)}."
        said = f"We look at your {thing}."
        chat = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        yield {"messages": chat} if shape == "chat" else {"text": asked}


def processes(parent: int) -> Iterator[int]:
    """A process and all below it."""
    yield parent
    try:
        below = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return
    for child in below:
        yield from processes(int(child))


def pss_bytes(process: int) -> int:
    """Memory of a process, shared pages divided among those that share them; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measured(count: int, shape: str) -> tuple[float, float, int]:
    """(wall seconds, CPU seconds, peak bytes) of one run of ingest."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with (folder / "train.jsonl").open("w") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows(count, shape))
        argv = [sys.executable, "-m", "deepcuts.components.ingest.step", "--raw", str(folder / "train.jsonl")]
        argv += ["--base", str(BASE), *(w for n in OUTPUTS for w in (f"--{n}", str(folder / "out" / n)))]
        argv += [word for name, value in SETTINGS.items() for word in (f"--{name}", value)]
        before, begun, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), 0
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as step:
            while step.poll() is None:
                peak = max(peak, sum(map(pss_bytes, processes(step.pid))))
                time.sleep(LOOK_SECONDS)
        if step.returncode:
            raise SystemExit(f"ingest ended with {step.returncode} on {count:,} rows")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return time.monotonic() - begun, cpu, peak


def main() -> None:
    """Measure each size and print a row of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--shape", choices=("chat", "text"), default="chat")
    given = parser.parse_args()
    print("| rows | wall s | CPU s | peak MB |\n|---|---|---|---|")
    for count in given.sizes:
        wall, cpu, peak = measured(count, given.shape)
        print(f"| {count:,} | {wall:.0f} | {cpu:.0f} | {peak / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
