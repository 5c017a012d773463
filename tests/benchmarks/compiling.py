"""Does torch.compile pay? Whole runs of finetune, eager and compiled.

    python -m tests.benchmarks.compiling [--pairs 3] [--budget-tokens 1500000] [--method lora] [--way auto]
    python -m tests.benchmarks.compiling --steps

The bundled base (width 128, 5 blocks) on the bundled conversations. Each run is a process with one thread and
an empty compile cache; the two of a pair alternate, or with `--together` run at once, on a core each. Cost is
the CPU time of the whole process: its start, compiling and all. Prints one JSON line a run, and medians.
With ``--steps`` what a step takes, by the trial that ``compile: on`` makes; several models, random weights.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoTokenizer

from deepcuts.components.core import examples
from deepcuts.components.core.recipe import Recipe, parse
from deepcuts.components.core.store import open_store
from deepcuts.components.training import adapters, loop, scoring
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered
from tests.benchmarks.ingested import ingested
from tests.conftest import ROOT
from tests.training import tiny

BUNDLED = ROOT / "pipelines" / "examples"
LONG = {"vocab_size": 1024, "max_position_embeddings": 512}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    f"llama-{width}": (
        "llama",
        LONG | {"hidden_size": width, "intermediate_size": width * 11 // 4, "num_hidden_layers": 5},
    )
    for width in (64, 128, 256)
} | {
    "qwen3-128": ("qwen3", LONG | {"hidden_size": 128, "intermediate_size": 352, "head_dim": 32}),
    "gpt2-128": ("gpt2", {"vocab_size": 1024, "n_embd": 128, "n_layer": 4, "n_positions": 512}),
}


def conversations(folder: Path) -> Path:
    """The bundled corpus as Examples to train on."""
    raw, base = BUNDLED / "support.jsonl", BUNDLED / "base"
    shares = {"valid_share": 0.0, "test_share": 0.0, "max_bad_share": 0.05}
    return ingested(raw, base, folder, 256, **shares)["train"]


def run(folder: Path, train: Path, **recipe: Any) -> dict[str, Any]:
    """The receipt of one finetune."""
    folder.mkdir(parents=True)
    flags = {
        "base": BUNDLED / "base",
        "train": train,
        "valid": train.with_name("valid"),
        "model": folder / "model",
        "curve": folder / "curve.jsonl",
        "store": (folder / "store").as_uri(),
        "recipe": json.dumps({"learning_rate": 5e-3, "seq_len": 512} | recipe),
        "receipt": folder / "receipt.json",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    cold = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    command = [sys.executable, "-m", "deepcuts.components.finetune.step", *words]
    subprocess.run(command, env=os.environ | cold, check=True, stderr=subprocess.DEVNULL)
    receipt: dict[str, Any] = json.loads((folder / "receipt.json").read_text())
    return receipt


def trained(
    kind: str, shape: dict[str, Any], data: Sequence[Rendered], recipe: Recipe
) -> loop.TrainingOutcome:
    """A run in this process, from random weights."""
    loss = CompletionLoss(adapters.adapt(tiny.model(kind, **shape), recipe, torch.device("cpu")))
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints = Checkpoints(open_store(Path(scratch).as_uri()), "benchmark", 1)
        return loop.train(loss, data, recipe, Accelerator(cpu=True), checkpoints, say=lambda _: None)


def step_ratios() -> None:
    """One JSON line a model and method: seconds of a step, medians of pairs in turn; one thread."""
    torch.set_num_threads(1)
    once = {"learning_rate": 1e-3, "tokens_per_step": 4096, "budget_tokens": 4096, "compile": "on"}
    with tempfile.TemporaryDirectory(prefix="compiling-") as scratch:
        tokenizer = AutoTokenizer.from_pretrained(BUNDLED / "base")
        data = scoring.render_all(examples.read(conversations(Path(scratch))), tokenizer)
        for name, (kind, shape) in SHAPES.items():
            for method in ("full", "lora"):
                torch._dynamo.reset()
                outcome = trained(kind, shape, data, parse(once | {"method": method}))
                print(json.dumps({"model": name, "method": method} | outcome.compile.facts()), flush=True)


def told(name: str, receipt: dict[str, Any]) -> None:
    facts = receipt["facts"]
    wanted = ("cut_compile", "train_cpu_seconds", "compile_seconds", "break_even_steps", "last_loss", "steps")
    line = {"run": name, "cpu_seconds": round(receipt["cpu_seconds"], 1)} | {n: facts[n] for n in wanted}
    print(json.dumps(line), flush=True)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--pairs", type=int, default=3)
    flags.add_argument("--budget-tokens", type=int, default=1_500_000)
    flags.add_argument("--method", default="lora")
    flags.add_argument("--batch-tokens", type=int, default=4096)
    flags.add_argument("--way", choices=("on", "auto"), default="on")
    flags.add_argument("--together", action="store_true")
    flags.add_argument("--steps", action="store_true")
    given = flags.parse_args()
    if given.steps:
        return step_ratios()
    same = {name: getattr(given, name) for name in ("method", "tokens_per_step", "budget_tokens")}
    ratios: list[float] = []
    with tempfile.TemporaryDirectory(prefix="compiling-") as scratch:
        train = conversations(Path(scratch))
        for pair in range(given.pairs):
            ways = ("off", given.way) if pair % 2 == 0 else (given.way, "off")
            with ThreadPoolExecutor(2 if given.together else 1) as pool:
                receipts = {
                    way: pool.submit(
                        run, Path(scratch) / f"{way}-{pair}", train, seed=pair, compile=way, **same
                    )
                    for way in ways
                }
            done = {way: receipt.result() for way, receipt in receipts.items()}
            for way in ways:
                told(f"{way} {pair}", done[way])
            ratios.append(done[given.way]["cpu_seconds"] / done["off"]["cpu_seconds"])
    print(json.dumps({"compiled_over_eager_cpu": [statistics.median(ratios), min(ratios), max(ratios)]}))


if __name__ == "__main__":
    main()
