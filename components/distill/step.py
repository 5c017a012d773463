"""Distill: train a smaller student to imitate a teacher (cut 8)."""

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core import cli, examples, files
from deepcuts.components.core.bounds import Count, NonNegative, Positive, Share, Whole
from deepcuts.components.core.examples import Example
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.recipe import SHARDED, Recipe
from deepcuts.components.core.store import Store, open_store
from deepcuts.components.core.verdicts import Verdict
from deepcuts.components.distill import serving, student, teacher_outputs
from deepcuts.components.distill.costs import Costs, TrainingClock
from deepcuts.components.distill.distill_config import DistillConfig, check_questions, identity, longer
from deepcuts.components.distill.losses import DIVERGENCES, Cached, DistillationLoss, Online, Teacher
from deepcuts.components.distill.on_policy import OnPolicyLoss
from deepcuts.components.training import (
    adapters,
    data_tokens,
    loop,
    models,
    packing,
    sampling,
    scoring,
    sharding,
)
from deepcuts.components.training.checkpoints import Checkpoints
from deepcuts.components.training.lease import held
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered, render_prompt


def distill(
    teacher: Path,
    base: Path,
    train: Path,
    valid: Path,
    model: Path,
    curve: Path,
    worth_tokens: Path,
    store: str,
    recipe: Recipe,
    layers: str,
    config: dict[str, Any],
    method: str,
    temperature: Positive,
    cross_entropy_weight: Share,
    hidden_weight: NonNegative,
    cached_draws: Whole,
    max_new_tokens: Count,
    extra_tokens: Whole,
) -> Facts:
    """Train a student on ``train`` and ``teacher``; write the whole ``model`` and its loss ``curve``.

    The student keeps ``layers`` of ``base``, or has random weights in base's shape changed by ``config``.
    ``method`` is one of ``METHODS`` (see component.py); none is the control, whose ``extra_tokens`` are
    another run's ``worth_tokens``.

    Raises:
        ValueError: settings are contradictory, vocabularies differ, or layers or config are impossible.
        DataError: a model does not load, or the teacher finishes no answer.
    """
    kd = DistillConfig(method, temperature, cross_entropy_weight, hidden_weight, cached_draws, max_new_tokens)
    recipe = longer(data_tokens.settled(checked(recipe, config, kd), train, base), extra_tokens)
    objects, records = open_store(store), examples.read(train)
    check_questions(records, method)
    run = identity(recipe, kd, teacher, base, train, layers, config)
    accelerator = sharding.group(recipe)
    network, tokenizer = build_student(base, layers, config, recipe)
    clock = TrainingClock(objects, run)  # from here on, as work that both arms need does not count
    began = time.process_time()
    guide = None if method == "none" else load_teacher(teacher, recipe, clock, accelerator.device)
    prepared_cpu_seconds = time.process_time() - began
    adapted = adapters.adapt(network, recipe, accelerator.device)
    completion_loss = CompletionLoss(adapted)
    began = time.process_time()
    with accelerator.main_process_first():  # the others then find its result in the store
        loss, data, facts = teach(kd, guide, completion_loss, tokenizer, records, recipe, objects, run, clock)
    cpu_seconds = prepared_cpu_seconds + time.process_time() - began
    with held(objects, run) if accelerator.is_main_process else nullcontext() as lease:
        checkpoints = Checkpoints(objects, run, recipe.keep_checkpoints, lease)
        outcome = loop.train(loss, data, recipe, accelerator, checkpoints, clock.commit)
    trained = describe(adapted, outcome, run, data) | {
        **sampling.score(completion_loss, valid, tokenizer, recipe),
        "train_cpu_seconds": round(cpu_seconds + outcome.train_cpu_seconds, 3),
    }
    whole = models.merge(adapted) if isinstance(adapted, PeftModel) else adapted
    if accelerator.is_main_process:
        models.save(whole, tokenizer, base, model, models.stored_dtype(base))
        prompt = render_prompt(records[0], tokenizer) if guide else []
        facts |= finish(guide, whole, prompt, outcome, clock.committed, curve, worth_tokens)
        facts |= weight_bytes({"student_bytes": model} | ({"teacher_bytes": teacher} if guide else {}))
    return Verdict("distill", "off", "no teacher").facts() | {"method": method} | facts | trained


