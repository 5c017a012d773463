"""How long a run takes: predicted by the plan from one short run of another recipe, against measured.

    python -m tests.benchmarks.hours

Llama (widths 64, 128 and 256), Qwen3 and GPT-2 (128), random weights, the bundled conversations, one thread.
A few steps calibrate the plan (``calibrate`` of ``plan``); then the same recipe with another method, with
shorter rows, recomputed activations or another batch is predicted and run. Seconds are CPU seconds. Prints
one JSON line a run, and the errors: of the calibrated plan, and of one with nothing measured.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import AutoTokenizer

from deepcuts.components.core import examples
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.plan import architecture, choice, speed
from deepcuts.components.plan.choice import Measurement, PlanTask
from deepcuts.components.training import scoring
from tests.benchmarks.compiling import BUNDLED, SHAPES, conversations, trained
from tests.training import tiny

ONE_CORE = NodePool(
    name="core",
    selector={},
    cpu_cores=1,
    memory_bytes=2**34,
    usd_per_hour=None,
    flops_per_second=63e9,  # manifests/base/nodepools.yaml: fp32 on AVX2
)
STEPS = 8
BATCH = 4096
RECIPE: dict[str, Any] = {"learning_rate": 1e-3, "tokens_per_step": BATCH, "budget_tokens": STEPS * BATCH}
CHANGES: dict[str, dict[str, Any]] = {
    "longer": {"budget_tokens": 3 * STEPS * BATCH},
    "rows of 256": {"seq_len": 256, "micro_batch_size": 16},
    "recomputed": {"gradient_checkpointing": True},
    "twice the batch": {"tokens_per_step": 2 * BATCH, "budget_tokens": 2 * STEPS * BATCH},
    "other method": {},
}


def predicted(task: PlanTask) -> float:
    """Seconds of all steps on one core, at p50."""
    measured, share = task.utilisation
    found = speed.estimate(
        task.shapes, task.recipe, ONE_CORE, "single", 1, task.answer_share, share if measured else 0.0
    )
    return found.seconds_per_step * task.recipe.budget_tokens / task.recipe.tokens_per_step


def main() -> None:
    torch.set_num_threads(1)
    errors: dict[str, list[float]] = {"calibrated": [], "uncalibrated": []}
    with tempfile.TemporaryDirectory(prefix="hours-") as scratch:
        tokenizer = AutoTokenizer.from_pretrained(BUNDLED / "base")
        data = scoring.render_all(examples.read(conversations(Path(scratch))), tokenizer)
        answers = sum(sum(rendered.mask[1:]) for rendered in data) / sum(len(r.ids) for r in data)
        for name, (kind, shape) in SHAPES.items():
            folder = Path(scratch) / name
            tiny.model(kind, **shape).save_pretrained(folder)
            for method in ("full", "lora"):
                recipe = Recipe(method=method, **RECIPE)  # type: ignore[arg-type]
                trained(kind, shape, data, msgspec.structs.replace(recipe, budget_tokens=BATCH))  # warm
                first = trained(kind, shape, data, recipe)
                kept, rate = first.saved_tensor_bytes, recipe.budget_tokens / first.train_cpu_seconds
                assert kept
                plain = PlanTask(architecture.read(folder), recipe, answers)
                step = Measurement(pool=ONE_CORE.name, saved_bytes=kept, tokens_per_second=rate)
                task = choice.calibrated(plain, {ONE_CORE.name: ONE_CORE}, step)
                other = "full" if method == "lora" else "lora"
                for change, fields in CHANGES.items():
                    fields = fields or {"method": other}
                    changed = msgspec.structs.replace(recipe, **fields)
                    truth = trained(kind, shape, data, changed).train_cpu_seconds
                    line = {"model": name, "method": method, "change": change, "cpu_seconds": round(truth, 2)}
                    for how, used in (("calibrated", task), ("uncalibrated", plain)):
                        error = predicted(used._replace(recipe=changed)) / truth - 1
                        errors[how].append(error)
                        line[how] = round(error, 3)
                    print(json.dumps(line), flush=True)
    for how, found in errors.items():
        sizes = [abs(error) for error in found]
        within = sum(size <= 0.15 for size in sizes)
        print(
            f"{how}: mean absolute error {statistics.mean(sizes):.1%}, "
            f"median {statistics.median(found):+.1%}, "
            f"worst {max(sizes):.1%}, within 15 % {within} of {len(found)}"
        )


if __name__ == "__main__":
    main()
