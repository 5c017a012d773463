"""Trained tokens per CPU-second and peak bytes: this project's loop against TRL's SFTTrainer with PEFT.

    python -m tests.benchmarks.throughput --base MODEL --train EXAMPLES --test EXAMPLES [--peer trainer]

TRL is no dependency: ``pip install trl`` first; ``--peer trainer`` takes transformers' own Trainer instead.
Both sides train the same base on the same examples with the same optimizer, rate, schedule and loss (answers
only, normalised by answer tokens), about the same tokens a step and in all, one thread, each run a process of
its own, alternated. The peer pads each micro-batch to its longest example, as its collator does by default;
TRL's packing needs FlashAttention to keep examples apart, so not on a CPU. Prints one JSON line a pair and
one with the ratios.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from accelerate import Accelerator
from peft import PeftModel
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from deepcuts.components.core import examples
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.core.store import open_store
from deepcuts.components.training import adapters, loop, models, scoring
from deepcuts.components.training.batches import IGNORE, plan_steps
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered

TRAINER_BATCH = 8
"""About so many examples in one of the Trainer's passes: 24 were slower (11,600 against 13,700 tokens/s)."""


def ours(base: Path, data: Sequence[Rendered], test: Sequence[Rendered], recipe: Recipe) -> dict[str, float]:
    """One run of the project's loop."""
    network, _ = models.load_base(base)
    adapted = adapters.adapt(network, recipe, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints = Checkpoints(open_store(Path(scratch).as_uri()), "benchmark", 1)
        began = time.process_time()
        outcome = loop.train(
            CompletionLoss(adapted), data, recipe, Accelerator(cpu=True), checkpoints, say=lambda _: None
        )
        seconds = time.process_time() - began
    return measured(outcome.progress.tokens, seconds, adapted, test)


def theirs(
    base: Path, data: Sequence[Rendered], test: Sequence[Rendered], recipe: Recipe, peer: str
) -> dict[str, float]:
    """One run of the peer over as many examples as ``ours`` takes."""
    lengths = [len(rendered.ids) for rendered in data]
    steps = list(plan_steps(lengths, recipe))
    per_step = sum(len(step.examples) for step in steps) / len(steps)
    accumulation = max(1, round(per_step / TRAINER_BATCH))
    batch = round(per_step / accumulation)
    network, tokenizer = models.load_base(base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    adapted = adapters.adapt(network, recipe, torch.device("cpu"))
    rows = [
        {
            "input_ids": rendered.ids,
            "attention_mask": [1] * len(rendered.ids),
            "labels": [i if m else IGNORE for i, m in zip(rendered.ids, rendered.mask, strict=True)],
        }
        for rendered in data
    ]
    with tempfile.TemporaryDirectory() as scratch:
        common: dict[str, Any] = {
            "output_dir": scratch,
            "use_cpu": True,
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
            "max_steps": round(len(steps) * per_step / (batch * accumulation)),
            "learning_rate": recipe.learning_rate,
            "lr_scheduler_type": recipe.schedule,
            "warmup_steps": recipe.warmup_ratio,
            "weight_decay": recipe.weight_decay,
            "adam_beta1": recipe.beta1,
            "adam_beta2": recipe.beta2,
            "max_grad_norm": recipe.max_grad_norm,
            "optim": "adamw_torch_fused",
            "seed": recipe.seed,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "include_num_input_tokens_seen": "non_padding",
            "logging_steps": 1000,
        }
        if peer == "trl":
            from datasets import Dataset
            from trl import SFTConfig, SFTTrainer

            trainer = SFTTrainer(
                model=adapted,
                args=SFTConfig(**common, max_length=None, gradient_checkpointing=False, bf16=False),
                train_dataset=Dataset.from_list(
                    [{k: row[k] for k in ("input_ids", "labels")} for row in rows]
                ),
                processing_class=tokenizer,
            )
        else:
            trainer = Trainer(
                model=adapted,
                args=TrainingArguments(**common),
                train_dataset=rows,
                data_collator=DataCollatorForSeq2Seq(tokenizer),
            )
        began = time.process_time()
        trainer.train()
        seconds = time.process_time() - began
    return measured(int(trainer.state.num_input_tokens_seen), seconds, adapted, test)


def measured(tokens: int, seconds: float, adapted: Any, test: Sequence[Rendered]) -> dict[str, float]:
    """Tokens per CPU-second, and the loss on ``test``: a faster run that learned less would not count."""
    network = models.merge(adapted) if isinstance(adapted, PeftModel) else adapted
    scores = scoring.answer_nats(CompletionLoss(network), test)
    return {
        "tokens": tokens,
        "cpu_seconds": round(seconds, 2),
        "tokens_per_cpu_second": round(tokens / seconds),
        "completion_loss": round(sum(nats for nats, _ in scores) / sum(count for _, count in scores), 4),
    }


def side(peer: str, base: Path, train: Path, test: Path, recipe: Recipe) -> dict[str, float]:
    """One run of ``peer``, or of ours where that is empty, in this process."""
    torch.set_num_threads(1)
    _, tokenizer = models.load_base(base)
    data = scoring.render_all(examples.read(train), tokenizer)
    held_out = scoring.render_all(examples.read(test), tokenizer)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = theirs(base, data, held_out, recipe, peer) if peer else ours(base, data, held_out, recipe)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return done | {"peak_bytes": after * 1024, "peak_bytes_over_start": (after - before) * 1024}


def compare(peer: str, base: Path, train: Path, test: Path, recipe: Recipe, pairs: int) -> dict[str, Any]:
    """``pairs`` alternated pairs; each side goes first in every other one."""
    results: list[tuple[dict[str, float], dict[str, float]]] = []
    context = multiprocessing.get_context("spawn")
    for pair in range(pairs):
        seeded = msgspec.structs.replace(recipe, seed=pair)
        done = {}
        for name in ["", peer] if pair % 2 == 0 else [peer, ""]:
            with context.Pool(1) as alone:
                done[name] = alone.apply(side, (name, base, train, test, seeded))
        results.append((done[""], done[peer]))
        print(json.dumps({"pair": pair, "ours": done[""], peer: done[peer]}), flush=True)

    def ratios(figure: str) -> list[float]:
        found = sorted(mine[figure] / other[figure] for mine, other in results)
        return [round(value, 3) for value in (statistics.median(found), found[0], found[-1])]

    gaps = [mine["completion_loss"] - other["completion_loss"] for mine, other in results]
    return {
        "peer": peer,
        "method": recipe.method,
        "tokens_per_cpu_second_ratio_median_min_max": ratios("tokens_per_cpu_second"),
        "peak_bytes_ratio_median_min_max": ratios("peak_bytes"),
        "loss_gap_mean": round(statistics.mean(gaps), 4),
        "loss_gap_range": [round(min(gaps), 4), round(max(gaps), 4)],
    }


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "train", "test"):
        flags.add_argument(f"--{name}", type=Path, required=True)
    flags.add_argument("--peer", choices=("trl", "trainer"), default="trl")
    flags.add_argument("--pairs", type=int, default=5)
    flags.add_argument("--budget-tokens", type=int, default=150_000)
    flags.add_argument("--method", choices=("lora", "full"), default="lora")
    given = flags.parse_args()
    recipe = Recipe(
        method=given.method,
        learning_rate=5e-3 if given.method == "lora" else 1e-3,
        lora_rank=8,
        lora_alpha=16,
        budget_tokens=given.budget_tokens,
        tokens_per_step=4096,
        seq_len=512,
        micro_batch_size=4,
    )
    print(json.dumps(compare(given.peer, given.base, given.train, given.test, recipe, given.pairs)))


if __name__ == "__main__":
    main()
