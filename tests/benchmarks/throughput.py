"""Trained tokens per CPU-second and peak bytes: this project's loop against TRL's SFTTrainer with PEFT.

    python -m tests.benchmarks.throughput --base MODEL --train EXAMPLES --test EXAMPLES [--peer trainer]

TRL is in the extra dev; ``--peer trainer`` takes transformers' own Trainer instead. Both sides
train the same base on the same examples with the same optimizer, rate, schedule and loss (answers only,
normalised by answer tokens), about the same tokens a step and in all, one thread, each run a process of its
own, alternated. The peer pads each micro-batch to its longest example, as its collator does by default;
TRL's packing needs FlashAttention to keep examples apart, so not on a CPU. Prints one JSON line a pair and
one with the ratios.

With ``--side`` one run of one side alone, in this process, as one JSON line: with ``--device cuda`` too
(``tests/benchmarks/gpu``), where the seconds that count are wall seconds.
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
import numpy as np
import torch
from accelerate import Accelerator
from peft import PeftModel
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, Trainer, TrainingArguments

from deepcuts.components.core import examples
from deepcuts.components.core.recipe import Recipe, parse
from deepcuts.components.core.store import open_store
from deepcuts.components.training import adapters, loop, models, rates, scoring
from deepcuts.components.training.batches import IGNORE, plan_steps
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered

TRAINER_BATCH = 8
"""About so many examples in one of the Trainer's passes on a CPU: 24 were slower (11,600 against 13,700
tokens/s). On CUDA as many tokens as in one of ours."""


def ours(
    base: Path, data: Sequence[Rendered], test: Sequence[Rendered], recipe: Recipe, device: str
) -> dict[str, float]:
    """One run of the project's loop."""
    network, _ = models.load_base(base)
    adapted = adapters.adapt(network, recipe, torch.device(device))
    adapted.to(torch.device(device))
    accelerator = Accelerator(
        cpu=device == "cpu", mixed_precision="bf16" if in_bf16(recipe, device) else "no"
    )
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints = Checkpoints(open_store(Path(scratch).as_uri()), "benchmark", 1)
        began = clocks(device)
        outcome = loop.train(
            CompletionLoss(adapted), data, recipe, accelerator, checkpoints, say=lambda _: None
        )
        took = clocks(device) - began
    return measured(outcome.progress.tokens, took, adapted, test)


def theirs(
    base: Path,
    data: Sequence[Rendered],
    test: Sequence[Rendered],
    recipe: Recipe,
    peer: str,
    device: str,
) -> dict[str, float]:
    """One run of the peer over as many examples as ``ours`` takes."""
    trainer, took = trained_by(peer, base, data, recipe, device)
    return measured(int(trainer.state.num_input_tokens_seen), took, trainer.model, test)


