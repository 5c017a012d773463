"""CPU-seconds an example with shared prefixes computed once or by each example, and by depth of training.

    python -m tests.benchmarks.prefixes --base MODEL [--data plain listed gsm8k] [--method lora full]
        [--trained-layers all 15]

One optimizer step of real data (banking77 through the base's chat template, its 77 labels listed in the
prompt or not; GSM8K), forward and backward as training does it, one thread, the two ways in turn, the shared
one first, which so bears what is done once. Prints a JSON line a case: seconds of each repeat, loss, gradient
norm and the relative difference of the whole gradient.
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path

import torch
from accelerate import Accelerator

from deepcuts.components.core.examples import Example, Message
from deepcuts.components.core.recipe import parse
from deepcuts.components.training import adapters, models, scoring
from deepcuts.components.training.batches import OptimizerStep
from deepcuts.components.training.forward_backward import ForwardBackward
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered
from tests.benchmarks import banking77
from tests.conftest import SHARED


def conversations(name: str, count: int) -> list[Example]:
    """Return the first ``count`` training examples of a data set."""
    if name == "gsm8k":
        lines = (SHARED / "gsm8k/train.jsonl").read_text().splitlines()[:count]
        pairs = [(row["question"], row["answer"]) for row in map(json.loads, lines)]
    else:
        asked, rows = banking77.instruction() if name == "listed" else "", banking77.read("train")
        chosen = rows[:: len(rows) // count][:count]  # the file is sorted by label
        pairs = [(asked + row["text"], row["category"]) for row in chosen]
    return [
        Example(f"{number}", (Message("user", prompt), Message("assistant", answer)))
        for number, (prompt, answer) in enumerate(pairs)
    ]


def main(argv: list[str] | None = None) -> None:
    """Measure each case."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--base", type=Path, required=True)
    flags.add_argument("--data", nargs="+", default=["plain", "listed", "gsm8k"])
    flags.add_argument("--method", nargs="+", default=["lora", "full"])
    flags.add_argument("--trained-layers", nargs="+", default=["all"])
    flags.add_argument("--examples", type=int, default=16)
    flags.add_argument("--repeats", type=int, default=3)
    given = flags.parse_args(argv)
    torch.set_num_threads(1)
    tokenizer = models.load_tokenizer(given.base)
    for name in given.data:
        data = scoring.render_all(conversations(name, given.examples), tokenizer)
        for method, layers in product(given.method, given.trained_layers):
            case = {"method": method, "trained_layers": layers if layers == "all" else json.loads(layers)}
            found = measure(given.base, data, case, given.repeats)
            print(json.dumps({"data": name} | case | found), flush=True)


def measure(base: Path, data: list[Rendered], case: dict[str, object], repeats: int) -> dict[str, object]:
    """Pass one step over ``data`` both ways in turn."""
    lengths = [len(rendered.ids) for rendered in data]
    tokens = max(1024, sum(lengths))
    settings = {"compile": "off", "seq_len": 1024, "tokens_per_step": tokens, "micro_batch_size": 4}
    recipe = parse(settings | case)
    network, _ = models.load_base(base)
    loss = CompletionLoss(adapters.adapt(network, recipe, torch.device("cpu"))).train()
    step = OptimizerStep(0, tuple(range(len(data))), 0, sum(lengths), recipe.seq_len)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    computed, nats, gradients = {}, {}, {}
    for _ in range(repeats):
        for shared in (True, False):
            passes = ForwardBackward(loss, loss, data, [step], recipe, Accelerator(cpu=True), None, shared)
            began = time.process_time()
            found, computed[shared] = passes.run(step)
            took = time.process_time() - began
            seconds[shared].append(took / len(data))
            nats[shared] = float(found)
            gradients[shared] = torch.cat([p.grad.flatten() for p in loss.parameters() if p.grad is not None])
            loss.zero_grad(set_to_none=True)
    norms = {shared: float(gradient.norm()) for shared, gradient in gradients.items()}
    return {
        "examples": len(data),
        "trained_tokens": sum(lengths),
        "computed_tokens": {"alone": computed[False], "shared": computed[True]},
        "seconds_per_example": {"alone": seconds[False], "shared": seconds[True]},
        "nats": {"alone": nats[False], "shared": nats[True]},
        "gradient_norm": {"alone": norms[False], "shared": norms[True]},
        "relative_difference": float((gradients[False] - gradients[True]).norm()) / norms[False],
    }


if __name__ == "__main__":
    main()
