"""Finetune: continue a pretrained model on examples, all weights or a LoRA adapter (cuts 1 and 2)."""

import json
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import msgspec
import torch
from accelerate import Accelerator
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from components.core import examples, files
from components.core.receipts import SETTING, Fact, Facts
from components.core.recipe import Recipe, training_id
from components.core.store import Store, open_store, retrieve
from components.core.verdicts import Verdict
from components.finetune.budget import Clock
from components.training import adapters, best, generation, launch, loop, models, scoring, sharding
from components.training.checkpoints import (
    Checkpoints,
    Progress,
    assist,
    load_weights,
    put_weights,
    whole_weights,
)
from components.training.kernels import fuse
from components.training.lease import held
from components.training.losses import AnswerLoss
from components.training.render import Rendered
from components.training.signals import Signals, Stop


def finetune(
    base: Path, train: Path, valid: Path, model: Path, curve: Path, store: str, recipe: Recipe
) -> Facts:
    """Train ``base`` on the examples of ``train`` as the recipe says; write ``model`` and its loss ``curve``.

    Checkpoints go to ``store`` by the run's identity: after a crash the same command resumes from the newest,
    and while one process writes them a second one ends with exit code 4.
    Its watcher hears of every save and may ask to stop at the next; ``model`` is then its best. Where
    scoring ``valid`` in the loop costs next to nothing, it is the best that was scored there. A run that
    ``recipe.budget_seconds`` ends hands over what it has got.
    ``model`` is an adapter folder with LoRA, else a full model folder in the base's own precision; ``curve``
    has one JSON record a step. ``valid`` is scored at the end, and in the loop where that is cheap or the
    recipe asks for it; an empty file is fine.
    """
    identity = training_id(recipe, files.digest(base), files.digest(train))
    objects = open_store(store)
    signals = Signals(objects, identity, recipe.budget_tokens, recipe.budget_seconds)
    accelerator = Accelerator(mixed_precision=models.mixed_precision(recipe))
    writing = held(objects, identity) if accelerator.is_main_process else nullcontext()
    with writing as lease, signals.failures(lease):  # in this order: who is refused leaves no signal
        if accelerator.is_main_process:
            signals.start()
        network, tokenizer = models.load_base(base, models.four_bits(recipe, accelerator.device))
        check_block(recipe, network)
        data = scoring.render_all(examples.read(train), tokenizer)
        held_out = read_valid(valid, tokenizer)
        if recipe.initial == "random":
            network = models.from_scratch(base, recipe.seed)
        kernels = fuse(network, accelerator.device)
        left_out = adapters.left_out(network) if recipe.method == "lora" else ""
        adapted = adapters.adapt(network, recipe, accelerator.device)
        loss = AnswerLoss(adapted)
        checkpoints = Checkpoints(objects, identity, recipe.keep_checkpoints, lease)
        clock = Clock(objects, identity, recipe.budget_seconds)
        ends_here = partial(report, signals, clock)
        kept = best.Best(objects, identity, files.digest(valid), recipe.budget_tokens)
        outcome = loop.train(
            loss,
            data,
            best.with_evaluations(recipe, held_out, accelerator.num_processes),
            accelerator,
            checkpoints,
            ends_here,
            out_of_time=clock.out_of_time,
            evaluate=kept.scoring(loss, partial(scoring.mean_nats, loss, held_out)) if held_out else None,
        )
        stop = signals.stop() if outcome.stopped else None
        facts = describe(loss, outcome, recipe, identity) | {
            "ended_by_budget": outcome.stopped and stop is None,
            "budget_tokens": recipe.budget_tokens,
            "budget_seconds": recipe.budget_seconds,
            "strategy": sharding.strategy(recipe, accelerator),
            "processes": accelerator.num_processes,
            "liger_kernels": kernels,
            "generation_config": generation.published(base),
            "lora_left_out": left_out or "nothing",
        }
        facts |= chosen(recipe)
        facts |= take_best(loss, outcome, stop, objects) if stop else {}
        facts |= valid_score(loss, held_out)
        if not stop and accelerator.num_processes == 1:
            facts |= take_kept(loss, kept, facts["valid_loss"], outcome)
        facts |= {"paid_seconds": round(clock.seconds, 3)}
        sharded = sharding.is_sharded(loss)
        if sharded and not accelerator.is_main_process:
            assist(adapted)
        if accelerator.is_main_process:
            whole = in_one_piece(adapted, base, recipe) if sharded else adapted
            models.save(whole, tokenizer, base, model, models.stored_dtype(base))
            with files.staged(curve) as staging:
                staging.write_text("".join(json.dumps(record) + "\n" for record in outcome.progress.curve))
            facts["model_bytes"] = files.size_bytes(model)
            signals.finish(outcome.progress.step, outcome.progress.tokens)
    return facts


def in_one_piece(
    sharded: PreTrainedModel | PeftModel, base: Path, recipe: Recipe
) -> PreTrainedModel | PeftModel:
    """The model again, on the CPU, with what all processes trained."""
    model = (
        models.from_scratch(base, recipe.seed) if recipe.initial == "random" else models.load_base(base)[0]
    )
    model = adapters.adapt(model, recipe, torch.device("cpu"))
    put_weights(model, dict(whole_weights(sharded)))
    return model


