"""Finetune: train a pretrained model on examples, all weights or a LoRA adapter (cuts 1 and 2)."""

import json
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import msgspec
import torch
from accelerate import Accelerator
from peft import PeftModel
from transformers import PreTrainedModel

from deepcuts.components.core import examples, files
from deepcuts.components.core.receipts import SETTING, Facts
from deepcuts.components.core.recipe import SHARDED, Recipe, training_id
from deepcuts.components.core.store import Store, open_store, retrieve
from deepcuts.components.core.verdicts import Verdict
from deepcuts.components.finetune.budget import BudgetClock
from deepcuts.components.training import (
    adapters,
    best,
    data_tokens,
    depth,
    generation,
    launch,
    loop,
    models,
    packing,
    sampling,
    scoring,
    sharding,
)
from deepcuts.components.training.checkpoints import (
    Checkpoints,
    TrainingProgress,
    assist,
    load_weights,
    put_weights,
    whole_weights,
)
from deepcuts.components.training.kernels import fuse
from deepcuts.components.training.lease import held
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.run_messages import RunMessages, Stop


def finetune(
    base: Path, train: Path, valid: Path, model: Path, curve: Path, store: str, recipe: Recipe
) -> Facts:
    """Train ``base`` on the examples of ``train`` by the recipe; write ``model`` and its loss ``curve``.

    Checkpoints go to ``store`` under the run's identity; after a crash the same command resumes from the
    newest. While one process writes them, a second one ends with exit code 4. The watcher learns of every
    save and may ask to stop at the next one. ``model`` is then its best checkpoint, otherwise the best one
    scored in the loop (if that is cheap or the recipe asks for it), or the last. With LoRA it is an adapter
    folder, else a full model folder in the base's precision; ``curve`` has one JSON record per step. A sample
    of ``valid``, which may be empty, is scored at the end.
    """
    recipe = data_tokens.settled(recipe, train, base)
    identity = training_id(recipe, files.digest(base), files.digest(train))
    objects = open_store(store)
    messages = RunMessages(objects, identity, recipe.budget_tokens, recipe.budget_seconds)
    accelerator = sharding.group(recipe)
    writing = held(objects, identity) if accelerator.is_main_process else nullcontext()
    with writing as lease, messages.failures(lease):  # in this order: without a lease, no message
        if accelerator.is_main_process:
            messages.start()
        network, tokenizer = models.load_base(base, models.four_bits(recipe, accelerator.device))
        packing.check_seq_len(recipe, network)
        data = scoring.render_all(examples.read(train), tokenizer)
        drawn = sampling.read(valid, tokenizer, recipe)
        if recipe.initial == "random":
            network = models.from_scratch(base, recipe.seed)
        adapted, ways = placed(network, recipe, accelerator)
        loss = CompletionLoss(adapted)
        checkpoints = Checkpoints(objects, identity, recipe.keep_checkpoints, lease)
        clock = BudgetClock(objects, identity, recipe.budget_seconds)
        kept = best.Best(objects, identity, drawn.digest, recipe.budget_tokens)
        outcome = loop.train(
            loss,
            data,
            best.with_evaluations(recipe, drawn.data, accelerator.num_processes),
            accelerator,
            checkpoints,
            ends_here=partial(report, messages, clock),
            out_of_time=clock.out_of_time,
            evaluate=kept.scoring(loss, partial(scoring.mean_nats, loss, drawn.data)) if drawn.data else None,
        )
        stop = messages.stop() if outcome.stopped else None
        facts = describe(loss, outcome, recipe, identity) | chosen(recipe) | processes(recipe, accelerator)
        facts |= {"ended_by_budget": outcome.stopped and stop is None} | ways
        facts |= {"generation_config": generation.published(base), "data_tokens": data_tokens.of(data)}
        facts |= drawn.facts | (take_best(loss, outcome, stop, objects) if stop else {})
        facts |= {"valid_loss": (valid_loss := scoring.mean_loss(loss, drawn.data))}
        if valid_loss is not None and not stop and accelerator.num_processes == 1:
            facts |= take_kept(loss, kept, valid_loss, outcome)
        facts |= {"paid_seconds": round(clock.seconds, 3)}
        facts |= {"lease_wait_seconds": round(lease.waited_seconds, 3)} if lease else {}
        if sharding.is_sharded(loss):
            adapted = in_one_piece(adapted, base, recipe, accelerator.is_main_process)
        if accelerator.is_main_process:
            models.save(adapted, tokenizer, base, model, models.stored_dtype(base))
            write_curve(curve, outcome.progress)
            facts |= {"model_bytes": files.size_bytes(model)}
            messages.finish(outcome.progress.step, outcome.progress.tokens)
    return facts