def build_student(
    base: Path, layers: str, config: dict[str, Any], recipe: Recipe
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Build the student from ``base``, with random weights if so set; raises the errors of ``distill``."""
    original, tokenizer = models.load_base(base)
    network = student.build(original, layers, config, recipe.seed)
    if recipe.initial == "random":
        network = student.from_config(network.config, {}, recipe.seed)
    packing.check_seq_len(recipe, network)
    return network, tokenizer


def checked(recipe: Recipe, config: dict[str, Any], kd: DistillConfig) -> Recipe:
    """Return the recipe if it can train a student, else raise ValueError.

    Cached samples and written answers belong to whole examples, so they exclude sharing prefixes. Writing
    meets a new length at each token, and torch.compile would compile for each.
    """
    if config and recipe.method == "lora":
        raise ValueError("recipe.method lora over a config's random weights trains little: set it to full")
    if recipe.strategy in SHARDED or recipe.base_precision == "nf4":
        raise ValueError(
            f"recipe.strategy {recipe.strategy}, recipe.base_precision {recipe.base_precision}: a student is "
            "small, so it is neither sharded nor quantized to 4 bits; leave them out"
        )
    if recipe.budget_seconds:
        raise ValueError(
            f"recipe.budget_seconds {recipe.budget_seconds}: a student is trained on all of its tokens: "
            "lower recipe.budget_tokens instead"
        )
    if kd.method == "on-policy" and recipe.compile == "on":
        raise ValueError(
            "recipe.compile on with method on-policy, whose answers have any length: leave it out"
        )
    if kd.method == "on-policy":
        recipe = msgspec.structs.replace(recipe, compile="off")
    whole = kd.method == "on-policy" or kd.cached_draws
    return msgspec.structs.replace(recipe, share_prefixes="off") if whole else recipe


def load_teacher(folder: Path, recipe: Recipe, clock: TrainingClock, device: torch.device) -> Teacher:
    """Load the teacher on the device, in the recipe's compute precision."""
    with clock.teacher(0):
        network, tokenizer = models.load_base(folder)
        network.to(device=device, dtype=models.resolve_precision(recipe.precision, device))
    packing.check_seq_len(recipe, network)
    return Teacher(network, tokenizer, clock.teacher)


def teach(
    kd: DistillConfig,
    guide: Teacher | None,
    completion_loss: CompletionLoss,
    tokenizer: PreTrainedTokenizerBase,
    records: list[Example],
    recipe: Recipe,
    objects: Store,
    run: str,
    clock: TrainingClock,
) -> tuple[nn.Module, list[Rendered], Facts]:
    """Prepare the loss; return (loss, examples to train on, facts of the preparation)."""
    if guide and kd.compares:
        student.check_vocabulary(guide.tokenizer, tokenizer)
    if guide and kd.method == "sequence":
        written = teacher_outputs.answers(
            guide, records, kd.max_new_tokens, objects, f"trainings/{run}/answers"
        )
        data = teacher_outputs.fitting(written, tokenizer, recipe.seq_len)
        return (
            completion_loss,
            data,
            {"teacher_answers": len(data), "dropped_answers": len(records) - len(data)},
        )
    data = scoring.render_all(records, tokenizer)
    if not guide:
        return completion_loss, data, {}
    facts: Facts = {}
    kd_loss: Online | Cached
    if kd.cached_draws:
        drawn, facts["cache_bytes"] = teacher_outputs.draws(
            guide, data, kd, recipe, objects, f"trainings/{run}/draws"
        )
        kd_loss = Cached(drawn, kd.temperature)
    else:
        torch.manual_seed(recipe.seed)  # for the projection's initialization
        kd_loss = Online(
            guide, completion_loss.model, DIVERGENCES[kd.method], kd.temperature, kd.hidden_weight
        )
        if kd.method == "on-policy":
            asked = (kd.cross_entropy_weight, kd.max_new_tokens, clock.writing)
            return OnPolicyLoss(completion_loss, kd_loss, tokenizer, *asked), data, facts
    return (
        DistillationLoss(completion_loss, kd_loss, len(tokenizer), kd.cross_entropy_weight),
        data,
        facts,
    )


def finish(
    guide: Teacher | None,
    whole: PreTrainedModel,
    prompt: list[int],
    outcome: loop.TrainingOutcome,
    costs: Costs,
    curve: Path,
    worth_tokens: Path,
) -> Facts:
    """Write the loss curve and worth_tokens; return the costs of training and serving."""
    with files.staged(curve) as staging:
        staging.write_text("".join(json.dumps(record) + "\n" for record in outcome.progress.curve))
    with files.staged(worth_tokens) as staging:
        staging.write_text(str(costs.worth_tokens()))
    if guide is None:
        return charge(costs)
    return charge(costs) | serve(guide, whole, prompt, costs)


def charge(costs: Costs) -> Facts:
    """Return the cost of training and the teacher's part in it, over all attempts."""
    return {
        "distill_seconds": round(costs.seconds, 3),
        "teacher_seconds": round(costs.teacher_seconds, 3),
        "teacher_tokens": costs.teacher_tokens,
        "writing_seconds": round(costs.writing_seconds, 3),
        "worth_tokens": costs.worth_tokens(),
    }


def serve(guide: Teacher, whole: PreTrainedModel, prompt: list[int], costs: Costs) -> Facts:
    """Measure the cost of a served token for both models, and when the student pays back its training."""
    whole.to(device=guide.model.device, dtype=guide.model.dtype)
    eos = guide.tokenizer.eos_token_id
    teacher_ms, student_ms = serving.ms_per_token([guide.model, whole], prompt, eos)
    tokens = serving.break_even_tokens(costs.seconds, teacher_ms, student_ms)
    pays = f"if accepted, pays after {tokens:,} served tokens" if tokens else "never pays: no faster to serve"
    return {
        **Verdict("distill", "applied", pays).facts(),
        "teacher_precision": str(guide.model.dtype).removeprefix("torch."),
        "teacher_ms_per_token": teacher_ms,
        "student_ms_per_token": student_ms,
        "break_even_served_tokens": tokens,
    }


def describe(network: nn.Module, outcome: loop.TrainingOutcome, run: str, data: Sequence[Rendered]) -> Facts:
    """Return how far the student's training went, and how much of it this attempt did."""
    progress = outcome.progress
    weights, trained = models.count_weights(network)
    return {
        "training_id": run,
        "tokens": progress.tokens - outcome.resumed_tokens,
        "total_tokens": progress.tokens,
        "data_tokens": data_tokens.of(data),
        "answer_tokens": progress.answer_tokens,
        "steps": progress.step,
        "resumed_at_step": outcome.resumed_at_step,
        "last_loss": progress.curve[-1]["loss"],
        **outcome.sharing.facts(),
        "shared_tokens": progress.shared_tokens,
        "computed_tokens": progress.computed_tokens,
        "train_seconds": round(outcome.train_seconds, 3),
        "weights": weights,
        "trained_share": trained / weights,
    }


def weight_bytes(folders: dict[str, Path]) -> Facts:
    """Count the bytes of the weights as stored, for each folder."""
    return {
        name: sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        for name, folder in folders.items()
    }


if __name__ == "__main__":
    cli.main(distill)