def report(signals: Signals, clock: Clock, progress: Progress) -> bool:
    """Tell the watcher of a checkpoint; True when it has asked to stop, or no other step can be paid."""
    if progress.step == 0:
        return False
    signals.saved(progress.step)
    clock.remember()
    return signals.stop() is not None or clock.out_of_time(0)


def take_best(loss: AnswerLoss, outcome: loop.Outcome, stop: Stop, objects: Store) -> Facts:
    """Put the watcher's best checkpoint into a model that was stopped; what the stop cost and saved."""
    with tempfile.TemporaryDirectory(prefix="best-") as scratch:
        retrieve(objects, stop.best_weights, Path(scratch) / "best")
        load_weights(loss, Path(scratch) / "best")
    return {
        "best_step": stop.best_step,
        "stop_lag_tokens": outcome.progress.tokens - stop.scored_tokens,
    }


def take_kept(loss: AnswerLoss, kept: best.Best, last: Fact, outcome: loop.Outcome) -> Facts:
    """Put the best weights that were scored in the loop into a model whose ``last`` valid loss is higher."""
    if not isinstance(last, float) or kept.loss >= last:
        return {}
    kept.put(loss)
    return {
        "best_step": best.step_of(outcome.progress.curve),
        "valid_loss": kept.loss,
        "last_valid_loss": last,
    }


def check_block(recipe: Recipe, network: PreTrainedModel) -> None:
    """A block may not be longer than the model's positions.

    Raises:
        ValueError: it is.
    """
    context = models.context_length(network)
    if recipe.block_length > context:
        raise ValueError(
            f"recipe.block_length {recipe.block_length} is above the model's context {context}: lower it"
        )


def describe(loss: AnswerLoss, outcome: loop.Outcome, recipe: Recipe, identity: str) -> Facts:
    """What the ledger and a reader want to know of a run."""
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
        "last_loss": progress.curve[-1]["loss"],
        "train_seconds": round(outcome.train_seconds, 3),
        "train_cpu_seconds": round(outcome.train_cpu_seconds, 3),
        "save_seconds": round(outcome.save_seconds, 3),
        "evaluation_seconds": round(outcome.evaluation_seconds, 3),
        "weights": weights,
        "weight_bytes": models.weight_bytes(loss.model),
        "trained_weights": trained,
        "trained_share": trained / weights,
        "optimizer_bytes": outcome.optimizer_bytes,
        "checkpoint_bytes": outcome.checkpoint_bytes,
        **checkpointing(recipe).facts(),
        "saved_tensor_bytes": outcome.saved_tensor_bytes,
        "micro_batch_blocks": outcome.micro_batch_blocks,
        "out_of_memory": outcome.micro_batch_blocks < recipe.micro_batch_blocks,
        **outcome.packing.facts(),
        **outcome.compile.facts(),
        **recomputation(outcome),
    } | (lora(recipe, weights, trained, outcome) if recipe.method == "lora" else {})


def chosen(recipe: Recipe) -> Facts:
    """The fields of the Recipe, as a run is looked up by them."""
    fields = msgspec.to_builtins(recipe)
    return {
        f"{SETTING}{name}": value if isinstance(value, int | float | str) else json.dumps(value)
        for name, value in fields.items()
    }


def lora(recipe: Recipe, weights: int, trained: int, outcome: loop.Outcome) -> Facts:
    """What training an adapter instead of all weights saves: Adam keeps two float32 numbers a weight."""
    full = 2 * 4 * (weights - trained)
    why = (
        f"rank {recipe.lora_rank}: {trained / weights:.2%} of the weights are trained, "
        f"{outcome.optimizer_bytes:,} bytes of optimizer state instead of about {full:,}"
    )
    return Verdict("lora", "applied", why).facts() | {"full_optimizer_bytes": full}


def recomputation(outcome: loop.Outcome) -> Facts:
    """What activations that are not kept save and cost."""
    measured = outcome.recomputation
    return measured.facts(outcome.saved_tensor_bytes, outcome.train_seconds) if measured else {}


def checkpointing(recipe: Recipe) -> Verdict:
    """Say which activations are computed twice."""
    match int(recipe.gradient_checkpointing):
        case 0:
            return Verdict("checkpointing", "off", "all activations are kept")
        case 1:
            return Verdict("checkpointing", "applied", "every block")
        case every:
            return Verdict("checkpointing", "applied", f"one block in {every}")


def read_valid(valid: Path, tokenizer: PreTrainedTokenizerBase) -> list[Rendered]:
    """The valid split as token ids; an empty file is fine here."""
    return scoring.render_all(examples.read(valid), tokenizer) if files.size_bytes(valid) else []


def valid_score(loss: AnswerLoss, valid: Sequence[Rendered]) -> Facts:
    """What a search compares trials by; none where nothing is held out."""
    return {"valid_loss": scoring.mean_nats(loss, valid) if valid else None}


if __name__ == "__main__":
    launch.main(finetune, "components.finetune.step")