def placed(
    network: PreTrainedModel, recipe: Recipe, accelerator: Accelerator
) -> tuple[PreTrainedModel | PeftModel, Facts]:
    """Return the network prepared by the recipe, on its device unless it will be sharded, and how."""
    sharded = sharding.strategy(recipe, accelerator) in SHARDED
    kernels = fuse(network, accelerator.device, sharded)
    left_out = adapters.left_out(network) if recipe.method == "lora" else ""
    adapted = adapters.adapt(network, recipe, accelerator.device)
    if not sharded:  # before any pass, as Liger's kernels refuse CPU tensors
        adapted.to(accelerator.device)
    return adapted, {"liger_kernels": kernels, "lora_left_out": left_out or "nothing"}


def write_curve(curve: Path, progress: TrainingProgress) -> None:
    """Write one JSON record per step."""
    with files.staged(curve) as staging:
        staging.write_text("".join(json.dumps(record) + "\n" for record in progress.curve))


def processes(recipe: Recipe, accelerator: Accelerator) -> Facts:
    """Return how many processes train, and how they share the work."""
    return {
        "strategy": sharding.strategy(recipe, accelerator),
        "processes": accelerator.num_processes,
        "nodes": sharding.nodes(accelerator),
    }


def in_one_piece(
    sharded: PreTrainedModel | PeftModel, base: Path, recipe: Recipe, is_main_process: bool
) -> PreTrainedModel | PeftModel:
    """Return the trained model on the CPU of the main process; the others help to gather it."""
    if not is_main_process:
        assist(sharded)
        return sharded
    model = (
        models.from_scratch(base, recipe.seed) if recipe.initial == "random" else models.load_base(base)[0]
    )
    model = adapters.adapt(model, recipe, torch.device("cpu"))
    put_weights(model, dict(whole_weights(sharded)))
    return model


def report(messages: RunMessages, clock: BudgetClock, progress: TrainingProgress) -> bool:
    """Report a checkpoint to the watcher; True if it asked to stop, or the budget allows no further step."""
    if progress.step == 0:
        return False
    messages.saved(progress.step)
    clock.remember()
    return messages.stop() is not None or clock.out_of_time(0)


def take_best(loss: CompletionLoss, outcome: loop.TrainingOutcome, stop: Stop, objects: Store) -> Facts:
    """Load the watcher's best checkpoint into a stopped model; return what stopping cost and saved."""
    with tempfile.TemporaryDirectory(prefix="best-") as scratch:
        retrieve(objects, stop.best_weights, Path(scratch) / "best")
        load_weights(loss, Path(scratch) / "best")
    return {
        "best_step": stop.best_step,
        "stop_lag_tokens": outcome.progress.tokens - stop.scored_tokens,
    }


def take_kept(loss: CompletionLoss, kept: best.Best, last: float, outcome: loop.TrainingOutcome) -> Facts:
    """Load the best weights scored in the loop into a model whose ``last`` valid loss is higher."""
    if kept.loss >= last:
        return {}
    kept.put(loss)
    return {
        "best_step": best.step_of(outcome.progress.curve),
        "valid_loss": kept.loss,
        "last_valid_loss": last,
    }


