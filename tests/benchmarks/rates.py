"""How far the default learning rate is from the best of a range, by task, method and budget.

    python -m tests.benchmarks.rates --base MODEL --data support banking77 gsm8k --folder FOLDER

Each task is trained with the recipe's defaults at the default rate times each factor, one thread, one seed,
and scored on held-out examples. A run is a line of ``FOLDER/rates.jsonl``, not run again. Prints, for each
task, method and budget, the loss at each factor.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import torch

from deepcuts.components.core import examples
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.training import models, rates, scoring
from tests.benchmarks import banking77, gsm8k, throughput
from tests.benchmarks.ingested import ingested
from tests.conftest import ROOT

FACTORS = (1.0, 0.5, 2.0)


def write(folder: Path, task: str, count: int, base: Path) -> tuple[Path, Path]:
    """Write training and ``count`` or more test examples of a task, once; returns the two files."""
    place = folder / task
    train, test = place / "train", place / "test"
    if train.exists():
        return train, test
    if task == "support":
        raw = ROOT / "pipelines/examples/support.jsonl"
        shares = {"valid_share": 0.01, "test_share": 0.05, "max_bad_share": 0.05}
        ingested(raw, base, place, Recipe().seq_len, **shares)
    else:
        place.mkdir(parents=True)
        corpus = {"banking77": banking77, "gsm8k": gsm8k}[task]
        corpus.write(train, "train", 5000)
        corpus.write(test, "test", count)
    return train, test


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--base", type=Path, required=True)
    flags.add_argument("--data", nargs="+", default=["support", "banking77", "gsm8k"])
    flags.add_argument("--methods", nargs="+", default=["lora", "full"])
    flags.add_argument("--budgets", nargs="+", type=int, default=[20_000])
    flags.add_argument("--factors", nargs="+", type=float, default=FACTORS)
    flags.add_argument("--test-examples", type=int, default=100)
    flags.add_argument("--folder", type=Path, required=True)
    given = flags.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    log = given.folder / "rates.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    network, tokenizer = models.load_base(given.base)
    width = network.get_input_embeddings().embedding_dim
    del network
    for task, method, budget in product(given.data, given.methods, given.budgets):
        train, test = (
            scoring.render_all(examples.read(path), tokenizer)
            for path in write(given.folder, task, given.test_examples, given.base)
        )
        train = [rendered for rendered in train if len(rendered.ids) <= Recipe().seq_len]
        losses = []
        for factor in given.factors:
            rate = factor * rates.auto(method, width)
            asked = {"base": given.base.name, "task": task, "method": method, "budget": budget, "rate": rate}
            found = next((line for line in done if asked.items() <= line.items()), None)
            if not found:
                recipe = Recipe(method=method, learning_rate=rate, budget_tokens=budget, compile="off")
                found = asked | throughput.ours(given.base, train, test, recipe, "cpu")
                with log.open("a") as file:
                    file.write(json.dumps(found) + "\n")
            losses.append(f"{rate:.2g}: {found['completion_loss']:.3f}")
        print(f"{task}, {method}, {budget:,} tokens: {', '.join(losses)}", flush=True)


if __name__ == "__main__":
    main()
