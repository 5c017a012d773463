"""What this project does on a GPU, in one command for a person who has one.

    python -m tests.benchmarks.gpu [--minutes 8] [--folder build/gpu]
    python -m tests.benchmarks.gpu --dry [--minutes 8]      # on a CPU: see that it starts

Each CUDA path once, by the finetune step itself on a tiny model; then training SmolLM2-135M-Instruct in
several ways, what ``plan`` predicts of each, and TRL's SFTTrainer at equal settings. Needs a clone with the
extras train, cuda and dev. SmolLM2 is made first where it is not there, which takes a minute and the package
registry. Nothing starts that would not end in time; a case that fails is a row with its last message. Writes
gpu.json and gpu.md after each case.
"""

import argparse
import importlib.metadata
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from deepcuts.components.core import cli, clock, recipe
from tests.benchmarks.gpu import page, prepare, processes
from tests.benchmarks.gpu.cases import MEMORY_CASE, Case, cases, why_left_out
from tests.benchmarks.gpu.processes import Data
from tests.conftest import ROOT

PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl", "bitsandbytes", "liger-kernel")
NO_DEVICE = (
    "no CUDA device: run it where torch sees one (a CUDA build and its driver), or give --dry for this CPU"
)
LID = 0.75
"""Of what a run needs with all its rows: too little for them, enough for half."""


class GpuBenchmark:
    """One run of the command: what it has found so far, and the time that is left."""

    def __init__(
        self,
        folder: Path,
        base: Path,
        minutes: float,
        tokens: int,
        device: dict[str, Any] | None,
        began: float,
    ) -> None:
        self._ends, self._began = began + 60 * minutes, began
        self._folder, self._device, self._dry = folder, device, device is None
        self._rows: list[dict[str, Any]] = []
        self._lacks = {"path": "", "arm": "", "peer": ""}
        train, valid = prepare.write_examples(folder, 200 if self._dry else 1500)
        self._tiny = Data(prepare.TINY, train, valid)
        self._own = self._tiny if self._dry else Data(base, train, valid)
        self._pool = prepare.pool(device, folder)
        self._answer_share: dict[Path, float] = {}
        self._about = {
            "dry": self._dry,
            "date": clock.utc(),
            "minutes": minutes,
            "tokens": tokens,
            "device": device or {"name": "a CPU"},
            "versions": {name: version(name) for name in PACKAGES},
            "tiny": prepare.TINY.name,
            "base": self._own.base.name,
            "pool": self._pool.accelerator_model or self._pool.name,
        }

    @property
    def left_seconds(self) -> float:
        return self._ends - time.monotonic()

    @property
    def failed(self) -> bool:
        return any(row["ended"] == "failed" for row in self._rows)

    def prepare(self) -> None:
        """Make the base of arms and peers; where that fails they are left out, and the paths go on."""
        if self._dry:
            return
        ended = prepare.make_base(self._own.base, self._folder / "make.log", self.left_seconds / 2)
        if ended and ended.code != 0:
            self._lacks["arm"] = self._lacks["peer"] = f"no SmolLM2: {ended.last_line}"

    def take(self, case: Case) -> None:
        """Run a case, or say why not; the files are written again."""
        done = [row for row in self._rows if row["ended"] != "left out"]
        lacks = self._lacks[case.part] or self._lacks_before(case)
        why = why_left_out(case, self.left_seconds, done, not self._dry, lacks)
        if why:
            row = {"part": case.part, "name": case.name, "ended": "left out", "message": why}
        else:
            row = self._run(case)
        self._rows.append(row)
        print(f"{case.part}, {case.name}: {row['ended']} {row['message']}".rstrip(), flush=True)
        self.write()

    def write(self) -> None:
        """Write gpu.json and gpu.md."""
        found = self._about | {"seconds": round(time.monotonic() - self._began, 1), "rows": self._rows}
        cli.write_json(self._folder / "gpu.json", found)
        (self._folder / "gpu.md").write_text(page.markdown(found), encoding="utf-8")

    def _run(self, case: Case) -> dict[str, Any]:
        folder = (
            self._folder / "cases" / "".join(c if c.isalnum() else "-" for c in f"{case.part} {case.name}")
        )
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        data, wanted = self._tiny if case.part == "path" else self._own, recipe.parse(case.recipe)
        predicted = None
        if case.part != "path":
            wanted, predicted = prepare.predict(data.base, wanted, self._pool, self._share(data))
        if case.part == "peer":
            row = processes.peer(case, wanted, data, folder, self.left_seconds, self._dry)
        else:
            cap = self._peak() * LID / self._device["memory_bytes"] if self._device else 1.0
            row = processes.finetune(case, wanted, data, folder, self.left_seconds, self._dry, cap)
        if predicted and case.part == "arm":
            row["predicted"] = prepare.compared(predicted, row.get("steps"))
        for name in ("model", "store"):  # all weights with Adam's state are 2 GB an arm
            shutil.rmtree(folder / name, ignore_errors=True)
        return row

    def _lacks_before(self, case: Case) -> str:
        return f"needs the peak of {MEMORY_CASE!r}" if case.way == "capped" and not self._peak() else ""

    def _peak(self) -> int:
        """Return the measured peak of the case that takes all its rows at once; 0 where there is none."""
        peaks = [row.get("peak_device_bytes") for row in self._rows if row["name"] == MEMORY_CASE]
        return int(peaks[0] or 0) if peaks else 0

    def _share(self, data: Data) -> float:
        if data.base not in self._answer_share:
            self._answer_share[data.base] = prepare.answer_share(data)
        return self._answer_share[data.base]


def version(package: str) -> str | None:
    """Return the installed version of a package; None where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main(argv: list[str] | None = None) -> int:
    """Run what fits into the time; returns 3 without a CUDA device, else 1 where a case failed."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--minutes", type=float, default=8.0)
    flags.add_argument("--dry", action="store_true", help="on a CPU with the bundled tiny base")
    flags.add_argument("--folder", type=Path, default=ROOT / "build" / "gpu")
    flags.add_argument(
        "--base", type=Path, default=prepare.SMOLLM2, help="of the arms; SmolLM2 where it is not there"
    )
    flags.add_argument("--only", default="", help="cases with this in part or name: arm, peer, FSDP")
    flags.add_argument("--tokens", type=int, default=0, help="of each arm; default 200,000, dry 2,000")
    given, began = flags.parse_args(argv), time.monotonic()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    device = None if given.dry else processes.device(folder)
    if not (given.dry or device):
        print(NO_DEVICE, file=sys.stderr)
        return 3
    tokens = given.tokens or (2_000 if given.dry else 200_000)
    bench = GpuBenchmark(folder, given.base.resolve(), given.minutes, tokens, device, began)
    bench.prepare()
    for case in cases(tokens, given.dry):
        if given.only in f"{case.part} {case.name}":
            bench.take(case)
    print(folder / "gpu.md")
    return int(bench.failed)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
