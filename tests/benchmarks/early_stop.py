"""Early stopping by a watcher on a run that overfits: tokens saved, and what that does to quality.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.early_stop --base MODEL \\
        --train EXAMPLES --valid EXAMPLES --test EXAMPLES

For each seed the same training runs to its end, and again beside the step ``watch``, which stops it by
the valid split. Both models are then scored on the test split, which decided nothing. Prints one JSON line a
seed and one with the paired comparison over seeds and examples (positive: the stopped model is worse).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from deepcuts.components.core import examples, scorecards
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.core.scorecards import Score
from deepcuts.components.training import models, scoring
from deepcuts.components.training.losses import CompletionLoss

MARGIN_NATS = 0.03
"""As the pipelines' default."""


class EarlyStopInputs(NamedTuple):
    base: Path
    train: Path
    valid: Path
    test: Path
    recipe: Recipe
    patience: int


def start(step: str, folder: Path, flags: dict[str, object]) -> subprocess.Popen[bytes]:
    out = folder / step
    given = flags | {"curve": out / "curve.jsonl", "receipt": out / "receipt.json"}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return subprocess.Popen(
        [sys.executable, "-m", f"deepcuts.components.{step}.step", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def trained(inputs: EarlyStopInputs, folder: Path, watched: bool) -> tuple[dict[str, Any], list[Score]]:
    """(facts of finetune, scores on the test split) of one run; ``watched`` also ends the watcher."""
    shared: dict[str, object] = {
        "base": inputs.base,
        "train": inputs.train,
        "valid": inputs.valid,
        "store": (folder / "store").as_uri(),
        "recipe": msgspec.json.encode(inputs.recipe).decode(),
    }
    watch = {
        "scores": folder / "scores",
        "patience": inputs.patience,
        "poll-seconds": 0.3,
        "stale-seconds": 300,
    }
    running = [start("watch", folder, shared | watch)] if watched else []
    running.append(start("finetune", folder, shared | {"model": folder / "model"}))
    if any(process.wait(1800) for process in running):
        raise RuntimeError(f"a step failed in {folder}: run it by hand")
    facts = json.loads((folder / "finetune" / "receipt.json").read_text())["facts"]
    return facts, score(inputs, folder / "model")


def score(inputs: EarlyStopInputs, model: Path) -> list[Score]:
    network, tokenizer = models.load(model, inputs.base)
    records = examples.read(inputs.test)
    nats = scoring.answer_nats(CompletionLoss(network), scoring.render_all(records, tokenizer))
    return [Score(r.id, total, count) for r, (total, count) in zip(records, nats, strict=True)]


def compare(inputs: EarlyStopInputs, seeds: int) -> dict[str, Any]:
    """Every seed's pair of runs, and what they say together."""
    stopped_scores, full_scores, lines = [], [], []
    for seed in range(seeds):
        mine = inputs._replace(recipe=msgspec.structs.replace(inputs.recipe, seed=seed))
        with tempfile.TemporaryDirectory(prefix="early-stop-") as scratch:
            full, of_full = trained(mine, Path(scratch) / "full", watched=False)
            stopped, of_stopped = trained(mine, Path(scratch) / "stopped", watched=True)
        full_scores.append(of_full)
        stopped_scores.append(of_stopped)
        lines.append(
            {
                "seed": seed,
                "stopped": stopped["stopped_early"],
                "full_tokens": full["total_tokens"],
                "stopped_tokens": stopped["total_tokens"],
                "tokens_saved_share": round(1 - stopped["total_tokens"] / full["total_tokens"], 4),
                "best_step": stopped.get("best_step"),
                "steps": [stopped["steps"], full["steps"]],
                "lag_tokens": stopped.get("stop_lag_tokens"),
                "full_loss": round(pooled(of_full), 4),
                "stopped_loss": round(pooled(of_stopped), 4),
            }
        )
        print(json.dumps(lines[-1]), flush=True)
    compared = scorecards.compare(stopped_scores, full_scores, "completion_loss", MARGIN_NATS, seed=0)
    saved = sorted(line["tokens_saved_share"] for line in lines)
    return {
        "seeds": seeds,
        "tokens_saved_share": [saved[len(saved) // 2], saved[0], saved[-1]],
        "worse_by": round(compared.worse_by, 4),
        "interval_90": [round(compared.low, 4), round(compared.high, 4)],
        "examples": compared.examples,
        "non_inferior": compared.non_inferior,
    }


def pooled(scores: list[Score]) -> float:
    return sum(s.answer_nats for s in scores) / sum(s.answer_tokens for s in scores)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "train", "valid", "test"):
        flags.add_argument(f"--{name}", type=Path, required=True)
    flags.add_argument("--seeds", type=int, default=3)
    flags.add_argument("--patience", type=int, default=3)
    flags.add_argument("--budget-tokens", type=int, default=400_000)
    given = flags.parse_args()
    recipe = Recipe(
        method="full",
        learning_rate=2e-3,
        schedule="constant",
        budget_tokens=given.budget_tokens,
        tokens_per_step=4096,
        micro_batch_size=4,
        compile="off",
        save_every_seconds=1.0,
    )
    inputs = EarlyStopInputs(given.base, given.train, given.valid, given.test, recipe, given.patience)
    print(json.dumps(compare(inputs, given.seeds)))


if __name__ == "__main__":
    main()