def describe(loss: CompletionLoss, outcome: loop.TrainingOutcome, recipe: Recipe, identity: str) -> Facts:
    """Return the facts of a run for the ledger and readers."""
    progress = outcome.progress
    weights, trained = models.count_weights(loss.model)
    here = progress.tokens - outcome.resumed_tokens
    return {
        "training_id": identity,
        "tokens": here,
        "total_tokens": progress.tokens,
        "answer_tokens": progress.answer_tokens,
        "padding_share": progress.padding_tokens / max(1, progress.padding_tokens + progress.tokens),
        "steps": progress.step,
        "resumed_at_step": outcome.resumed_at_step,
        "stopped_early": outcome.stopped,
        "budget_tokens": recipe.budget_tokens,
        "budget_seconds": recipe.budget_seconds,
        "last_loss": progress.curve[-1]["loss"],
        "train_seconds": round(outcome.train_seconds, 3),
        "train_cpu_seconds": round(outcome.train_cpu_seconds, 3),
        "save_seconds": round(outcome.save_seconds, 3),
        "evaluation_seconds": round(outcome.evaluation_seconds, 3),
        "weights": weights,
        "weight_bytes": models.weight_bytes(loss.model),
        "trained_weights": trained,
        "trained_share": trained / weights,
        "depth": depth.describe(loss.model, recipe),
        "optimizer_bytes": outcome.optimizer_bytes,
        "checkpoint_bytes": outcome.checkpoint_bytes,
        **checkpointing(recipe).facts(),
        "saved_tensor_bytes": outcome.saved_tensor_bytes,
        "peak_learning_rate": outcome.peak_learning_rate,
        "micro_batch_size": outcome.micro_batch_size,
        "out_of_memory": outcome.out_of_memory,
        **outcome.packing.facts(),
        **outcome.sharing.facts(),
        "shared_tokens": progress.shared_tokens,
        "computed_tokens": progress.computed_tokens,
        **outcome.compile.facts(),
        **checkpointing_cost(outcome),
    } | (lora(recipe, weights, trained, outcome) if recipe.method == "lora" else {})


def chosen(recipe: Recipe) -> Facts:
    """Return the fields of the Recipe, by which runs are looked up."""
    fields = msgspec.to_builtins(recipe)
    return {
        f"{SETTING}{name}": value if isinstance(value, int | float | str) else json.dumps(value)
        for name, value in fields.items()
        if value is not None
    }


def lora(recipe: Recipe, weights: int, trained: int, outcome: loop.TrainingOutcome) -> Facts:
    """Return what an adapter saves over full fine-tuning: Adam keeps two float32 numbers per weight."""
    full = 2 * 4 * (weights - trained)
    why = (
        f"rank {recipe.lora_rank}: {trained / weights:.2%} of the weights are trained, "
        f"{outcome.optimizer_bytes:,} bytes of optimizer state instead of about {full:,}"
    )
    return Verdict("lora", "applied", why).facts() | {"full_optimizer_bytes": full}


def checkpointing_cost(outcome: loop.TrainingOutcome) -> Facts:
    """Return what activation checkpointing saves and costs."""
    measured = outcome.checkpointing_cost
    return measured.facts(outcome.saved_tensor_bytes, outcome.train_seconds) if measured else {}


def checkpointing(recipe: Recipe) -> Verdict:
    """Return which activations are recomputed."""
    match int(recipe.gradient_checkpointing):
        case 0:
            return Verdict("checkpointing", "off", "all activations are kept")
        case 1:
            return Verdict("checkpointing", "applied", "every block")
        case every:
            return Verdict("checkpointing", "applied", f"one block in {every}")


if __name__ == "__main__":
    launch.main(finetune, "deepcuts.components.finetune.step")