def trained_by(
    peer: str, base: Path, data: Sequence[Rendered], recipe: Recipe, device: str, **more: Any
) -> tuple[Trainer, np.ndarray]:
    """Train by the peer, with ``more`` of its arguments; returns it and the seconds (``clocks``)."""
    network, tokenizer = models.load_base(base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = adapters.adapt(network, recipe, torch.device(device))
    rows = [
        {
            "input_ids": rendered.ids,
            "attention_mask": [1] * len(rendered.ids),
            "labels": [i if m else IGNORE for i, m in zip(rendered.ids, rendered.mask, strict=True)],
        }
        for rendered in data
    ]
    with tempfile.TemporaryDirectory() as scratch:
        common = settings(data, recipe, device) | {"output_dir": scratch} | more
        common["learning_rate"] = rate(recipe, model)
        if peer == "trl":
            from datasets import Dataset
            from trl import SFTConfig, SFTTrainer

            trainer = SFTTrainer(
                model=model,
                args=SFTConfig(**common, max_length=None, gradient_checkpointing=False),
                train_dataset=Dataset.from_list(
                    [{k: row[k] for k in ("input_ids", "labels")} for row in rows]
                ),
                processing_class=tokenizer,
            )
        else:
            trainer = Trainer(
                model=model,
                args=TrainingArguments(**common),
                train_dataset=rows,
                data_collator=DataCollatorForSeq2Seq(tokenizer),
            )
        began = clocks(device)
        trainer.train()
        return trainer, clocks(device) - began


def settings(data: Sequence[Rendered], recipe: Recipe, device: str) -> dict[str, Any]:
    """Return the peer's arguments without the rate: optimizer, schedule, and about its tokens a step."""
    lengths = [len(rendered.ids) for rendered in data]
    steps = list(plan_steps(lengths, recipe))
    per_step = sum(len(step.examples) for step in steps) / len(steps)
    per_pass = recipe.micro_batch_size * recipe.seq_len / statistics.mean(lengths)
    accumulation = max(1, round(per_step / (TRAINER_BATCH if device == "cpu" else per_pass)))
    batch = round(per_step / accumulation)
    return {
        "use_cpu": device == "cpu",
        "bf16": in_bf16(recipe, device),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "max_steps": round(len(steps) * per_step / (batch * accumulation)),
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


def rate(recipe: Recipe, adapted: PreTrainedModel | PeftModel) -> float:
    """Return the peak rate that ``ours`` takes; without a CompletionLoss, which changes the model."""
    if recipe.learning_rate != "auto":
        return recipe.learning_rate
    return rates.auto(recipe.method, adapted.get_input_embeddings().embedding_dim)


def in_bf16(recipe: Recipe, device: str) -> bool:
    """Return whether ``recipe`` computes in bf16 on ``device``."""
    return models.resolve_precision(recipe.precision, torch.device(device)) is torch.bfloat16


def clocks(device: str) -> np.ndarray:
    """Return (CPU seconds of this process, wall seconds), with nothing left to do on ``device``."""
    if device == "cuda":
        torch.cuda.synchronize()
    return np.array([time.process_time(), time.perf_counter()])


def measured(tokens: int, took: np.ndarray, adapted: Any, test: Sequence[Rendered]) -> dict[str, float]:
    """Tokens per second, and the loss on ``test``: a faster run that learned less would not count."""
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
    network = models.merge(adapted) if isinstance(adapted, PeftModel) else adapted
    scores = scoring.answer_nats(CompletionLoss(network), test)
    cpu_seconds, seconds = map(float, took)
    return {
        "tokens": tokens,
        "cpu_seconds": round(cpu_seconds, 2),
        "seconds": round(seconds, 2),
        "tokens_per_cpu_second": round(tokens / cpu_seconds),
        "tokens_per_second": round(tokens / seconds),
        "peak_device_bytes": peak,
        "completion_loss": round(sum(nats for nats, _ in scores) / sum(count for _, count in scores), 4),
    }


def side(
    peer: str, base: Path, train: Path, test: Path, recipe: Recipe, device: str = "cpu"
) -> dict[str, float]:
    """One run of ``peer``, or of ours where that is empty, in this process."""
    if device == "cpu":
        torch.set_num_threads(1)
    _, tokenizer = models.load_base(base)
    data = scoring.render_all(examples.read(train), tokenizer)
    held_out = scoring.render_all(examples.read(test), tokenizer)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    asked = base, data, held_out, recipe
    done = theirs(*asked, peer, device) if peer else ours(*asked, device)
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
    flags.add_argument("--side", choices=("ours", "trl", "trainer"), help="one run of this side alone")
    flags.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="with --side")
    flags.add_argument("--recipe", default="", help="JSON; instead of the one of this benchmark")
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
    if given.recipe:
        recipe = parse(json.loads(given.recipe))
    if given.side:
        peer = "" if given.side == "ours" else given.side
        print(json.dumps(side(peer, given.base, given.train, given.test, recipe, given.device)))
        return
    print(json.dumps(compare(given.peer, given.base, given.train, given.test, recipe, given.pairs)))


if __name__ == "__main__":
    main()
